"""PlantVillage: leaves of 14 crops, healthy and with diseases.

Hughes, Salathé: An open access repository of images on plant health, 2015.
"""

from pathlib import Path

from fgjax.data.registry import DataSet
from fgjax.data.sets.folder import FolderSource
from fgjax.data.types import DataError

HOME = (
    "wanted: the folder of class folders Apple___Apple_scab, …, or one above it with raw/color "
    "or color; get PlantVillage at https://github.com/spMohanty/PlantVillage-Dataset"
)
BELOW = ("raw/color", "color", "PlantVillage-Dataset/raw/color", "plantvillage dataset/color",
         "PlantVillage")  # fmt: skip


class PlantVillageSource(FolderSource):
    """The colour photographs; a class is crop and disease.

    The set has no official split: each class is split by a hash of its file names. A leaf was
    often photographed several times, so that test images have near twins in training.

    Args:
      path: the folder, or one above it.
      size, crop: how images are fitted, see `fgjax.data.images.Fit`.
      test_share, seed: as of `FolderSource`.

    Raises:
      DataError: the folder is missing or holds no class folders of that form.
    """

    def __init__(
        self,
        path: str | Path,
        size: int = 224,
        crop: float = 0.875,
        test_share: float = 0.5,
        seed: int = 0,
    ):
        path = Path(path)
        if not path.exists():
            raise DataError(f"{path}: no such folder; {HOME}")
        if not path.is_dir():
            raise DataError(f"{path}: is a file (an archive? unpack it first); {HOME}")
        roots = [path / name for name in BELOW if (path / name).is_dir()]
        super().__init__((roots or [path])[0], size, crop, test_share=test_share, seed=seed)
        if not any("___" in name for name in self.classes):
            raise DataError(f"{path}: none of its folders is called CROP___DISEASE; {HOME}")


PLANTVILLAGE = DataSet(
    "plantvillage",
    PlantVillageSource,
    HOME,
    options={"test_share": "data.test_share", "seed": "seed"},
    order=130,
)
