"""A folder whose images are cut to a detector's boxes before the model sees them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from fgjax.data.boxes import read_boxes
from fgjax.data.fit import Fit
from fgjax.data.images import read_image
from fgjax.data.megadetector import Detection, read_megadetector
from fgjax.data.types import DataError, Example, Record


class Boxed:
    """A source of which each image with a box is the square around it.

    The square is so large that the centre crop shows the whole box; at the image's border it is
    moved inwards, and where the image is too small for it, it is cut. Images without a box are seen
    whole. Annotations are left out: they would be those of the whole image.

    Args:
      source: of files: it has `file(record)` and `fit`.
      boxes: image name -> box as shares of the image.

    Raises:
      DataError: the source is not of that kind.
    """

    def __init__(self, source: Any, boxes: Mapping[str, Detection]):
        if not hasattr(source, "file") or not hasattr(source, "fit"):
            raise DataError(f"{type(source).__name__} reads no image files that could be cut")
        self.source, self.boxes = source, boxes
        self.classes, self.records = source.classes, source.records
        self.landmark_names: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "source"), name)

    @property
    def fit(self) -> Fit:
        """How what is cut out becomes a square of the model's size."""
        return self.source.fit

    @fit.setter
    def fit(self, fit: Fit) -> None:
        self.source.fit = fit

    def file(self, record: Record) -> Path:
        """Return the image file of a record."""
        return self.source.file(record)

    def load(self, record: Record) -> Example:
        """Decode an image, cut out its box and fit it."""
        image = read_image(self.file(record), orient=True)
        height, width = image.shape[:2]
        found = self.boxes.get(record.name)
        x0, y0, x1, y1 = 0, 0, width, height
        if found is not None:
            x0, y0, x1, y1 = square(found.box, (height, width), self.fit.crop)
        cut: UInt8[np.ndarray, "h w 3"] = image[y0:y1, x0:x1]
        return Example(
            image=self.fit.image(cut),
            label=record.label,
            shape=cut.shape[:2],
            cut=(x0, y0, height, width),
        )


def square(
    box: Float[np.ndarray, "4"], shape: tuple[int, int], crop: float
) -> tuple[int, int, int, int]:
    """Return the square x0, y0, x1, y1 of an h × w image, in whole pixels, around a box.

    Args:
      box: as shares of width and height.
      shape: height and width.
      crop: the share of the square's side that is seen; the box lies within.
    """
    height, width = shape
    x0, y0, x1, y1 = np.asarray(box, np.float64) * [width, height, width, height]
    side = max(int(np.ceil(max(x1 - x0, y1 - y0) / crop)), 16)

    def along(low: float, high: float, whole: int) -> tuple[int, int]:
        length = min(side, whole)
        start = int(np.clip(round((low + high - length) / 2), 0, whole - length))
        return start, start + length

    (left, right), (top, bottom) = along(x0, x1, width), along(y0, y1, height)
    return left, top, right, bottom


def read_detections(path: str | Path, source: Any) -> dict[str, Detection]:
    """Return the box of each image of a source: of a .json file in MegaDetector's format, or of a
    CSV (see `read_boxes`).

    Raises:
      DataError: the file is missing, in another format, or of other images.
    """
    path, names = Path(path), [record.name for record in source.records]
    if path.suffix.lower() == ".json":
        return read_megadetector(path, names)
    found = {}
    records = {record.name: record for record in source.records}
    for name, box in read_boxes(path, names).items():
        height, width = read_image(source.file(records[name]), orient=True).shape[:2]
        shares = np.clip(box / [width, height, width, height], 0, 1)
        if (shares[2:] > shares[:2]).all():
            found[name] = Detection(shares, 1.0)
    return found


def relative_box(
    source: Any, example: Example, box: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "4"]:
    """Return a box in pixels of a fitted image as shares of its file's image: x0, y0, x1, y1."""
    box = np.asarray(box, np.float64).reshape(2, 2)
    if example.shape is None or getattr(source, "fit", None) is None:
        return (box / np.array(example.image.shape[1::-1])).reshape(4)
    x0, y0, x1, y1 = source.fit.window(example.shape)
    down, across = source.fit.result(example.shape)
    left, top, height, width = example.cut or (0, 0, *example.shape)
    inside = box / [across, down] * [x1 - x0, y1 - y0] + [x0, y0]
    return np.clip((inside + [left, top]) / [width, height], 0, 1).reshape(4)
