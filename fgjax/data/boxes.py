"""The boxes a detector found, from a CSV file, and where they lie in a fitted image."""

import csv
import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fgjax.data.index import some
from fgjax.data.labels import read_text
from fgjax.data.types import DataError, Example, Source

EDGES = ("x0", "y0", "x1", "y1")
HEADER = "name,x0,y0,x1,y1 or name,x0,y0,x1,y1,score"


def read_boxes(path: str | Path, names: Collection[str]) -> dict[str, Float[np.ndarray, "4"]]:
    """Read a CSV with the columns name, x0, y0, x1, y1 and, if there is one, score.

    Boxes are in pixels of the image file (x to the right, y down; x1 and y1 are exclusive
    edges, so the box of the whole image is 0,0,width,height). They may reach over its border.
    Of several boxes of an image the one with the highest score counts, of equal ones the
    first. The columns may stand in any order; further ones are left alone, and so are boxes
    of images that are not in the data set.

    Args:
      path: the file.
      names: of the data set's images (`Record.name`).

    Returns:
      image name -> x0, y0, x1, y1. Images without a box are not in it.

    Raises:
      DataError: the file is missing or not UTF-8; its first line names no such columns; a
        line is malformed, its box empty, or a second one of its image without scores; or no
        line is about an image of the data set.
    """
    path = Path(path)
    rows = csv.reader(read_text(path).split("\n"), skipinitialspace=True)
    boxes: dict[str, Float[np.ndarray, 4]] = {}
    best: dict[str, tuple[float, int]] = {}  # score and line number
    columns, strangers = None, []
    try:
        for row in rows:
            where, row = f"{path}, line {rows.line_num}", [field.strip() for field in row]
            if not any(row):
                continue
            if columns is None:
                columns = _columns(where, row)
                continue
            name, box, score = _box(where, row, columns)
            if name in best:
                if score is None:
                    raise DataError(
                        f"{where}: a second box of {name!r} (the first is in line "
                        f"{best[name][1]}); give a column score, or one box an image"
                    )
                if score <= best[name][0]:
                    continue
            best[name] = (score or 0.0, rows.line_num)
            if name in names:
                boxes[name] = box
            else:
                strangers.append(name)
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: is not CSV ({error})") from error
    if columns is None:
        raise DataError(f"{path}: the file is empty; wanted: a first line {HEADER}")
    if not boxes:
        found = f"it has {some(strangers)}" if strangers else "it has only its first line"
        raise DataError(
            f"{path}: no box of an image of the data set; {found}, "
            f"the images are called {some(list(names)[:2])}"
        )
    return boxes


def fitted_box(
    source: Source, example: Example, box: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "4"] | None:
    """Return a box in pixels of the image file, moved and clipped to the fitted image.

    None when it lies wholly outside. Of drawn images, which no file is fitted for, the box is
    in pixels of the image itself.

    Raises:
      DataError: the source does not say how it fits its images.
    """
    if example.shape is None:
        height, width = example.image.shape[:2]
        corners = np.clip(box.reshape(2, 2), 0, [width, height]).astype(np.float32)
        return None if (corners[1] <= corners[0]).any() else corners.reshape(4)
    fit = getattr(source, "fit", None)
    if fit is None:
        raise DataError(
            f"{type(source).__name__} does not say how it fits its images (it has no `fit`), so "
            "boxes in pixels of its files cannot be placed"
        )
    return fit.box(box, example.shape)


def _columns(where: str, row: list[str]) -> list[str]:
    columns = [field.casefold() for field in row]
    missing = [name for name in ("name", *EDGES) if name not in columns]
    if missing:
        raise DataError(
            f"{where}: no column {', '.join(missing)}; the first line should be {HEADER}"
        )
    return columns


def _box(
    where: str, row: list[str], columns: list[str]
) -> tuple[str, Float[np.ndarray, "4"], float | None]:
    if len(row) != len(columns):
        raise DataError(f"{where}: {len(row)} fields where the first line has {len(columns)}")
    fields = dict(zip(columns, row))
    if not fields["name"]:
        raise DataError(f"{where}: the image's name is empty")
    x0, y0, x1, y1 = edges = [_number(where, edge, fields[edge]) for edge in EDGES]
    if x1 <= x0 or y1 <= y0:
        text = ",".join(fields[edge] for edge in EDGES)
        raise DataError(f"{where}: a box needs x0 < x1 and y0 < y1, not {text}")
    score = _number(where, "score", fields["score"]) if "score" in columns else None
    return fields["name"], np.array(edges, np.float64), score


def _number(where: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {column} must be a number, not {text!r}")
    return value
