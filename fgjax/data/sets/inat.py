"""iNaturalist 2017 in its official layout.

Van Horn et al.: The iNaturalist Species Classification and Detection Dataset, CVPR 2018.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fgjax.data.fit import Fit
from fgjax.data.images import read_fitted
from fgjax.data.index import find_root, inside, some
from fgjax.data.labels import read_text
from fgjax.data.registry import DataSet
from fgjax.data.types import SPLITS, DataError, Example, Record

HOME = (
    "wanted: the folder with train2017.json, val2017.json and train_val_images/ (and, for boxes, "
    "train_2017_bboxes.json and val_2017_bboxes.json); "
    "get iNaturalist 2017 at https://github.com/visipedia/inat_comp/tree/master/2017"
)


class InatSource:
    """5,089 species; the authors' validation images are the test split, for the test labels were
    never published.

        train2017.json, val2017.json      images, categories and annotations as COCO has them
        train_2017_bboxes.json, …         boxes of some images (read where they are there)
        train_val_images/Aves/…           the images, at their `file_name`

    Boxes are x, y, width, height in pixels, from the upper left corner. Validation images with
    boxes have one; of several boxes of an image it is the smallest around all. Images of plants
    and fungi have none. Record names are the `file_name`s, classes the categories' names in the
    order of their ids.

    Args:
      path: the folder.
      size, crop: how images are fitted, see `fgjax.data.images.Fit`.

    Raises:
      DataError: the folder or an index file is missing or is no JSON of this kind, an annotation
        is of an unknown image or category, an image has none or two of different categories, or
        a path leads out of the folder. On loading: the image is missing or cannot be read.
    """

    classes: tuple[str, ...]
    landmark_names: tuple[str, ...] = ()
    records: tuple[Record, ...]

    def __init__(self, path: str | Path, size: int = 224, crop: float = 0.875):
        self.fit = Fit(size, crop)
        self._root = find_root(path, HOME, "train2017.json", "inaturalist2017")
        records: dict[str, Record] = {}
        self._boxes: dict[str, np.ndarray] = {}
        categories: dict[int, str] = {}
        for part, split in zip(("train", "val"), SPLITS, strict=True):
            file = self._root / f"{part}2017.json"
            index = _read(file)
            own = _table(file, index, "categories", "name")
            if categories and own != categories:
                raise DataError(f"{file}: its categories are not those of train2017.json; {HOME}")
            categories = dict(sorted(own.items()))
            place = {number: i for i, number in enumerate(categories)}
            names = _table(file, index, "images", "file_name")
            labels = _labels(file, index, names, place)
            for number, name in names.items():
                if name in records:
                    raise DataError(f"{file}: image {name} is listed a second time")
                name = inside(f"{file}: {name!r}", name, "of the set")
                records[name] = Record(name, labels[number], split)
            boxes = self._root / f"{part}_2017_bboxes.json"
            if boxes.is_file():
                self._boxes |= _boxes(boxes, names, records)
        self.classes = tuple(categories.values())
        self.levels = _levels(index, categories)
        self.records = tuple(records.values())

    def file(self, record: Record) -> Path:
        """Return the image file of a record."""
        return self._root / record.name

    def load(self, record: Record) -> Example:
        """Decode and fits one image, with its box where it has one."""
        image, shape = read_fitted(self.file(record), self.fit)
        box = self._boxes.get(record.name)
        return Example(
            image=image,
            label=record.label,
            box=None if box is None else self.fit.box(box, shape),
            shape=shape,
        )


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise DataError(f"{file}: this index file of the set is missing; {HOME}")
    try:
        index = json.loads(read_text(file))
    except ValueError as error:
        raise DataError(f"{file}: cannot be read as JSON ({error}); {HOME}") from None
    if not isinstance(index, dict) or not isinstance(index.get("annotations"), list):
        raise DataError(f"{file}: has no list 'annotations'; {HOME}")
    return index


def _table(file: Path, index: dict[str, Any], kind: str, field: str) -> dict[int, str]:
    """id -> field of the entries of a list."""
    entries = index.get(kind)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{file}: has no list {kind!r}; {HOME}")
    table = {}
    for entry in entries:
        number, value = _field(file, kind, entry, "id"), _field(file, kind, entry, field)
        if number in table:
            raise DataError(f"{file}: {kind} gives id {number} a second time")
        table[number] = str(value)
    return table


def _levels(index: dict[str, Any], categories: dict[int, str]) -> dict[str, tuple[str, ...]]:
    """Return the genus of every species, the first word of its name, and what it belongs to."""
    entries = {entry["id"]: entry for entry in index["categories"]}
    levels = {"genus": tuple(name.split()[0] for name in categories.values() if name.split())}
    above = tuple(entries[number].get("supercategory") for number in categories)
    if all(above):
        levels["supercategory"] = tuple(map(str, above))
    return {name: groups for name, groups in levels.items() if len(groups) == len(categories)}


def _field(file: Path, kind: str, entry: Any, field: str) -> Any:
    if not isinstance(entry, dict) or field not in entry:
        raise DataError(f"{file}: an entry of {kind} has no {field!r}: {str(entry)[:80]}")
    return entry[field]


def _labels(file, index, names, place) -> dict[int, int]:
    labels: dict[int, int] = {}
    for entry in index["annotations"]:
        image = _field(file, "annotations", entry, "image_id")
        category = _field(file, "annotations", entry, "category_id")
        if image not in names:
            raise DataError(f"{file}: an annotation is of image {image}, which is not listed")
        if category not in place:
            raise DataError(f"{file}: image {image} is of category {category}, which is not named")
        if labels.setdefault(image, place[category]) != place[category]:
            raise DataError(f"{file}: image {image} is of two categories")
    missing = [name for number, name in names.items() if number not in labels]
    if missing:
        raise DataError(f"{file}: {len(missing)} images have no annotation: {some(missing)}")
    return labels


def _boxes(file: Path, names: dict[int, str], records) -> dict[str, Float[np.ndarray, "4"]]:
    """Return name -> x0, y0, x1, y1; the smallest box around all of an image."""
    index = _read(file)
    own = _table(file, index, "images", "file_name") if index.get("images") else names
    boxes: dict[str, np.ndarray] = {}
    for entry in index["annotations"]:
        image = _field(file, "annotations", entry, "image_id")
        name = own.get(image, "")
        if name not in records:
            raise DataError(f"{file}: a box is of image {image}, which is not listed")
        box = _edges(file, name, _field(file, "annotations", entry, "bbox"))
        if name in boxes:
            low, high = np.minimum(boxes[name], box), np.maximum(boxes[name], box)
            box = np.concatenate([low[:2], high[2:]])
        boxes[name] = box
    return boxes


def _edges(file: Path, name: str, box: Any) -> Float[np.ndarray, "4"]:
    numbers = box if isinstance(box, list) else []
    if len(numbers) != 4 or not all(
        isinstance(v, int | float) and math.isfinite(v) for v in numbers
    ):
        raise DataError(f"{file}: the box of {name} should be four numbers, not {box}")
    x, y, width, height = numbers
    if width <= 0 or height <= 0:
        raise DataError(f"{file}: the box of {name} needs a positive width and height: {box}")
    return np.array([x, y, x + width, y + height], np.float64)


INAT = DataSet("inat2017", InatSource, HOME, order=110)
