"""Food-101 in its official layout.

Bossard, Guillaumin, Van Gool: Food-101 – Mining Discriminative Components with Random
Forests, ECCV 2014.
"""

from pathlib import Path

from fgjax.data.fit import Fit
from fgjax.data.images import read_fitted
from fgjax.data.index import find_root, inside, lines
from fgjax.data.registry import DataSet
from fgjax.data.types import DataError, Example, Record

HOME = (
    "wanted: the folder with meta/ and images/ (unpack food-101.tar.gz); "
    "get Food-101 at https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/"
)


class FoodSource:
    """101 dishes with the official split.

        meta/classes.txt                  a class a line
        meta/train.txt, meta/test.txt     apple_pie/1005649, an image a line
        images/apple_pie/1005649.jpg

    Args:
      path: the folder, or the one that holds `food-101`.
      size, crop: how images are fitted, see `fgjax.data.images.Fit`.

    Raises:
      DataError: the folder or a list is missing, a line is of no named class, an image is listed
        twice, or a path leads out of `images/`. On loading: the image is missing or cannot be
        read.
    """

    classes: tuple[str, ...]
    landmark_names: tuple[str, ...] = ()
    records: tuple[Record, ...]

    def __init__(self, path: str | Path, size: int = 224, crop: float = 0.875):
        self.fit = Fit(size, crop)
        self._root = find_root(path, HOME, "meta", "food-101")
        meta = self._root / "meta"
        self.classes = tuple(name for _, name in lines(meta / "classes.txt", HOME))
        label = {name: i for i, name in enumerate(self.classes)}
        records: dict[str, Record] = {}
        for split in ("train", "test"):
            for where, line in lines(meta / f"{split}.txt", HOME):
                name = f"{inside(where, line, 'images/')}.jpg"
                dish = line.partition("/")[0]
                if dish not in label:
                    raise DataError(f"{where}: {dish} is no class of {meta / 'classes.txt'}")
                if name in records:
                    raise DataError(f"{where} is listed a second time")
                records[name] = Record(name, label[dish], split)
        self.records = tuple(records.values())

    def file(self, record: Record) -> Path:
        """Return the image file of a record."""
        return self._root / "images" / record.name

    def load(self, record: Record) -> Example:
        """Decode and fits one image."""
        image, shape = read_fitted(self.file(record), self.fit)
        return Example(image=image, label=record.label, shape=shape)


FOOD = DataSet("food101", FoodSource, HOME, order=90)
