"""Pictures and lines as they stand in a page: `data:` addresses and points of a polyline."""

import base64
import math
from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

Number = int | float | np.number
PAPER = 226
"""The grey on which regions are shown, on a light page and on a dark one."""
LEVELS = 100
"""Steps from 0 to 1 in which maps are stored, those of the threshold's slider."""


def encode_image(image: UInt8[np.ndarray, "h w 3"], size: int) -> str:
    """Return the image as a `data:` address: JPEG of quality 80, longer side at most `size`."""
    height, width = _fit(image.shape[:2], size)
    picture = Image.fromarray(image)
    if (height, width) != image.shape[:2]:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return _address(picture, "JPEG", quality=80, optimize=True)


def thumbnail(image: UInt8[np.ndarray, "_ _ 3"], height: int) -> str:
    """Return the image, so many pixels high, as a `data:` address: WebP of quality 80."""
    width = max(1, round(height * image.shape[1] / image.shape[0]))
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    return _address(picture, "WEBP", quality=80)


def encode_map(heat: Float[np.ndarray, "_ _"]) -> str:
    """Return a map in [0, 1] as a `data:` address: PNG, each pixel the number of hundredths from 0
    up that lie below it, undefined is transparent.

    So `value > k / 100` is `pixel > k`, for every k, and nothing is lost by the 8 bits.
    """
    defined = np.isfinite(heat)
    unit = np.clip(np.where(defined, heat, 0).astype(np.float64), 0, 1)
    # The same comparison that the numbers make, whatever the rounding of 100·x.
    levels = np.searchsorted(np.arange(LEVELS + 1) / LEVELS, unit, side="left").astype(np.uint8)
    if defined.all():
        return _address(Image.fromarray(levels), "PNG", optimize=True)
    alpha = np.where(defined, np.uint8(255), np.uint8(0))
    return _address(Image.fromarray(np.stack([levels, alpha], -1)), "PNG", optimize=True)


def encode_mask(mask: Bool[np.ndarray, "_ _"], size: int) -> str:
    """Return a mask as a `data:` address: PNG of one bit."""
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    height, width = _fit(mask.shape, size)
    return _address(picture.resize((width, height)).convert("1"), "PNG", optimize=True)


def sparkline(traces: Mapping[str, Sequence[Number]], points: int = 64) -> list[dict]:
    """Return lines for a small picture of 100 × 28, steps to the right.

    Upwards is 0 … 1 when all values are in it, else lowest … highest of all traces.

    Returns:
      a dict for each trace: name, points ("x,y x,y …"), first and last value.
    """
    kept = {
        name: [(step, float(v)) for step, v in enumerate(trace) if math.isfinite(v)]
        for name, trace in traces.items()
    }
    values = [v for trace in kept.values() for _, v in trace]
    low, high = min(values, default=0), max(values, default=1)
    if 0 <= low and high <= 1:
        low, high = 0, 1
    longest = max((len(t) for t in traces.values()), default=0)
    lines = []
    for name, trace in kept.items():
        if not trace:
            continue
        first, last = trace[0][1], trace[-1][1]
        stride = max(1, math.ceil(len(trace) / points))
        trace = trace[::stride] + ([trace[-1]] if (len(trace) - 1) % stride else [])
        if len(trace) == 1:  # a point is no line
            trace = [(0, first), (longest, first)]
        path = " ".join(
            f"{100 * min(1, i / max(1, longest - 1)):.1f},"
            f"{26 - 24 * (v - low) / ((high - low) or 1):.1f}"
            for i, v in trace
        )
        lines.append({"name": name, "points": path, "first": first, "last": last})
    return lines


def cut_out(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"] | None
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image with all but the mask in a light grey."""
    mask = np.zeros(image.shape[:2], bool) if mask is None else mask
    return np.where(mask[..., None], image, np.uint8(PAPER))


def _fit(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    scale = min(1.0, size / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _address(picture: Image.Image, form: str, **options) -> str:
    file = BytesIO()
    picture.save(file, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
