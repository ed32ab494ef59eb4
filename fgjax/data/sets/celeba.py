"""CelebA in its official layout.

Liu, Luo, Wang, Tang: Deep Learning Face Attributes in the Wild, ICCV 2015.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from fgjax.data.fit import Fit
from fgjax.data.images import read_fitted
from fgjax.data.index import check_same, find_folder, find_root, inside, lines, numbers, read_table
from fgjax.data.index import rows as read_rows
from fgjax.data.registry import DataSet
from fgjax.data.types import DataError, Example, Record

HOME = (
    "wanted: the folder with img_align_celeba/, list_attr_celeba.txt, "
    "list_eval_partition.txt and list_landmarks_align_celeba.txt, or with Img/, Anno/ and Eval/ "
    "that hold them; get CelebA at https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
)

SCOPS_HOME = (
    "wanted beside CelebA's own files: MAFL/celebA_training.txt, MAFL/training.txt, "
    "MAFL/testing.txt and list_imsize_celeba.txt of SCOPS' celeba_data.tar.gz, which its "
    "download_CelebA.sh fetches (https://github.com/NVlabs/SCOPS)"
)
SCOPS_LISTS = ("celebA_training", "training", "testing")
"""Whom the network learns from, whom the landmark regression is fitted on, and the test images."""
SCOPS_SHARE = 0.3
"""Of the photograph that the box of a face has at least."""

ALL_ATTRIBUTES = "all"
"""As `target`: every attribute is an output of its own."""


class CelebaSource:
    """Faces with 40 attributes, official split, and five landmarks or a box.

        img_align_celeba/000001.jpg           or img_celeba/000001.jpg, see `aligned`
        list_attr_celeba.txt                  count; names; 000001.jpg -1 1 1 …
        list_eval_partition.txt               000001.jpg 0    (0 train, 1 val, 2 test)
        list_landmarks_align_celeba.txt       count; names; 000001.jpg x y x y … (5 points)
        list_landmarks_celeba.txt, list_bbox_celeba.txt    for img_celeba: …; x y width height
        identity_CelebA.txt                   000001.jpg 2880 (read when it is there)

    and for `split="scops"`

        MAFL/celebA_training.txt, MAFL/training.txt, MAFL/testing.txt     000001.jpg
        list_imsize_celeba.txt                000001.jpg 687 409 (height and width)

    all in one folder, or in `Img/`, `Anno/` and `Eval/` as the authors' share has them.
    Validation images belong to train, and are marked. The aligned faces have landmarks
    and no boxes: the published boxes belong to the original photographs, `img_celeba`,
    which have their own landmarks and boxes; a box without width or height (there are
    some) is none.
    Landmarks and boxes are taken as continuous pixel coordinates, as they are. Record
    names are the file names. An example has one label, so without `target` there are
    none; `attributes` has all of them.

    Args:
      path: the folder.
      size, crop: how images are fitted, see `fgjax.data.images.Fit`.
      target: an attribute that becomes the label, e.g. "Smiling": the classes are then
        "not Smiling" (0) and "Smiling" (1). "all": the classes are the attributes, and records
        have no label, for several hold at once: `attributes_of` says which.
      aligned: the aligned faces, or the original photographs.
      split: "official", or "scops", that of Hung et al., SCOPS, CVPR 2019: original photographs
        whose face's box has 30 % of the photograph's area or more. Those of celebA_training.txt
        train, those of training.txt (MAFL's) are marked as validation images, on whom landmark
        regressions are fitted, those of testing.txt test; by Huang and Li 45,609, 5,379 and 283.

    Raises:
      ValueError: SCOPS' split of aligned faces.
      DataError: the folder or an index file is missing, a line is malformed (file, line
        and text are given), the files disagree about the images, or there is no such
        attribute.
    """

    classes: tuple[str, ...]
    landmark_names: tuple[str, ...]
    records: tuple[Record, ...]
    attribute_names: tuple[str, ...]
    attributes: Int[np.ndarray, "n_records n_attributes"]
    """1 where the face has the attribute, else 0; rows in the order of `records`."""
    identities: Int[np.ndarray, "n_records"] | None
    """A number per person, in the order of `records`; None without identity_CelebA.txt."""

    def __init__(
        self,
        path: str | Path,
        size: int = 224,
        crop: float = 0.875,
        target: str | None = None,
        aligned: bool = True,
        split: Literal["official", "scops"] = "official",
    ):
        if split == "scops" and aligned:
            raise ValueError(
                "split=scops is of the original photographs, and their faces are not aligned; "
                "data.aligned=false"
            )
        self.fit = Fit(size, crop)
        root = Path(path)
        nested = "Anno/" if (root / "Anno").is_dir() else ""
        root = find_root(root, HOME, f"{nested}list_attr_celeba.txt")
        folder = "img_align_celeba" if aligned else "img_celeba"
        self._images = find_folder(root, HOME, folder, f"Img/{folder}")

        file = root / f"{nested}list_attr_celeba.txt"
        self.attribute_names, attributes = _read_headed(file, _signs)
        names = {name: name for name in attributes}
        self.attributes = np.stack(list(attributes.values()))
        self.classes, labels = (), [None] * len(names)
        if target == ALL_ATTRIBUTES:
            self.classes = self.attribute_names
        elif target is not None:
            if target not in self.attribute_names:
                raise DataError(_no_attribute(file, target, self.attribute_names))
            self.classes = (f"not {target}", target)
            labels = self.attributes[:, self.attribute_names.index(target)].tolist()

        file = root / f"{nested}list_landmarks_{'align_' if aligned else ''}celeba.txt"
        axes, self._landmarks = _read_headed(file, lambda where, rest: numbers(where, rest, 10))
        check_same(file, self._landmarks, names, "list_attr_celeba.txt")
        self.landmark_names = tuple(axis.removesuffix("_x") for axis in axes[::2])

        self._boxes: dict[str, list[float]] = {}
        if not aligned:
            file = root / f"{nested}list_bbox_celeba.txt"
            _, self._boxes = _read_headed(file, lambda where, rest: numbers(where, rest, 4))
            check_same(file, self._boxes, names, "list_attr_celeba.txt")

        if split == "scops":
            parts = _scops_parts(root, nested, names, self._boxes)
        else:
            file = root / ("Eval/list_eval_partition.txt" if nested else "list_eval_partition.txt")
            parts = read_table(file, HOME, read_rows(file, HOME), _part)
            check_same(file, parts, names, "list_attr_celeba.txt")
        self.records = tuple(
            Record(name, label, "test" if parts[name] == 2 else "train", parts[name] == 1)
            for name, label in zip(names, labels, strict=True)
            if name in parts
        )
        kept = [i for i, name in enumerate(names) if name in parts]
        self.attributes = self.attributes[kept]

        self.identities = None
        file = root / f"{nested}identity_CelebA.txt"
        if file.is_file():
            people = read_table(file, HOME, read_rows(file, HOME), _number)
            check_same(file, people, names, "list_attr_celeba.txt")
            people_of = [people[record.name] for record in self.records]
            self.identities = np.array(people_of, np.int32)

    def attributes_of(self, records: Sequence[Record]) -> Int[np.ndarray, "n n_attributes"]:
        """Return the attributes of these images: a row each, 1 where it holds."""
        place = {record.name: i for i, record in enumerate(self.records)}
        return self.attributes[[place[record.name] for record in records]].astype(np.int32)

    def file(self, record: Record) -> Path:
        """Return the image file of a record."""
        return self._images / record.name

    def load(self, record: Record) -> Example:
        """Decode and fits one image with its landmarks, and its box where it has one."""
        image, shape = read_fitted(self.file(record), self.fit)
        points = np.array(self._landmarks[record.name]).reshape(5, 2)
        landmarks = np.concatenate([points, np.ones((5, 1))], axis=1)
        box = _edges(self._boxes.get(record.name))
        return Example(
            image=image,
            label=record.label,
            box=None if box is None else self.fit.box(box, shape),
            landmarks=self.fit.landmarks(landmarks, shape),
            shape=shape,
        )


def _scops_parts(
    root: Path, nested: str, names: Collection[str], boxes: Mapping[str, list[float]]
) -> dict[str, int]:
    """Return 0 (train), 1 (fitted on) or 2 (test) of the photographs of SCOPS' split."""
    file = root / f"{nested}list_imsize_celeba.txt"
    sizes = read_table(
        file,
        SCOPS_HOME,
        (
            (where, name, value)
            for where, name, value in _sized(file)
            if name in names  # sizes of others are of no use
        ),
        lambda where, rest: numbers(where, rest, 2),
    )
    parts: dict[str, int] = {}
    for part, name_of_list in enumerate(SCOPS_LISTS):
        file = root / f"MAFL/{name_of_list}.txt"
        for where, line in lines(file, SCOPS_HOME):
            name = line.split()[0]
            if name not in names:
                raise DataError(f"{where}: list_attr_celeba.txt has no such image")
            if name not in sizes:
                raise DataError(f"{where}: list_imsize_celeba.txt has no such image")
            if name in parts:
                raise DataError(f"{where}: another line, or list of MAFL/, has this image, too")
            parts[name] = part
    large = lambda name: np.prod(boxes[name][2:]) >= SCOPS_SHARE * np.prod(sizes[name])
    return {name: part for name, part in parts.items() if large(name)}


def _sized(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of a table that may begin with a count and a header, as CelebA's do."""
    for where, line in lines(file, SCOPS_HOME):
        name, _, rest = line.partition(" ")
        if rest and name != "image_id":
            yield where, name, rest
        elif not rest and not name.isdecimal():
            raise DataError(f"{where} should be a file name, a height and a width")


def _edges(box: list[float] | None) -> Float[np.ndarray, "4"] | None:
    if box is None:
        return None
    x, y, width, height = box
    return np.array([x, y, x + width, y + height]) if width > 0 and height > 0 else None


def _read_headed(path: Path, parse) -> tuple[tuple[str, ...], dict]:
    """Yield column names and rows of a file that starts with a count and a header line."""
    start = lines(path, HOME)
    where, count = next(start, (f"{path}, line 1: ''", ""))
    if not (count.isascii() and count.isdigit()):
        raise DataError(f"{where} should be the number of images")
    _, header = next(start, ("", ""))
    columns = tuple(word for word in header.split() if word != "image_id")

    def checked():
        for where, line in start:
            name, _, rest = line.partition(" ")
            if len(rest.split()) != len(columns):
                raise DataError(f"{where} should be a file name and {len(columns)} values")
            yield where, inside(where, name, "of images"), rest

    table = read_table(path, HOME, checked(), parse)
    if len(table) != int(count):
        raise DataError(
            f"{path}: line 1 says {count} images but {len(table)} follow; "
            f"is the file cut off? {HOME}"
        )
    return columns, table


def _signs(where: str, rest: str) -> Int[np.ndarray, "n_attributes"]:
    words = rest.split()
    if not {"1", "-1"}.issuperset(words):
        raise DataError(f"{where} should hold 1 or -1 for each attribute")
    return np.array([word == "1" for word in words], np.int8)


def _part(where: str, rest: str) -> int:
    if rest not in ("0", "1", "2"):
        raise DataError(f"{where} should end in 0 (train), 1 (val) or 2 (test)")
    return int(rest)


def _number(where: str, rest: str) -> int:
    if not (rest.isascii() and rest.isdigit()):
        raise DataError(f"{where} should end in the number of a person")
    return int(rest)


def _no_attribute(file: Path, target: str, names: tuple[str, ...]) -> str:
    (near,) = difflib.get_close_matches(target, names, 1, cutoff=0)
    return f"{file}: no attribute {target!r}; did you mean {near!r}? It has {', '.join(names)}"


CELEBA = DataSet(
    "celeba",
    CelebaSource,
    HOME,
    options={"target": "data.attribute", "aligned": "data.aligned", "split": "data.split"},
    order=70,
)
