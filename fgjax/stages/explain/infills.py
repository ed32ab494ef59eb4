"""`explain.infill=DIR`: infills that were made elsewhere, a picture for every image.

What a generative network paints where an object was is the infill that the papers wish for. Such
a picture is of the same size as its image, and stands in DIR under the image's name (with any
ending), in its class folder or without it. How to make them: docs/methods/fido.md.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from fgjax.data.images import read_image
from fgjax.data.types import DataError
from fgjax.options.schema import ConfigError
from fgjax.stages.job import Job

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def check_infills(job: Job) -> None:
    """Tell which images have no infill, before anything takes long.

    Raises:
      ConfigError: some have none, or the method takes no infill.
    """
    explain = job.config.explain
    if explain.infills is None:
        return
    if not hasattr(explain.settings, "infill"):
        raise ConfigError(f"explain.infill={explain.infills}: {explain.method} takes no infill")
    folder = Path(explain.infills)
    if not folder.is_dir():
        raise ConfigError(f"explain.infill={folder}: no such folder")
    missing = [r.name for r in job.records if infill_file(folder, r.name) is None]
    if missing:
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise ConfigError(
            f"explain.infill={folder}: no picture for {len(missing)} of {len(job.records)} images "
            f"({some}); each wants one of its name there, such as {Path(missing[0]).stem}.png"
        )


def infill_file(folder: Path, name: str) -> Path | None:
    """Return the picture for the image of that name; None: there is none."""
    for stem in (Path(name).with_suffix(""), Path(Path(name).stem)):
        for ending in ENDINGS:
            for path in (folder / f"{stem}{ending}", folder / f"{stem}{ending.upper()}"):
                if path.is_file():
                    return path
    return None


def read_infills(
    job: Job, names: list[str], shape: tuple[int, ...]
) -> Float[np.ndarray, "n h w 3"]:
    """Return the infills of some images, fitted as the images are, in [0, 1].

    Args:
      names: of the images.
      shape: of the fitted images, n h w 3.

    Raises:
      DataError: a picture cannot be read, or is of another size than its image.
    """
    folder, found = Path(str(job.config.explain.infills)), []
    for name in names:
        path = infill_file(folder, name)
        if path is None:
            raise DataError(f"{folder}: no picture for {name}")
        picture = read_image(path)
        fit = getattr(job.source, "fit", None)
        if fit is not None:
            picture = fit.image(picture)
        if picture.shape != shape[1:]:
            raise DataError(
                f"{path}: of {picture.shape[1]} x {picture.shape[0]} pixels once fitted, its image "
                f"of {shape[2]} x {shape[1]}: an infill is as large as its image"
            )
        found.append(picture.astype(np.float32) / 255)
    return np.stack(found)
