"""CIFAR-100 in its binary version.

Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from pathlib import Path

import numpy as np

from fgjax.data.fit import Fit
from fgjax.data.index import find_root, lines
from fgjax.data.registry import DataSet
from fgjax.data.types import DataError, Example, Record

HOME = (
    "wanted: the folder with train.bin, test.bin and fine_label_names.txt (unpack "
    "cifar-100-binary.tar.gz; the Python version is pickled code and is not read); "
    "get CIFAR-100 at https://www.cs.toronto.edu/~kriz/cifar.html"
)
SIDE = 32
ROW = 2 + 3 * SIDE * SIDE


class CifarSource:
    """100 classes, 50 000 training and 10 000 test images of 32 x 32 pixels.

        train.bin, test.bin       per image: coarse label, fine label, 1024 red, green, blue bytes
        fine_label_names.txt      a name a line

    The fine labels are read. Record names are `train/000012`.

    Args:
      path: the folder, or the one that holds `cifar-100-binary`.
      size, crop: how images are fitted, see `fgjax.data.images.Fit`; all of a 32 px image is
        shown with crop=1.

    Raises:
      DataError: the folder or a file is missing, its size is not a whole number of images, or
        a label has no name.
    """

    classes: tuple[str, ...]
    landmark_names: tuple[str, ...] = ()
    records: tuple[Record, ...]

    def __init__(self, path: str | Path, size: int = 224, crop: float = 0.875):
        self.fit = Fit(size, crop)
        self._root = find_root(path, HOME, "train.bin", "cifar-100-binary")
        names = self._root / "fine_label_names.txt"
        self.classes = tuple(name for _, name in lines(names, HOME))
        self._rows, records = {}, []
        for split in ("train", "test"):
            rows = self._rows[split] = _read(self._root / f"{split}.bin")
            labels = np.asarray(rows[:, 1])
            if len(rows) and labels.max() >= len(self.classes):
                raise DataError(
                    f"{self._root / f'{split}.bin'}: image {labels.argmax()} has label "
                    f"{labels.max()}, but {names} names {len(self.classes)} classes; {HOME}"
                )
            records += [Record(f"{split}/{i:06d}", int(k), split) for i, k in enumerate(labels)]
        self.records = tuple(records)

    def file(self, record: Record) -> Path:
        """Return the file that holds a record."""
        return self._root / f"{record.split}.bin"

    def load(self, record: Record) -> Example:
        """Fits one image."""
        row = self._rows[record.split][int(record.name.rpartition("/")[2])]
        image = np.asarray(row[2:]).reshape(3, SIDE, SIDE).transpose(1, 2, 0)
        fitted = self.fit.image(np.ascontiguousarray(image))
        return Example(image=fitted, label=record.label, shape=(SIDE, SIDE))


def _read(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path}: this file of the set is missing; {HOME}")
    size = path.stat().st_size
    if size == 0 or size % ROW:
        raise DataError(f"{path}: {size} bytes are not images of {ROW}; get it anew; {HOME}")
    return np.memmap(path, np.uint8, "r").reshape(-1, ROW)


CIFAR = DataSet("cifar100", CifarSource, HOME, order=80)
