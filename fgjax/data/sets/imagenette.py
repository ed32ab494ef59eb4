"""Imagenette: ten easy classes of ImageNet.

Howard: Imagenette, 2019, https://github.com/fastai/imagenette.
"""

from pathlib import Path

from fgjax.data.index import find_root
from fgjax.data.registry import DataSet
from fgjax.data.sets.folder import FolderSource
from fgjax.data.types import DataError

HOME = (
    "wanted: the folder with train/ and val/ of class folders n01440764, … (unpack "
    "imagenette2.tgz, imagenette2-320.tgz or imagenette2-160.tgz); "
    "get Imagenette at https://github.com/fastai/imagenette"
)
NAMES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


class ImagenetteSource(FolderSource):
    """The folder's `train/` trains, its `val/` is the test; classes are called by their names.

    Args:
      path: the folder, or the one that holds it.
      size, crop: how images are fitted, see `fgjax.data.images.Fit`.

    Raises:
      DataError: the folder is missing or holds other classes.
    """

    def __init__(self, path: str | Path, size: int = 224, crop: float = 0.875):
        below = ("imagenette2", "imagenette2-320", "imagenette2-160")
        root = find_root(path, HOME, "val", *below)
        super().__init__(root, size, crop)
        if unknown := [name for name in self.classes if name not in NAMES]:
            raise DataError(f"{root}: {unknown[0]} is no class of Imagenette; {HOME}")
        self.classes = tuple(NAMES[name] for name in self.classes)


IMAGENETTE = DataSet("imagenette", ImagenetteSource, HOME, order=100)
