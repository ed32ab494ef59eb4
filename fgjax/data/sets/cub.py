"""CUB-200-2011 in its official layout.

Wah, Branson, Welinder, Perona, Belongie: The Caltech-UCSD Birds-200-2011 Dataset,
California Institute of Technology, CNS-TR-2011-001.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from fgjax.data.fit import Fit
from fgjax.data.images import read_fitted, read_mask
from fgjax.data.index import check_same, find_root, inside, lines, numbers, read_table, some
from fgjax.data.pipeline import take
from fgjax.data.registry import DataSet
from fgjax.data.types import DataError, Example, Record

HOME = (
    "wanted: the folder CUB_200_2011 (the one with images.txt) or the one above it; "
    "get CUB-200-2011 at https://www.vision.caltech.edu/datasets/cub_200_2011/"
)

T = TypeVar("T")

HEAD = ("beak", "crown", "forehead", "left eye", "nape", "right eye", "throat")
"""Those of the 15 parts that are of the head."""


class CubSource:
    """Birds with official split, boxes, 15 landmarks, and masks where they are there.

    Reads `images.txt`, `image_class_labels.txt`, `train_test_split.txt`,
    `bounding_boxes.txt`, `classes.txt`, `parts/parts.txt` and `parts/part_locs.txt`;
    images lie under `images/`. The authors' masks are used when their folder
    `segmentations/` lies inside the data set's folder or beside it; 128 and above
    is bird. Boxes (x, y, width, height) and landmarks are taken as continuous pixel
    coordinates of the raw image, as they are. Record names are the paths under
    `images/`. Any subset of the set in the same layout can be read.

    Args:
      path: the folder `CUB_200_2011`, or the one that contains it.
      size, crop: how images are fitted, see `fgjax.data.images.Fit`.
      limit: at most so many images of each split, spread evenly over the classes.

    Raises:
      DataError: a folder or index file is missing, a line is malformed (file, line
        and text are given), the files disagree about the images, a class or part is
        unknown, or an image path leads out of `images/`.
    """

    classes: tuple[str, ...]
    landmark_names: tuple[str, ...]
    landmark_groups: dict[str, tuple[str, ...]]
    """Landmarks that are also looked at together."""
    records: tuple[Record, ...]

    def __init__(
        self, path: str | Path, size: int = 224, crop: float = 0.875, limit: int | None = None
    ):
        self.fit = Fit(size, crop)
        root = find_root(path, HOME, "images.txt", "CUB_200_2011")
        self._images = root / "images"
        self._masks = _find_masks(root)

        class_names = _read_names(root / "classes.txt")
        part_names = _read_names(root / "parts" / "parts.txt")
        names = _read_image_names(root / "images.txt")
        labels = _read_table(root / "image_class_labels.txt", _one_of(class_names, "class"))
        train = _read_table(root / "train_test_split.txt", _zero_or_one)
        boxes = _read_table(root / "bounding_boxes.txt", _box)
        for file, ids in (
            ("image_class_labels.txt", labels),
            ("train_test_split.txt", train),
            ("bounding_boxes.txt", boxes),
        ):
            check_same(root / file, ids, names, "images.txt", "image numbers")

        self.classes = tuple(class_names.values())
        self.landmark_names = tuple(part_names.values())
        head = tuple(name for name in HEAD if name in self.landmark_names)
        self.landmark_groups = {"head": head} if head else {}
        landmarks = _read_landmarks(root / "parts" / "part_locs.txt", names, part_names)
        position = {class_id: i for i, class_id in enumerate(class_names)}
        self.records = take(
            [
                Record(name, position[labels[i]], "train" if train[i] else "test")
                for i, name in names.items()
            ],
            limit,
        )
        self._annotations = {name: (boxes[i], landmarks[i]) for i, name in names.items()}

    def file(self, record: Record) -> Path:
        """Return the image file of a record."""
        return self._images / record.name

    def beside(self, record: Record) -> list[Path]:
        """Return the file of a record's segmentation, where it is there."""
        mask = self._masks and (self._masks / record.name).with_suffix(".png")
        return [mask] if mask and mask.exists() else []

    def load(self, record: Record) -> Example:
        """Decode and fits one image with its annotations."""
        image, shape = read_fitted(self.file(record), self.fit)
        box, landmarks = self._annotations[record.name]
        mask = None
        if self._masks is not None:
            mask_file = (self._masks / record.name).with_suffix(".png")
            if mask_file.exists():
                mask = self.fit.mask(read_mask(mask_file, shape))
        return Example(
            image=image,
            label=record.label,
            box=self.fit.box(box, shape),
            mask=mask,
            landmarks=self.fit.landmarks(landmarks, shape),
            shape=shape,
        )


def _find_masks(root: Path) -> Path | None:
    for folder in (root / "segmentations", root.parent / "segmentations"):
        if folder.is_dir():
            return folder
    return None


def _rows(path: Path) -> Iterator[tuple[str, int, str]]:
    """Yield where (for messages), id and the rest of each line `<id> <rest>`."""
    for where, line in lines(path, HOME):
        first, _, rest = line.partition(" ")
        if not (first.isascii() and first.isdigit() and len(first) < 10 and rest.strip()):
            raise DataError(f"{where} should be a number, a space and a value")
        yield where, int(first), rest.strip()


def _read_table(path: Path, parse: Callable[[str, str], T]) -> dict[int, T]:
    return read_table(path, HOME, _rows(path), parse)


def _read_names(path: Path) -> dict[int, str]:
    return _read_table(path, lambda where, rest: rest)


def _read_image_names(path: Path) -> dict[int, str]:
    names = _read_table(path, lambda where, rest: inside(where, rest, "images/"))
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise DataError(f"{path}: names images twice: {some(twice)}")
    return names


def _zero_or_one(where: str, rest: str) -> bool:
    if rest not in ("0", "1"):
        raise DataError(f"{where} should end in 1 (train) or 0 (test)")
    return rest == "1"


def _one_of(names: Collection[int], what: str) -> Callable[[str, str], int]:
    def parse(where: str, rest: str) -> int:
        digits = rest.isascii() and rest.isdigit() and len(rest) < 10
        if not (digits and int(rest) in names):
            low, high = min(names), max(names)
            raise DataError(
                f"{where}: {what} {rest[:20]} is out of range ({low} to {high} are named)"
            )
        return int(rest)

    return parse


def _box(where: str, rest: str) -> Float[np.ndarray, "4"]:
    x, y, width, height = numbers(where, rest, 4)
    if width <= 0 or height <= 0:
        raise DataError(f"{where}: a box (x y width height) needs a positive width and height")
    return np.array([x, y, x + width, y + height])


def _read_landmarks(
    path: Path, names: dict[int, str], parts: dict[int, str]
) -> dict[int, Float[np.ndarray, "parts 3"]]:
    """Return lines `<image id> <part id> <x> <y> <visible>`, every part of every image once."""
    position = {part: i for i, part in enumerate(parts)}
    parse_part = _one_of(parts, "part")
    landmarks = {i: np.full((len(parts), 3), np.nan) for i in names}
    strangers = set()
    for where, image_id, rest in _rows(path):
        part, _, rest = rest.partition(" ")
        part_id = parse_part(where, part)
        x, y, visible = numbers(where, rest, 3)
        if visible not in (0, 1):
            raise DataError(f"{where} should end in 1 (visible) or 0")
        if image_id not in landmarks:
            strangers.add(image_id)
            continue
        row = landmarks[image_id][position[part_id]]
        if not np.isnan(row[2]):
            raise DataError(f"{where} gives part {part_id} of image {image_id} a second time")
        row[:] = x, y, visible
    complete = {i for i, rows in landmarks.items() if not np.isnan(rows).any()}
    keys = [*complete, *sorted(strangers)]
    check_same(path, keys, names, "images.txt", "image numbers")
    return landmarks


CUB = DataSet("cub", CubSource, HOME, order=30)
