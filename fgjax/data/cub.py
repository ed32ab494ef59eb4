"""CUB-200-2011 in its official layout.

Wah, Branson, Welinder, Perona, Belongie: The Caltech-UCSD Birds-200-2011 Dataset,
California Institute of Technology, CNS-TR-2011-001.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from fgjax.data.images import Fit, read_image, read_mask
from fgjax.data.labels import read_text
from fgjax.data.pipeline import take
from fgjax.data.types import DataError, Example, Record

HOMEPAGE = "https://www.vision.caltech.edu/datasets/cub_200_2011/"

T = TypeVar("T")


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
    records: tuple[Record, ...]

    def __init__(
        self, path: str | Path, size: int = 224, crop: float = 0.875, limit: int | None = None
    ):
        self.fit = Fit(size, crop)
        root = _find_root(Path(path))
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
            _check_ids(root / file, ids, names)

        self.classes = tuple(class_names.values())
        self.landmark_names = tuple(part_names.values())
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
        """The image file of a record."""
        return self._images / record.name

    def load(self, record: Record) -> Example:
        """Decodes and fits one image with its annotations."""
        image = read_image(self.file(record))
        shape = image.shape[:2]
        box, landmarks = self._annotations[record.name]
        mask = None
        if self._masks is not None:
            mask_file = (self._masks / record.name).with_suffix(".png")
            if mask_file.exists():
                mask = self.fit.mask(read_mask(mask_file, shape))
        return Example(
            image=self.fit.image(image),
            label=record.label,
            box=self.fit.box(box, shape),
            mask=mask,
            landmarks=self.fit.landmarks(landmarks, shape),
        )


def _find_root(path: Path) -> Path:
    wanted = "data.path wants the folder CUB_200_2011 (the one with images.txt) or the one above it"
    if not path.exists():
        raise DataError(f"{path}: no such folder; get CUB-200-2011 from {HOMEPAGE}; {wanted}")
    if not path.is_dir():
        raise DataError(f"{path}: is a file (an archive? unpack it first); {wanted}")
    for root in (path, path / "CUB_200_2011"):
        if (root / "images.txt").is_file():
            return root
    raise DataError(f"{path}: holds no images.txt; {wanted}; the set is at {HOMEPAGE}")


def _find_masks(root: Path) -> Path | None:
    for folder in (root / "segmentations", root.parent / "segmentations"):
        if folder.is_dir():
            return folder
    return None


def _rows(path: Path) -> Iterator[tuple[str, int, str]]:
    """Where (for messages), id and the rest of each line `<id> <rest>`."""
    if not path.is_file():
        raise DataError(
            f"{path}: this index file of CUB-200-2011 is missing; "
            f"unpack the archive of {HOMEPAGE} anew"
        )
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}: {line!r}"
        first, _, rest = line.strip().partition(" ")
        if not (first.isascii() and first.isdigit() and rest.strip()):
            raise DataError(f"{where} should be a number, a space and a value")
        yield where, int(first), rest.strip()


def _read_table(path: Path, parse: Callable[[str, str], T]) -> dict[int, T]:
    table = {}
    for where, key, rest in _rows(path):
        if key in table:
            raise DataError(f"{where} gives number {key} a second time")
        table[key] = parse(where, rest)
    if not table:
        raise DataError(f"{path}: the file is empty; unpack the archive of {HOMEPAGE} anew")
    return table


def _read_names(path: Path) -> dict[int, str]:
    return _read_table(path, lambda where, rest: rest)


def _read_image_names(path: Path) -> dict[int, str]:
    names = _read_table(path, _relative_path)
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise DataError(f"{path}: names images twice: {_some(twice)}")
    return names


def _relative_path(where: str, rest: str) -> str:
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(rest)
        if path.anchor or ".." in path.parts:
            raise DataError(f"{where} leads out of the folder images/; it is refused")
    return rest


def _zero_or_one(where: str, rest: str) -> bool:
    if rest not in ("0", "1"):
        raise DataError(f"{where} should end in 1 (train) or 0 (test)")
    return rest == "1"


def _one_of(names: Collection[int], what: str) -> Callable[[str, str], int]:
    def parse(where: str, rest: str) -> int:
        if not (rest.isascii() and rest.isdigit() and int(rest) in names):
            low, high = min(names), max(names)
            raise DataError(f"{where}: {what} {rest} is out of range ({low} to {high} are named)")
        return int(rest)

    return parse


def _numbers(where: str, rest: str, count: int) -> list[float]:
    try:
        values = [float(word) for word in rest.split()]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise DataError(f"{where} should hold {count} numbers after the first")
    return values


def _box(where: str, rest: str) -> Float[np.ndarray, "4"]:
    x, y, width, height = _numbers(where, rest, 4)
    if width <= 0 or height <= 0:
        raise DataError(f"{where}: a box (x y width height) needs a positive width and height")
    return np.array([x, y, x + width, y + height])


def _read_landmarks(
    path: Path, names: dict[int, str], parts: dict[int, str]
) -> dict[int, Float[np.ndarray, "parts 3"]]:
    """Lines `<image id> <part id> <x> <y> <visible>`, every part of every image once."""
    position = {part: i for i, part in enumerate(parts)}
    parse_part = _one_of(parts, "part")
    landmarks = {i: np.full((len(parts), 3), np.nan) for i in names}
    strangers = set()
    for where, image_id, rest in _rows(path):
        part, _, rest = rest.partition(" ")
        part_id = parse_part(where, part)
        x, y, visible = _numbers(where, rest, 3)
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
    _check_ids(path, complete | strangers, names)
    return landmarks


def _check_ids(path: Path, ids: Collection[int], names: dict[int, str]) -> None:
    missing = [name for i, name in names.items() if i not in ids]
    if missing:
        raise DataError(
            f"{path}: lines are missing for {len(missing)} images of images.txt: {_some(missing)}"
        )
    unknown = sorted(i for i in ids if i not in names)
    if unknown:
        raise DataError(
            f"{path}: has {len(unknown)} image numbers that images.txt has not: "
            f"{_some([str(i) for i in unknown])}"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
