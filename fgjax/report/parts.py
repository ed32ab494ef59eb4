"""The page of region grouping: parts in fixed colours over the images, attention, tables."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from jaxtyping import Float, UInt8

from fgjax.core.files import write_atomic
from fgjax.report.overlay import overlay, resize_map, to_unit
from fgjax.report.pictures import thumbnail

Color = tuple[int, int, int]


def part_colors(parts: int) -> list[Color]:
    """Return a colour for each part, the same on every page: matplotlib's tab10, then tab20's pale
    ones, then again from the start."""
    strong, paired = (matplotlib.colormaps[name] for name in ("tab10", "tab20"))
    both = [*(strong(i) for i in range(10)), *(paired(i) for i in range(1, 20, 2))]
    found = []
    for i in range(parts):
        red, green, blue = (round(255 * c) for c in both[i % len(both)][:3])
        found.append((red, green, blue))
    return found


def draw_parts(
    image: UInt8[np.ndarray, "h w 3"],
    assignment: Float[np.ndarray, "H W k"],
    *,
    opacity: float = 0.6,
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image in grey under the parts' colours, mixed as the pixels belong to the parts.

    Args:
      assignment: shares of each part, of any resolution; they sum to 1.
    """
    height, width = image.shape[:2]
    shares = np.stack(
        [resize_map(part, height, width) for part in np.moveaxis(assignment, -1, 0)], axis=-1
    )
    colors = shares @ np.array(part_colors(assignment.shape[-1]), np.float32)
    grey = (image @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    return np.clip(np.rint((1 - opacity) * grey + opacity * colors), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class PartPicture:
    """An image with its assignment maps, pixel attribution and attention."""

    name: str
    label: str
    predicted: str
    image: UInt8[np.ndarray, "h w 3"]
    assignment: Float[np.ndarray, "H W k"]
    attribution: Float[np.ndarray, "H W"]
    attention: Float[np.ndarray, "k"]


@dataclass(frozen=True)
class Fact:
    """A figure: its name, its value in words, how it is measured."""

    name: str
    value: str
    protocol: str


@dataclass(frozen=True)
class LandmarkRow:
    """A landmark (or class) with its error, and that of a regression without parts."""

    name: str
    error: float | None
    without: float | None
    count: int


@dataclass(frozen=True)
class PartsPage:
    """What the page shows.

    Attributes:
      attention: class -> mean attention of each part.
      about_parts: figures with a value for each part.
    """

    title: str
    parts: int
    facts: tuple[Fact, ...]
    pictures: tuple[PartPicture, ...]
    attention: dict[str, list[float | None]]
    about_parts: dict[str, list[float | None]]
    landmarks: tuple[LandmarkRow, ...] = ()
    classes: tuple[LandmarkRow, ...] = ()


def write_parts_page(path: Path, page: PartsPage, *, side: int = 140) -> None:
    """Write one self-contained HTML file; `side`: height of the pictures in it, in pixels."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("fgjax.report").joinpath("parts.html.j2").read_text("utf-8")
    shown = [
        {
            "about": picture,
            "image": thumbnail(picture.image, side),
            "parts": thumbnail(draw_parts(picture.image, picture.assignment), side),
            "heat": thumbnail(_heat(picture), side),
            "attention": [float(a) for a in picture.attention],
        }
        for picture in page.pictures
    ]
    columns = list(zip(*page.attention.values(), strict=True))
    ends = [(min(c), max(c)) for c in columns]
    text = environment.from_string(source).render(
        page=page, colors=part_colors(page.parts), pictures=shown, side=side, ends=ends
    )
    write_atomic(path, text)


def _heat(picture: PartPicture) -> np.ndarray:
    height, width = picture.image.shape[:2]
    top = max(float(np.max(picture.attribution)), 1e-12)
    heat, _ = to_unit(resize_map(picture.attribution / top, height, width))
    return overlay(picture.image, heat, opacity=0.55)
