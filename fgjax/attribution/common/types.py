"""What every attribution method returns."""

from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float

from fgjax.core.saved_maps import read_saved, save_maps


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
        arrays = {"heatmap": self.heatmap}
        arrays |= {f"maps/{name}": value for name, value in self.maps.items()}
        arrays |= {f"traces/{name}": value for name, value in self.traces.items()}
        return save_maps(Path(folder), {name: np.asarray(value) for name, value in arrays.items()})

    @classmethod
    def load(cls, folder: str | Path) -> "Attribution":
        """Return what `save` wrote to a folder.

        Raises:
          ValueError: the folder holds no attribution, or a damaged one.
        """
        arrays = {name: jax.numpy.asarray(value) for name, value in read_saved(folder).items()}
        heatmap = arrays.pop("heatmap")
        groups: dict[str, dict[str, Array]] = {"maps": {}, "traces": {}}
        for name, value in arrays.items():
            group, _, own = name.partition("/")
            groups[group][own] = value
        return cls(heatmap, **groups)
