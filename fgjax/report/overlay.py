"""Maps and annotation drawn on images: NumPy in, NumPy out.

An image is `UInt8 "h w 3"`, RGB. A map is `Float "h w"` in [0, 1]; where it is
not finite it is undefined, and is drawn grey. No function changes its input.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Color = tuple[int, int, int]

UNDEFINED: Color = (128, 128, 128)
# The page draws with these too (page.html.j2 receives them).
ANNOTATION: dict[str, Color] = {
    "box": (255, 205, 60),
    "object": (64, 210, 235),
    "cue": (120, 240, 90),
}
CONTOUR: Color = (255, 255, 255)
HALO: Color = (20, 20, 24)

TITLES = {"ssr": "SSR", "sdr": "SDR", "joint": "Joint", "heatmap": "Heatmap"}

COLUMNS = 8
"""Pictures side by side in a panel."""


def map_title(name: str) -> str:
    """Return how a map is named to a reader: `ssr` is SSR; an unknown name starts with a
    capital."""
    return TITLES.get(name, name[:1].upper() + name[1:].replace("_", " "))


def primary_map(names: list[str]) -> str | None:
    """Return the map a reader looks at first: `joint`, else `heatmap`, else the first; None of
    none."""
    return next((n for n in ("joint", "heatmap") if n in names), names[0] if names else None)


def to_unit(heat: Float[np.ndarray, "h w"]) -> tuple[Float[np.ndarray, "h w"], str]:
    """Return a map in [0, 1] and a note on what had to be done or is missing.

    A map that is in [0, 1] already stays as it is (rounding of 1e-3 is clipped).
    Any other is scaled from its own lowest..highest value to 0..1, and the note
    says so; so does it for undefined pixels.

    Returns:
      the map as float32, NaN where undefined; the note, "" when there is nothing to say.
    """
    heat = np.where(np.isfinite(heat), heat, np.nan).astype(np.float32)
    defined = heat[np.isfinite(heat)]
    if defined.size == 0:
        return heat, "undefined"
    notes = []
    low, high = float(defined.min()), float(defined.max())
    if low < -1e-3 or high > 1 + 1e-3:
        notes.append(f"scaled from {low:.3g} … {high:.3g}")
        heat = (heat - low) / (high - low) if high > low else 0 * heat
    if defined.size < heat.size:
        notes.append(f"{100 * (1 - defined.size / heat.size):.2g} % undefined")
    return np.clip(heat, 0, 1), ", ".join(notes)


def resize_map(heat: Float[np.ndarray, "_ _"], height: int, width: int) -> Float[np.ndarray, "_ _"]:
    """Return the map at another size: bilinear up, area average down. float32."""
    heat = heat.astype(np.float32)
    if heat.shape == (height, width):
        return heat
    smaller = height <= heat.shape[0] and width <= heat.shape[1]
    how = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(heat).resize((width, height), how))


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    heat: Float[np.ndarray, "h w"],
    *,
    opacity: float = 0.5,
    colormap: str = "magma",
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image under a coloured map: `(1 - opacity)·image + opacity·colour(heat)`.

    Args:
      image: RGB.
      heat: importance in [0, 1]; grey where not finite.
      opacity: 0 shows the image alone, 1 the map alone.
      colormap: a name matplotlib knows.

    Raises:
      ValueError: the map leaves [0, 1] (scale it first, `to_unit`), another shape than
        the image's, opacity outside [0, 1], a colormap matplotlib does not know.
    """
    _same_shape(image, heat, "map")
    defined = np.isfinite(heat)
    if np.any((heat[defined] < -1e-3) | (heat[defined] > 1 + 1e-3)):
        low, high = heat[defined].min(), heat[defined].max()
        raise ValueError(f"map values {low:.3g} … {high:.3g} are not in [0, 1]: use to_unit first")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity {opacity} is not in [0, 1]")
    if colormap not in matplotlib.colormaps:
        raise ValueError(f"no colormap {colormap!r}: use one of matplotlib's, such as 'magma'")
    unit = np.where(defined, heat, 0).astype(np.float32)
    colors = matplotlib.colormaps[colormap](unit)[..., :3] * 255
    colors = np.where(defined[..., None], colors, np.asarray(UNDEFINED, colors.dtype))
    return np.rint((1 - opacity) * image + opacity * colors).astype(np.uint8)


def outline(mask: Bool[np.ndarray, "h w"], width: int = 1) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of the mask within `width` steps of a pixel outside it (4-neighbours).

    The frame is no outside: a mask that fills the image has no outline.
    """
    return mask & ~ndimage.binary_erosion(mask, iterations=width, border_value=1)


def draw_mask_outline(
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    color: Color = ANNOTATION["object"],
    width: int = 1,
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image with the mask's inner boundary (`outline`) in `color`.

    Raises:
      ValueError: the mask has another shape than the image.
    """
    _same_shape(image, mask, "mask")
    drawn = image.copy()
    drawn[outline(mask, width)] = color
    return drawn


def contour(
    image: UInt8[np.ndarray, "h w 3"],
    heat: Float[np.ndarray, "h w"],
    threshold: float = 0.5,
    color: Color = CONTOUR,
    width: int = 1,
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image with the boundary of `heat > threshold`, drawn just inside it.

    An undefined pixel is not above any threshold.
    """
    _same_shape(image, heat, "map")
    return draw_mask_outline(image, np.greater(heat, threshold), color, width)


def draw_box(
    image: UInt8[np.ndarray, "h w 3"],
    box: Float[np.ndarray, "4"],
    color: Color = ANNOTATION["box"],
    width: int = 1,
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image with a box: x0, y0, x1, y1 in pixels, x1 and y1 exclusive edges.

    Raises:
      ValueError: the box is empty or not finite.
    """
    x0, y0, x1, y1 = _check_box(box)
    drawn = Image.fromarray(image)
    left, top = round(x0), round(y0)
    # Pillow's rectangle includes its last pixel; a box thinner than a pixel is still seen.
    right, bottom = max(round(x1) - 1, left), max(round(y1) - 1, top)
    ImageDraw.Draw(drawn).rectangle((left, top, right, bottom), outline=color, width=width)
    return np.array(drawn)


def panel(
    image: UInt8[np.ndarray, "h w 3"],
    maps: Mapping[str, Float[np.ndarray, "_ _"]],
    *,
    box: Float[np.ndarray, "4"] | None = None,
    mask: Bool[np.ndarray, "h w"] | None = None,
    cue: Bool[np.ndarray, "h w"] | None = None,
    title: str = "",
    notes: Mapping[str, str] | None = None,
    threshold: float = 0.5,
    opacity: float = 0.5,
    colormap: str = "magma",
    cell: int = 256,
) -> UInt8[np.ndarray, "rows cols 3"]:
    """Return a row for an image: with its annotation, every map, the contour of the primary map; of
    many maps two rows or more.

    Args:
      image: RGB.
      maps: in the order they are shown; any resolution, one not in [0, 1] is scaled (`to_unit`)
        and its label says so.
      box, mask, cue: annotation in pixels of `image`, outlined in the first picture.
      title: a line over the row.
      notes: name of a map -> a remark that is written after its title.
      threshold: of the contour, drawn for `primary_map`.
      cell: height of one picture in pixels.
    """
    height, width = cell, max(1, round(cell * image.shape[1] / image.shape[0]))
    scale = height / image.shape[0]
    photo = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))

    first, legend = photo, []
    for kind, region in (("object", mask), ("cue", cue)):
        if region is not None:
            # Outlined after scaling, so that lines are equally thin on small images.
            region = resize_map(region.astype(np.float32), height, width) > 0.5
            first = _with_halo(first, region, ANNOTATION[kind])
            legend.append(kind)
    if box is not None:
        scaled = np.asarray(box, np.float32) * scale
        first = draw_box(first, scaled, HALO, 3)
        inner = scaled + np.asarray([1, 1, -1, -1], np.float32)
        first = draw_box(first, inner if np.all(inner[2:] > inner[:2]) else scaled)
        legend.insert(0, "box")

    pictures = [(first, "Image", legend)]
    for name, heat in maps.items():
        unit, note = to_unit(heat)
        unit = resize_map(unit, height, width)
        picture = overlay(photo, unit, opacity=opacity, colormap=colormap)
        remark = f": {notes[name]}" if notes and name in notes else ""
        label = map_title(name) + remark + (f" ({note})" if note else "")
        pictures.append((picture, label, []))
    primary = primary_map(list(maps))
    if primary is not None:
        above = resize_map(to_unit(maps[primary])[0], height, width) > threshold
        label = f"{map_title(primary)} > {threshold:g}"
        dimmed = np.where(above[..., None], photo, photo // 3)
        pictures.append((draw_mask_outline(dimmed, above, CONTOUR), label, []))
    return _rows(pictures, title)


def _rows(pictures, title: str):
    """At most `COLUMNS` pictures side by side, the rows as equally long as can be."""
    rows = -(-len(pictures) // COLUMNS)
    each = -(-len(pictures) // rows)
    parts = [
        _row(pictures[i : i + each], "" if i else title) for i in range(0, len(pictures), each)
    ]
    width = max(part.shape[1] for part in parts)
    white = lambda part: ((0, 0), (0, width - part.shape[1]), (0, 0))
    return np.concatenate([np.pad(part, white(part), constant_values=255) for part in parts])


def _with_halo(image, mask, color: Color):
    """Return a line of 2 pixels with a dark one inside it: seen on light and dark ground."""
    return draw_mask_outline(draw_mask_outline(image, mask, HALO, 3), mask, color, 2)


def _row(pictures, title: str):
    gap, bar, size = 6, 20, 12
    height, width = pictures[0][0].shape[:2]
    top = bar + 4 if title else 0
    sheet = Image.new(
        "RGB", (len(pictures) * (width + gap) + gap, top + bar + height + gap), "white"
    )
    draw = ImageDraw.Draw(sheet)
    if title:
        text = _shorten(title, _font(size + 2), sheet.width - 2 * gap)
        draw.text((gap, top - 1), text, (20, 20, 24), _font(size + 2), anchor="ls")
    for i, (picture, label, legend) in enumerate(pictures):
        left, base = gap + i * (width + gap), top + bar - 6
        text = _shorten(label, _font(size), width)
        draw.text((left, base), text, (70, 70, 76), _font(size), anchor="ls")
        x = left + int(_font(size).getlength(text)) + 10
        for kind in legend:
            end = x + 14 + int(_font(size - 1).getlength(kind))
            if end > left + width:
                break
            draw.rectangle((x, base - 9, x + 9, base), ANNOTATION[kind], (70, 70, 76))
            draw.text((x + 14, base), kind, (70, 70, 76), _font(size - 1), anchor="ls")
            x = end + 10
        sheet.paste(Image.fromarray(picture), (left, top + bar))
    return np.array(sheet)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # DejaVu Sans comes with matplotlib and knows most alphabets.
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size)


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    # One line: a name with a line break in it must not be drawn over its neighbours.
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)[:400]
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _same_shape(image, other, what: str) -> None:
    if image.shape[:2] != other.shape:
        raise ValueError(f"{what} is {other.shape}, the image {image.shape[:2]}: resize it first")


def _check_box(box) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(v) for v in box)
    if not (np.all(np.isfinite(box)) and x1 > x0 and y1 > y0):
        raise ValueError(f"box x0, y0, x1, y1 = {x0:g}, {y0:g}, {x1:g}, {y1:g} is empty")
    return x0, y0, x1, y1
