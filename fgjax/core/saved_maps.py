"""Maps in a folder of one's own: every number in one file, and grey pictures to look at."""

from io import BytesIO
from pathlib import Path

import numpy as np

from fgjax.core.files import write_bytes

FILE = "attribution.npz"
"""Where the numbers are."""
ROUNDING = 1e-3
"""How far outside [0, 1] a map may lie and still be a picture."""


def save_maps(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write arrays to a folder, which is made when missing, and those in [0, 1] as pictures, too.

    Args:
      arrays: "heatmap", "maps/ssr", … of shape n h w; "traces/…" of any shape.

    Returns:
      the folder.

    Raises:
      OSError: the folder or a file cannot be written.
    """
    from PIL import Image  # slow to import

    folder.mkdir(parents=True, exist_ok=True)
    out = BytesIO()
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    write_bytes(folder / FILE, out.getvalue())
    for name, values in arrays.items():
        outside = values.min() < -ROUNDING or values.max() > 1 + ROUNDING
        if name.startswith("traces/") or outside:
            continue
        for i, value in enumerate(values):
            grey = np.rint(255 * np.clip(value.astype(np.float32), 0, 1)).astype(np.uint8)
            Image.fromarray(grey).save(folder / f"{name.split('/')[-1]}_{i:04d}.png")
    return folder


def read_saved(folder: str | Path) -> dict[str, np.ndarray]:
    """Return what `save_maps` wrote to a folder.

    Raises:
      ValueError: the folder holds no such file, or a damaged one.
    """
    file = Path(folder) / FILE
    try:
        with np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
        _ = arrays["heatmap"]
    except FileNotFoundError:
        raise ValueError(f"{folder}: no {FILE} here: did result.save write to it?") from None
    except Exception as error:  # zip and NumPy raise anything on damaged files
        raise ValueError(f"{file}: cannot be read ({error}); explain and save again") from error
    return arrays
