"""The page of a tested classifier: classes, what is mistaken for what, calibration, mistakes."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from io import BytesIO
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from fgjax.core.files import write_atomic
from fgjax.report.parts import Fact
from fgjax.report.pictures import encode_image, sparkline

CELLS = 40
"""Classes up to which the confusion matrix is a table; a larger one is a picture."""
SIDE = 900
"""Pixels of that picture, at most, and of its cells at least one."""


@dataclass(frozen=True)
class ClassRow:
    """A class in the table; None: undefined."""

    name: str
    images: int
    trained_on: int
    recall: float | None
    precision: float | None
    mistaken_for: str
    mistaken: int


@dataclass(frozen=True)
class LevelRow:
    """A level of the tree of classes; `right`: of the answers given there."""

    name: str
    groups: int
    accuracy: float
    answered: float
    right: float | None


@dataclass(frozen=True)
class Bin:
    """Predictions that are about so sure: from `low` to `high`."""

    low: float
    high: float
    count: int
    right: float | None


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class, and what those two classes look like.

    Attributes:
      image: the one mistaken; `like_label`, `like_predicted`: images of the two classes, or None.
    """

    name: str
    label: str
    predicted: str
    probability: float
    image: UInt8[np.ndarray, "h w 3"]
    like_label: UInt8[np.ndarray, "h w 3"] | None
    like_predicted: UInt8[np.ndarray, "h w 3"] | None


@dataclass(frozen=True)
class ClassesPage:
    """What the page shows.

    Attributes:
      facts: the figures, each with how it is measured.
      curves: name -> value of every epoch, of a run that trained; empty otherwise.
      classes: in the order of `confusion`, in which similar classes stand together.
      confusion: images of each class (rows) that were taken for each (columns).
      reliability: name -> bins: as the classifier is, and with its temperature.
      notes: sentences on what is not as it seems.
    """

    title: str
    facts: Sequence[Fact]
    classes: Sequence[ClassRow]
    confusion: Int[np.ndarray, "k k"]
    reliability: Mapping[str, Sequence[Bin]]
    levels: Sequence[LevelRow] = ()
    mistakes: Sequence[Mistake] = ()
    curves: Mapping[str, Sequence[float]] | None = None
    notes: Sequence[str] = ()
    sure: float = 0.9


def draw_confusion(confusion: Int[np.ndarray, "k k"]) -> UInt8[np.ndarray, "s s 3"]:
    """Return the matrix as a picture: each row's shares from white (0) to black (1)."""
    shares = row_shares(confusion)
    colours = matplotlib.colormaps["magma_r"](shares)[..., :3]
    cell = max(1, SIDE // len(confusion))
    return np.rint(255 * colours).astype(np.uint8).repeat(cell, 0).repeat(cell, 1)


def row_shares(confusion: Int[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """Return each row divided by its sum; rows without images stay 0."""
    return confusion / np.maximum(confusion.sum(1, keepdims=True), 1)


def write_classes_page(path: Path, page: ClassesPage, *, side: int = 160) -> None:
    """Write one self-contained HTML file; `side`: height of the pictures in it, in pixels."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("fgjax.report").joinpath("classes.html.j2").read_text("utf-8")
    picture = None
    if len(page.classes) > CELLS:
        out = BytesIO()
        Image.fromarray(draw_confusion(page.confusion)).save(out, "PNG", optimize=True)
        picture = "data:image/png;base64," + b64encode(out.getvalue()).decode("ascii")
    mistakes = [
        {
            "about": mistake,
            "images": [
                None if image is None else encode_image(image, 2 * side)
                for image in (mistake.image, mistake.like_label, mistake.like_predicted)
            ],
        }
        for mistake in page.mistakes
    ]
    text = environment.from_string(source).render(
        page=page,
        shares=row_shares(page.confusion).tolist(),
        picture=picture,
        mistakes=mistakes,
        curves=[
            {"name": name, "lines": sparkline({name: values})}
            for name, values in (page.curves or {}).items()
        ],
        side=side,
    )
    write_atomic(path, text)
