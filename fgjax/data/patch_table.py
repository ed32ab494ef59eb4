"""patches.csv: the parts of every image that a second look is worth, in pixels of its file.

The columns are image, rank (1 is the best), x0, y0, x1, y1 and score.
"""

import csv
import io
import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fgjax.core.files import write_atomic
from fgjax.data.boxes import fitted_box
from fgjax.data.index import some
from fgjax.data.labels import read_text
from fgjax.data.types import DataError, Example, Source

COLUMNS = ("image", "rank", "x0", "y0", "x1", "y1", "score")

PatchTable = dict[str, Float[np.ndarray, "p 5"]]
"""Image name -> x0, y0, x1, y1, score of its patches, the best first."""


def write_patches(path: Path, table: Mapping[str, Float[np.ndarray, "p 5"]]) -> None:
    """Write the file, whole or not at all; in the order of the table."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, rows in table.items():
        for rank, row in enumerate(rows, start=1):
            writer.writerow([name, rank, *(f"{value:.6g}" for value in row)])
    write_atomic(Path(path), out.getvalue())


def read_patches(path: str | Path, names: Collection[str]) -> PatchTable:
    """Read such a file. The score may be left out, further columns are left alone, and so are
    images that are not in the data set.

    Args:
      path: the file.
      names: of the data set's images (`Record.name`).

    Raises:
      DataError: the file is missing or not UTF-8; its first line names no such columns; a line
        is malformed or its box empty; two patches of an image have the same rank; or no line is
        about an image of the data set.
    """
    path = Path(path)
    rows = csv.reader(read_text(path).split("\n"), skipinitialspace=True)
    wanted = set(names)
    found: dict[str, dict[int, list[float]]] = {}
    try:
        columns = [field.strip().casefold() for field in next(rows, [])]
        missing = [name for name in COLUMNS[:-1] if name not in columns]
        if missing:
            raise DataError(
                f"{path}: no column {', '.join(missing)}; the first line should be "
                f"{','.join(COLUMNS)}"
            )
        for row in rows:
            if not any(field.strip() for field in row):
                continue
            where = f"{path}, line {rows.line_num}"
            if len(row) != len(columns):
                raise DataError(
                    f"{where}: {len(row)} fields where the first line has {len(columns)}"
                )
            fields = dict(zip(columns, map(str.strip, row)))
            rank, numbers = _numbers(where, fields)
            of_image = found.setdefault(fields["image"], {})
            if rank in of_image:
                raise DataError(f"{where}: a second patch of {fields['image']!r} with rank {rank}")
            of_image[rank] = numbers
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: is not CSV ({error})") from error
    if not wanted & set(found):
        raise DataError(
            f"{path}: no patch of an image of the data set; it has {some(found) or 'none at all'}, "
            f"the images are called {some(list(names)[:2])}"
        )
    return {
        name: np.array([of_image[rank] for rank in sorted(of_image)], np.float32)
        for name, of_image in found.items()
        if name in wanted
    }


def _numbers(where: str, fields: dict[str, str]) -> tuple[int, list[float]]:
    try:
        rank = int(fields["rank"])
        numbers = [float(fields[name]) for name in COLUMNS[2:6]]
        numbers.append(float(fields.get("score") or 0))
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if not all(map(math.isfinite, numbers)):
        raise DataError(f"{where}: a number that is not finite")
    if numbers[2] <= numbers[0] or numbers[3] <= numbers[1]:
        raise DataError(f"{where}: an empty box: x1 must be above x0, and y1 above y0")
    return rank, numbers


def fitted_patches(
    source: Source,
    example: Example,
    table: PatchTable,
    name: str,
    count: int,
    drawn: int | None = None,
) -> Float[np.ndarray, "c 4"]:
    """Return an image's boxes in pixels of the fitted image, exactly `count`: the best, or, where
    there are fewer, the same ones again. One that lies wholly outside the fitted image does not
    count; where all do, the patch is the whole image.

    Args:
      drawn: of a drawn image, the side at which it was drawn when its boxes were found; it is
        drawn larger where random crops want a margin. None: as it is now.

    Raises:
      DataError: there is no patch of this image.
    """
    if name not in table:
        raise DataError(f"{name}: no patch of this image is known")
    scale = 1.0
    if example.shape is None and drawn is not None:
        scale = example.image.shape[0] / drawn
    moved = [fitted_box(source, example, row[:4] * np.float32(scale)) for row in table[name]]
    height, width = example.image.shape[:2]
    whole = np.array([0, 0, width, height], np.float32)
    boxes = [box for box in moved if box is not None] or [whole]
    return np.stack([boxes[i % len(boxes)] for i in range(count)])


def unfitted_boxes(
    source: Source, example: Example, boxes: Float[np.ndarray, "p 4"]
) -> Float[np.ndarray, "p 4"]:
    """Return the way back: boxes in pixels of the fitted image, in those of the image file.

    Raises:
      DataError: the source does not say how it fits its images.
    """
    if example.shape is None:  # drawn: the image is as it is
        return boxes
    fit = getattr(source, "fit", None)
    if fit is None:
        raise DataError(
            f"{type(source).__name__} does not say how it fits its images (it has no `fit`), so "
            "boxes in pixels of its files cannot be told"
        )
    height, width = example.image.shape[:2]
    x0, y0, x1, y1 = fit.window(example.shape)
    scale = np.array([(x1 - x0) / width, (y1 - y0) / height] * 2)
    return (boxes * scale + np.array([x0, y0] * 2)).astype(np.float32)
