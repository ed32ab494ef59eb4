"""Stanford Cars in both of its official layouts.

Krause, Stark, Deng, Fei-Fei: 3D Object Representations for Fine-Grained
Categorization, 3dRR workshop at ICCV 2013.
"""

from pathlib import Path

from fgjax.data.fit import Fit
from fgjax.data.images import read_fitted
from fgjax.data.index import find_root, inclusive_box, inside, label_of, numbers, read_mat
from fgjax.data.registry import DataSet
from fgjax.data.types import DataError, Example, Record, Split

HOME = (
    "wanted: the folder with cars_train/, cars_test/ and devkit/, or the one with "
    "car_ims/ and cars_annos.mat; get Stanford Cars at "
    "https://ai.stanford.edu/~jkrause/cars/car_dataset.html (that page is often down; "
    "https://github.com/pytorch/vision/issues/7545 collects copies)"
)
_EDGES = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


class CarsSource:
    """196 makes, models and years with official split and boxes.

    Read is the layout with the devkit

        cars_train/00001.jpg, cars_test/00001.jpg
        devkit/cars_meta.mat                          class_names
        devkit/cars_train_annos.mat                   annotations: fname, class, bbox_*
        devkit/cars_test_annos_withlabels.mat         the same; may lie beside devkit/

    or, where `cars_annos.mat` is there, the later one

        car_ims/000001.jpg
        cars_annos.mat    class_names; annotations: relative_im_path, class, test, bbox_*

    Their images and boxes are the same, their image numbers and splits are not. Boxes
    are x1 y1 x2 y2, the first and last pixel counted from 1; here they become edges
    (x1 − 1, y1 − 1, x2, y2). Record names are the paths below the folder.

    Args:
      path: the folder.
      size, crop: how images are fitted, see `fgjax.data.images.Fit`.

    Raises:
      DataError: the folder or an index file is missing or damaged, only the unlabelled
        test annotations are there, an annotation lacks a field, a class is out of
        range, a box is empty, an image is listed twice or its path leads out of the
        folder.
    """

    classes: tuple[str, ...]
    landmark_names: tuple[str, ...] = ()
    records: tuple[Record, ...]

    def __init__(self, path: str | Path, size: int = 224, crop: float = 0.875):
        self.fit = Fit(size, crop)
        path = Path(path)
        if (path / "cars_annos.mat").is_file():
            self._root = path
            index = self._root / "cars_annos.mat"
            names, annotations = read_mat(index, HOME, "class_names", "annotations")
            rows = [(index, None, annotations)]
        else:
            self._root = find_root(path, HOME, "devkit", "stanford_cars", "cars")
            train = self._root / "devkit" / "cars_train_annos.mat"
            test = _find_test(self._root)
            (names,) = read_mat(self._root / "devkit" / "cars_meta.mat", HOME, "class_names")
            rows = [
                (train, "train", *read_mat(train, HOME, "annotations")),
                (test, "test", *read_mat(test, HOME, "annotations")),
            ]
        self.classes = tuple(names)

        records = {}
        self._boxes = {}
        for index, split, annotations in rows:
            for number, annotation in enumerate(annotations, start=1):
                where = f"{index}, annotation {number}"
                if not isinstance(annotation, dict):
                    raise DataError(f"{where} is no struct with fields; {HOME}")
                record = _record(where, annotation, split, len(names))
                if record.name in records:
                    raise DataError(f"{where}: {record.name} is listed a second time")
                records[record.name] = record
                edges = " ".join(str(_field(where, annotation, edge)) for edge in _EDGES)
                where = f"{where}: box {edges!r}"
                self._boxes[record.name] = inclusive_box(where, numbers(where, edges, 4, after=""))
        self.records = tuple(records.values())

    def file(self, record: Record) -> Path:
        """Return the image file of a record."""
        return self._root / record.name

    def load(self, record: Record) -> Example:
        """Decode and fits one image with its box."""
        image, shape = read_fitted(self.file(record), self.fit)
        box = self.fit.box(self._boxes[record.name], shape)
        return Example(image=image, label=record.label, box=box, shape=shape)


def _find_test(root: Path) -> Path:
    name = "cars_test_annos_withlabels.mat"
    for folder in (root, root / "devkit"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{root}: holds no {name}, neither here nor in devkit/ (cars_test_annos.mat has no "
        f"labels); {HOME}"
    )


def _record(where: str, annotation: dict, split: Split | None, classes: int) -> Record:
    """Return an image of the devkit, whose file says the split, or of cars_annos.mat."""
    if split is None:
        name = _field(where, annotation, "relative_im_path")
        split = "test" if _field(where, annotation, "test") else "train"
    else:
        name = f"cars_{split}/{_field(where, annotation, 'fname')}"
    label = label_of(where, _field(where, annotation, "class"), classes)
    return Record(inside(f"{where}: {name!r}", name, "of the data set"), label, split)


def _field(where: str, annotation: dict, field: str):
    if field not in annotation:
        raise DataError(f"{where} has no field {field!r}, only {', '.join(annotation)}; {HOME}")
    return annotation[field]


CARS = DataSet("cars", CarsSource, HOME, order=50)
