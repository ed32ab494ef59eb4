"""The page of a comparison: one table, and the pictures side by side, method by column."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from fgjax.core.files import write_atomic
from fgjax.report.overlay import ANNOTATION, draw_box, draw_mask_outline, overlay, to_unit
from fgjax.report.pictures import thumbnail

Cell = tuple[float, float, float, int] | None
"""Mean, the ends of its interval, and over how many images; None: no value."""


@dataclass(frozen=True)
class Column:
    """A metric: its name, its head, whether higher is better (None: neither), how measured, and
    why it ranks nothing ("": it ranks)."""

    name: str
    head: str
    higher: bool | None
    protocol: str
    unranked: str = ""


@dataclass(frozen=True)
class Row:
    """A method, another map of it (`variant`), or a control: its mean rank (None: not ranked), a
    cell per column, and what the method costs."""

    method: str
    rank: float | None
    cells: tuple[Cell, ...]
    cost: dict[str, Any]
    variant: str = ""


@dataclass(frozen=True)
class Table:
    """The table of a comparison, and sentences on how its ranks came about."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    images: int
    notes: tuple[str, ...] = ()

    def best(self) -> dict[str, tuple[str, ...]]:
        """Return column -> the ranked methods with its best mean, as it is printed; of columns that
        rank."""
        found = {}
        for i, column in enumerate(self.columns):
            means = {
                row.method: round(cell[0], 3)
                for row in self.rows
                if (cell := row.cells[i]) is not None and row.rank is not None
            }
            if means and column.higher is not None and not column.unranked:
                top = (max if column.higher else min)(means.values())
                found[column.name] = tuple(m for m, v in means.items() if v == top)
        return found


@dataclass(frozen=True)
class Picture:
    """An image with the map of every method, and what is annotated."""

    name: str
    target: str
    image: UInt8[np.ndarray, "h w 3"]
    maps: dict[str, Float[np.ndarray, "h w"]]
    mask: Bool[np.ndarray, "h w"] | None = None
    cue: Bool[np.ndarray, "h w"] | None = None
    box: Float[np.ndarray, "4"] | None = None


def write_comparison_page(
    path: Path, table: Table, pictures: list[Picture], *, side: int = 128
) -> None:
    """Write one self-contained HTML file.

    Args:
      side: of each picture in it, in pixels.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("fgjax.report").joinpath("comparison.html.j2").read_text("utf-8")
    methods = [row.method for row in table.rows]
    shown = [
        {
            "name": picture.name,
            "target": picture.target,
            "image": thumbnail(_annotated(picture), side),
            "maps": {m: thumbnail(_map(picture, m), side) for m in methods if m in picture.maps},
        }
        for picture in pictures
    ]
    best = table.best()
    text = environment.from_string(source).render(
        table=table, best=best, pictures=shown, methods=methods, side=side, spread=_spread(table)
    )
    write_atomic(path, text)


def _spread(table: Table) -> list[tuple[float, float]]:
    """Return the lowest and highest mean of each column, for the shade of its cells."""
    ends = []
    for i in range(len(table.columns)):
        means = [cell[0] for row in table.rows if (cell := row.cells[i]) is not None]
        ends.append((min(means, default=0.0), max(means, default=0.0)))
    return ends


def _annotated(picture: Picture) -> np.ndarray:
    image = picture.image
    if picture.mask is not None:
        image = draw_mask_outline(image, picture.mask)
    if picture.cue is not None:
        image = draw_mask_outline(image, picture.cue, ANNOTATION["cue"])
    if picture.box is not None and picture.mask is None:
        image = draw_box(image, picture.box)
    return image


def _map(picture: Picture, method: str) -> np.ndarray:
    heat, _ = to_unit(picture.maps[method])
    return overlay(picture.image, heat, opacity=0.55)
