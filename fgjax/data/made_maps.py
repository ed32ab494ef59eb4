"""Heat maps that were made elsewhere: a file for every image, or one for all."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fgjax.data.fit import Fit
from fgjax.data.images import read_image
from fgjax.data.index import some
from fgjax.data.types import DataError

ENDINGS = (".npy", ".png")


class MadeMaps:
    """The maps of some images, of any range, as another tool left them.

    Args:
      path: a folder with a file `<image path without its ending>.npy` or `.png` for every image, in
        the images' class folders or without them; or one .npy file, n h w, in the images' order.
        A .npy is h w; a .png is grey, its white is 1.
      names: of the images, in their order.
      size: side of the images that the model sees. A map is of that size; or of the size of its
        image's file, and then it is resized and cropped as the image is.
      fit: how the images are fitted; None: they are drawn, nothing was fitted.

    Raises:
      DataError: there is no such folder or file, some images have no map, or the one file does
        not hold a map for each.
    """

    def __init__(self, path: str | Path, names: Sequence[str], size: int, fit: Fit | None = None):
        self.path, self._names, self._size, self._fit = Path(path), tuple(names), size, fit
        self._all: np.ndarray | None = None
        if not self.path.exists():
            raise DataError(f"{path}: no such folder or file of maps")
        if self.path.is_file():
            self._all = self._stack()
        else:
            stems = [Path(name).stem for name in names]
            twice = {stem for stem in stems if stems.count(stem) > 1}
            self._files = [self._file(name, twice) for name in names]
            missing = [n for n, file in zip(names, self._files, strict=True) if file is None]
            if missing:
                stem = Path(missing[0]).with_suffix("")
                raise DataError(
                    f"{path}: no map for {len(missing)} of {len(names)} images ({some(missing)}); "
                    f"each wants one of its name there, such as {stem}.npy or {stem}.png"
                )

    def _stack(self) -> np.ndarray:
        if self.path.suffix.lower() != ".npy":
            raise DataError(f"{self.path}: maps are a folder, or one .npy file of n h w numbers")
        maps = _load(self.path)
        if maps.ndim != 3 or len(maps) != len(self._names):
            raise DataError(
                f"{self.path}: holds an array of shape {maps.shape}, wanted ({len(self._names)}, "
                "h, w): a map for each image, in their order, which begins with "
                f"{some(self._names)}"
            )
        return maps

    def _file(self, name: str, twice: set[str]) -> Path | None:
        """Return the file of an image's map. In no class folder only where that tells images
        apart."""
        stem = Path(name).stem
        for place in [Path(name).with_suffix("")] + ([] if stem in twice else [Path(stem)]):
            for ending in ENDINGS:
                file = self.path / f"{place}{ending}"
                if file.is_file():
                    return file
        return None

    def read(self, index: int, shape: tuple[int, int] | None = None) -> Float[np.ndarray, "h w"]:
        """Return the map of an image, fitted as the image is, in its own range.

        Args:
          index: of the image.
          shape: height and width of the image's file, where there is one.

        Raises:
          DataError: it cannot be read, or is of another size.
        """
        where = f"{self.path}, map {index}"
        if self._all is not None:
            values = np.asarray(self._all[index])
        else:
            where = str(self._files[index])
            values = _load(where) if where.endswith(".npy") else _grey(where)
        if values.ndim != 2 or not np.issubdtype(values.dtype, np.number):
            raise DataError(f"{where}: a map is h w numbers; this is {values.dtype} {values.shape}")
        if np.iscomplexobj(values):
            raise DataError(f"{where}: a map is of real numbers, not of complex ones")
        values = values.astype(np.float32)
        if values.shape == (self._size, self._size):
            return values
        if shape is not None and values.shape == tuple(shape) and self._fit is not None:
            return self._fit.map(values)
        wanted = f"{self._size} x {self._size}, what the model sees"
        if shape is not None and self._fit is not None:
            wanted += f", or {shape[1]} x {shape[0]}, the image file's"
        raise DataError(
            f"{where}: the map of {self._names[index]} is {values.shape[1]} x {values.shape[0]} "
            f"pixels, wanted {wanted}: enlarge it there"
        )


def _load(path: str | Path) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not readable as a .npy file ({error})") from None
    if not isinstance(found, np.ndarray):
        raise DataError(f"{path}: an archive of arrays; a .npy file of one array is wanted")
    return found


def _grey(path: str | Path) -> Float[np.ndarray, "h w"]:
    pixels = read_image(path)
    if (pixels.max(-1) != pixels.min(-1)).any():
        raise DataError(
            f"{path}: a coloured picture; a map is grey, black for 0 and white for 1 (save the "
            "numbers before they are coloured)"
        )
    return pixels[..., 0].astype(np.float32) / 255
