"""Stanford Dogs in its official layout.

Khosla, Jayadevaprakash, Yao, Fei-Fei: Novel Dataset for Fine-Grained Image
Categorization, FGVC workshop at CVPR 2011.
"""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float

from fgjax.data.fit import Fit
from fgjax.data.images import read_fitted
from fgjax.data.index import find_folder, find_root, inside, label_of, numbers, read_mat
from fgjax.data.labels import read_text
from fgjax.data.registry import DataSet
from fgjax.data.types import SPLITS, DataError, Example, Record, Split

HOME = (
    "wanted: the folder with train_list.mat, test_list.mat, Images/ and Annotation/ "
    "(unpack lists.tar, images.tar and annotation.tar into it); "
    "get Stanford Dogs at http://vision.stanford.edu/aditya86/ImageNetDogs/"
)


class DogsSource:
    """120 breeds with official split and boxes.

        train_list.mat, test_list.mat           file_list, annotation_list, labels (from 1)
        Images/n02085620-Chihuahua/n02085620_5927.jpg
        Annotation/n02085620-Chihuahua/n02085620_5927     Pascal VOC XML

    `file_list.mat` is the two lists in one and is not read. Where there is no folder
    `Annotation/` no image has a box. In an image of several dogs the box is the
    smallest one around all of them, so that every dog counts as object. Boxes are
    taken as continuous pixel coordinates, as they are: ImageNet's run from 0 to the
    image's width. Class names are the breeds without their WordNet number; record
    names are the paths under `Images/`.

    Args:
      path: the folder with the lists.
      size, crop: how images are fitted, see `fgjax.data.images.Fit`.

    Raises:
      DataError: the folder or a list is missing or damaged, the variables of a list
        do not belong together, a label is out of range or used for two breeds, an
        image is listed twice, or a path leads out of `Images/`. On loading: the image
        or its annotation is missing or cannot be read.
    """

    classes: tuple[str, ...]
    landmark_names: tuple[str, ...] = ()
    records: tuple[Record, ...]

    def __init__(self, path: str | Path, size: int = 224, crop: float = 0.875):
        self.fit = Fit(size, crop)
        root = find_root(path, HOME, "train_list.mat")
        self._images = find_folder(root, HOME, "Images", "images")
        annotations = root / "Annotation"
        self._annotations = annotations if annotations.is_dir() else None

        folders: dict[int, str] = {}
        records: dict[str, Record] = {}
        for split in SPLITS:
            for where, record in _read_list(root / f"{split}_list.mat", split):
                if record.name in records:
                    raise DataError(f"{where} is listed a second time")
                records[record.name] = record
                folder, label = record.name.split("/")[0], record.label
                assert label is not None
                if folders.setdefault(label, folder) != folder:
                    raise DataError(
                        f"{where}: label {label + 1} already stands for {folders[label]}"
                    )
        breeds = [folders.get(label, "") for label in range(len(folders))]
        if "" in breeds:
            raise DataError(
                f"{root}: the lists have {len(folders)} labels, up to {max(folders) + 1}, but none "
                f"of their images has label {breeds.index('') + 1}"
            )
        if len(set(breeds)) < len(breeds):
            raise DataError(f"{root}: the lists give one breed several labels; {HOME}")
        self.classes = tuple(breed.partition("-")[2] for breed in breeds)
        self.records = tuple(records.values())

    def file(self, record: Record) -> Path:
        """Return the image file of a record."""
        return self._images / record.name

    def load(self, record: Record) -> Example:
        """Decode and fits one image with its box."""
        image, shape = read_fitted(self.file(record), self.fit)
        box = None
        if self._annotations is not None:
            box = _read_box((self._annotations / record.name).with_suffix(""))
            box = self.fit.box(box, shape)
        return Example(image=image, label=record.label, box=box, shape=shape)


def _read_list(path: Path, split: Split) -> Iterator[tuple[str, Record]]:
    """Yield where (for messages) and record of each image."""
    files, annotations, labels = read_mat(path, HOME, "file_list", "annotation_list", "labels")
    if not files or not len(files) == len(annotations) == len(labels):
        raise DataError(
            f"{path}: file_list, annotation_list and labels should be of one length, not "
            f"{len(files)}, {len(annotations)} and {len(labels)}; {HOME}"
        )
    for number, (name, annotation, label) in enumerate(
        zip(files, annotations, labels, strict=True), start=1
    ):
        where, name = f"{path}, row {number}: {name!r}", str(name)
        if name.count("/") != 1 or not name.split("/")[0].partition("-")[2]:
            raise DataError(f"{where} should be n02085620-Chihuahua/<image>.jpg")
        if annotation != name.rpartition(".")[0]:
            raise DataError(f"{where} has the annotation of another image, {annotation!r}")
        yield where, Record(inside(where, name, "Images/"), label_of(where, label), split)


def _read_box(path: Path) -> Float[np.ndarray, "4"]:
    """Return the smallest box around all objects of a Pascal VOC annotation."""
    text = read_text(path)
    if "<!DOCTYPE" in text:  # where entities would be declared; no annotation has any
        raise DataError(f"{path}: declares a document type; it is refused")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: is not XML ({error}); get Annotation/ anew; {HOME}") from error
    found: list[list[float]] = []
    for box in root.iterfind("object/bndbox"):
        words = [box.findtext(edge, "") for edge in ("xmin", "ymin", "xmax", "ymax")]
        where = f"{path}: bndbox {' '.join(words)!r}"
        x0, y0, x1, y1 = numbers(where, " ".join(words), 4, after="")
        if x1 <= x0 or y1 <= y0:
            raise DataError(f"{where} needs xmin < xmax and ymin < ymax")
        found.append([x0, y0, x1, y1])
    if not found:
        raise DataError(f"{path}: has no object/bndbox; get Annotation/ anew; {HOME}")
    boxes = np.array(found)
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


DOGS = DataSet("dogs", DogsSource, HOME, order=40)
