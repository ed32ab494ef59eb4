"""The ASL alphabet: photographs of hands that spell letters, as on Kaggle.

Nagaraj: ASL Alphabet, 2018, https://doi.org/10.34740/kaggle/dsv/29550.
"""

from pathlib import Path

from fgjax.data.fit import Fit
from fgjax.data.images import read_fitted
from fgjax.data.index import find_root
from fgjax.data.registry import DataSet
from fgjax.data.sets.folder_tree import SUFFIXES
from fgjax.data.types import DataError, Example, Record

HOME = (
    "wanted: the folder with asl_alphabet_train/ and asl_alphabet_test/ (unpack archive.zip); "
    "get the ASL alphabet at https://www.kaggle.com/datasets/grassknoted/asl-alphabet"
)


class AslSource:
    """29 signs: letters, "del", "nothing" and "space".

        asl_alphabet_train/A/A1.jpg       3000 of each class, frames of one person
        asl_alphabet_test/A_test.jpg      28 images in all, none of "del"

    Either folder may lie once more in one of its own name, as in the archive. Record names are
    the paths below the folder.

    Args:
      path: the folder.
      size, crop: how images are fitted, see `fgjax.data.images.Fit`.

    Raises:
      DataError: a folder is missing or empty, or a test image is called after no class. On
        loading: the image cannot be read.
    """

    classes: tuple[str, ...]
    landmark_names: tuple[str, ...] = ()
    records: tuple[Record, ...]

    def __init__(self, path: str | Path, size: int = 224, crop: float = 0.875):
        self.fit = Fit(size, crop)
        self._root = find_root(path, HOME, "asl_alphabet_train")
        train, test = (_inner(self._root, f"asl_alphabet_{split}") for split in ("train", "test"))
        self.classes = tuple(sorted(p.name for p in train.iterdir() if p.is_dir()))
        if not self.classes:
            raise DataError(f"{train}: holds no class folders; {HOME}")
        label = {name: i for i, name in enumerate(self.classes)}
        records = [
            Record(self._name(file), label[name], "train")
            for name in self.classes
            for file in _images(train / name)
        ]
        for file in _images(test):
            name = file.stem.removesuffix("_test")
            if name not in label:
                raise DataError(f"{file}: is of no class: {name} has no folder in {train}")
            records.append(Record(self._name(file), label[name], "test"))
        self.records = tuple(records)

    def _name(self, file: Path) -> str:
        return file.relative_to(self._root).as_posix()

    def file(self, record: Record) -> Path:
        """Return the image file of a record."""
        return self._root / record.name

    def load(self, record: Record) -> Example:
        """Decode and fits one image."""
        image, shape = read_fitted(self.file(record), self.fit)
        return Example(image=image, label=record.label, shape=shape)


def _inner(root: Path, name: str) -> Path:
    folder = root / name / name if (root / name / name).is_dir() else root / name
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {HOME}")
    return folder


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())


ASL = DataSet("asl", AslSource, HOME, order=120)
