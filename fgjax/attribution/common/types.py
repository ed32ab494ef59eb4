"""What every attribution method returns."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float

FILE = "attribution.npz"
"""Where `Attribution.save` keeps the numbers."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Attribution:
    """Where in each image the evidence for its target lies.

    Attributes:
      heatmap: importance in [0, 1], one value a pixel.
      maps: what else the method made, by name, each `n h w`.
      traces: one number per image and optimisation step, each `n steps`, by name.
    """

    heatmap: Float[Array, "n h w"]
    maps: dict[str, Float[Array, "n h w"]] = field(default_factory=dict)
    traces: dict[str, Float[Array, "n steps"]] = field(default_factory=dict)

    def save(self, folder: str | Path) -> Path:
        """Write the maps to a folder, which is made when missing; `load` reads them again.

        `attribution.npz` has every number ("heatmap", "maps/ssr", "traces/p_kept", …), and
        `heatmap_0000.png`, `ssr_0000.png`, … are grey pictures, one for each image and map in
        [0, 1]. Pictures over the images: `fgjax.show(images, result).savefig(file)`.

        Returns:
          the folder.

        Raises:
          OSError: the folder or a file cannot be written.
        """
        from PIL import Image

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"heatmap": np.asarray(self.heatmap)}
        arrays |= {f"maps/{name}": np.asarray(value) for name, value in self.maps.items()}
        arrays |= {f"traces/{name}": np.asarray(value) for name, value in self.traces.items()}
        draft = folder / f".{os.getpid()}.{FILE}"
        try:
            np.savez_compressed(draft, **arrays)  # type: ignore[arg-type]
            os.replace(draft, folder / FILE)
        finally:
            draft.unlink(missing_ok=True)
        for name, values in arrays.items():
            if name.startswith("traces/") or values.min() < -1e-3 or values.max() > 1 + 1e-3:
                continue
            for i, value in enumerate(values):
                grey = np.rint(255 * np.clip(value.astype(np.float32), 0, 1)).astype(np.uint8)
                Image.fromarray(grey).save(folder / f"{name.split('/')[-1]}_{i:04d}.png")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Attribution":
        """Return what `save` wrote to a folder.

        Raises:
          ValueError: the folder holds no attribution, or a damaged one.
        """
        file = Path(folder) / FILE
        try:
            with np.load(file) as stored:
                arrays = {name: jax.numpy.asarray(stored[name]) for name in stored.files}
            heatmap = arrays.pop("heatmap")
        except FileNotFoundError:
            raise ValueError(f"{folder}: no {FILE} here: did result.save write to it?") from None
        except Exception as error:  # zip and NumPy raise anything on damaged files
            raise ValueError(f"{file}: cannot be read ({error}); explain and save again") from error
        groups: dict[str, dict[str, Array]] = {"maps": {}, "traces": {}}
        for name, value in arrays.items():
            group, _, own = name.partition("/")
            groups[group][own] = value
        return cls(heatmap, **groups)
