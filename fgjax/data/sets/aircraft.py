"""FGVC-Aircraft in its official layout.

Maji, Rahtu, Kannala, Blaschko, Vedaldi: Fine-Grained Visual Classification of
Aircraft, arXiv:1306.5151 (2013).
"""

from collections.abc import Collection
from pathlib import Path

from fgjax.data.fit import Fit
from fgjax.data.images import MIN_SIDE, read_image
from fgjax.data.index import (
    check_same,
    find_root,
    inclusive_box,
    inside,
    lines,
    numbers,
    read_table,
    rows,
)
from fgjax.data.registry import DataSet
from fgjax.data.types import SPLITS, DataError, Example, Record

HOME = (
    "wanted: the folder fgvc-aircraft-2013b, or its data/ (the one with images_box.txt); "
    "get FGVC-Aircraft at https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"
)
BANNER = 20
_NAMES = {"variant": "variants", "family": "families", "manufacturer": "manufacturers"}


class AircraftSource:
    """100 variants, 70 families or 30 manufacturers with official split and boxes.

        data/images/0034309.jpg
        data/images_variant_trainval.txt, data/images_variant_test.txt    0034309 737-700
        data/variants.txt                                                 737-700
        data/images_box.txt                                   0034309 x1 y1 x2 y2

    with `family` and `families.txt`, `manufacturer` and `manufacturers.txt` alike. The
    lowest 20 rows of every image hold a copyright banner; they are cut off before
    anything else, which moves no box. The authors' training and validation images
    (trainval) train. Boxes are x1 y1 x2 y2, the first and last pixel counted from 1;
    here they become edges (x1 − 1, y1 − 1, x2, y2). Record names are the file names.

    Args:
      path: the folder `fgvc-aircraft-2013b`, its `data/`, or the one that contains it.
      size, crop: how images are fitted, see `fgjax.data.images.Fit`.
      level: what the classes are: "variant", "family" or "manufacturer".

    Raises:
      DataError: the folder or an index file is missing, a line is malformed (file,
        line and text are given), a class is not among those named, an image is in
        both splits, or the boxes are not those of the images.
    """

    classes: tuple[str, ...]
    landmark_names: tuple[str, ...] = ()
    records: tuple[Record, ...]

    def __init__(
        self,
        path: str | Path,
        size: int = 224,
        crop: float = 0.875,
        level: str = "variant",
    ):
        if level not in _NAMES:
            raise ValueError(f"level must be one of {', '.join(_NAMES)}, not {level!r}")
        self.fit = Fit(size, crop)
        below = ("data", "fgvc-aircraft-2013b/data")
        root = find_root(path, HOME, "images_box.txt", *below)
        self._images = root / "images"

        self.classes = tuple(name for _, name in lines(root / f"{_NAMES[level]}.txt", HOME))
        label = {name: i for i, name in enumerate(self.classes)}
        records: dict[str, Record] = {}
        for part, split in zip(("trainval", "test"), SPLITS, strict=True):
            file = root / f"images_{level}_{part}.txt"
            for name, class_name in _read_classes(file, label).items():
                if name in records:
                    raise DataError(f"{file}: image {name} is in the other split too")
                records[name] = Record(f"{name}.jpg", label[class_name], split)
        file = root / "images_box.txt"
        boxes = read_table(
            file,
            HOME,
            rows(file, HOME),
            lambda where, rest: inclusive_box(where, numbers(where, rest, 4)),
        )
        of = f"images_{level}_trainval.txt and images_{level}_test.txt"
        check_same(file, boxes, {name: name for name in records}, of)
        self.records = tuple(records.values())
        self.levels = self._levels(root, level)
        self._boxes = {records[name].name: box for name, box in boxes.items()}

    def _levels(self, root: Path, level: str) -> dict[str, tuple[str, ...]]:
        """Return family and manufacturer of every class, as far as their files are there."""
        order = list(_NAMES)
        levels: dict[str, tuple[str, ...]] = {}
        for above in order[order.index(level) + 1 :]:
            group: dict[int, str] = {}
            for part in ("trainval", "test"):
                file = root / f"images_{above}_{part}.txt"
                if not file.is_file():
                    return levels
                known = {name: name for _, name in lines(root / f"{_NAMES[above]}.txt", HOME)}
                named = _read_classes(file, known)
                for record in self.records:
                    name = named.get(record.name.removesuffix(".jpg"))
                    if name is not None and record.label is not None:
                        group[record.label] = name
            if len(group) == len(self.classes):
                levels[above] = tuple(group[c] for c in range(len(self.classes)))
        return levels

    def file(self, record: Record) -> Path:
        """Return the image file of a record."""
        return self._images / record.name

    def load(self, record: Record) -> Example:
        """Decode one image, cuts off the banner, and fits it with its box."""
        image = read_image(self.file(record))
        if len(image) < MIN_SIDE + BANNER:
            raise DataError(
                f"{self.file(record)}: {len(image)} rows are too few for an image with its "
                f"banner of {BANNER}"
            )
        image = image[:-BANNER]
        shape = image.shape[:2]
        box = self.fit.box(self._boxes[record.name], shape)
        return Example(image=self.fit.image(image), label=record.label, box=box, shape=shape)


def _read_classes(path: Path, classes: Collection[str]) -> dict[str, str]:
    def known(where: str, class_name: str) -> str:
        if class_name not in classes:
            raise DataError(f"{where}: class {class_name!r} is not among the {len(classes)} named")
        return class_name

    checked = ((where, inside(where, name, "images/"), of) for where, name, of in rows(path, HOME))
    return read_table(path, HOME, checked, known)


AIRCRAFT = DataSet("aircraft", AircraftSource, HOME, options={"level": "data.level"}, order=60)
