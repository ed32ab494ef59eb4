"""A finished run as one HTML page that needs nothing else: no server, no network.

`write_page(path, Page(...))`. Pictures are embedded: images as JPEG, maps as PNG in steps of a
hundredth, at their own size, so that a threshold of the page cuts the pixels that it cuts in the
numbers. Where they are many, the rest lies in a folder beside the page, read when it comes into
sight.
All words come from configs, file names and class lists, so all are escaped: in HTML by
jinja2's autoescape, in the embedded JSON by its `tojson`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from jaxtyping import UInt8

from fgjax.core.files import write_atomic
from fgjax.core.tables import finite
from fgjax.report.contents import Cutout, Entry, Metric, Page
from fgjax.report.overlay import ANNOTATION, CONTOUR, map_title, primary_map, to_unit
from fgjax.report.pictures import Number, cut_out, encode_image, encode_map, encode_mask, sparkline

INLINE, PART = 10_000_000, 4_000_000
"""Bytes of pictures within the page, and at most about so many in each file beside it."""


def write_page(path: Path, page: Page, *, image_size: int = 320, inline: int = INLINE) -> Path:
    """Write the page; a page that was there stays until the new one is whole.

    Args:
      path: the HTML file. Its folder must exist.
      page: what to show.
      image_size: images are stored with a longer side of at most this many pixels.
      inline: pictures beyond so many bytes go into files in the folder `path` with _files in place
        of .html, which must stay beside the page.

    Returns:
      the path.

    Raises:
      ValueError: an entry whose arrays do not fit together, an unknown colormap.
      OSError: a file cannot be written.
    """
    path = Path(path)
    folder = path.with_name(f"{path.stem}_files")
    parts: list[str] = []

    def write_part(pictures: dict[int, dict]) -> str:
        text = f"fgjaxPart({_json(pictures)});\n"
        # The name says the content: a page that is not yet replaced keeps its own parts.
        name = f"{len(parts) + 1}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.js"
        folder.mkdir(exist_ok=True)
        write_atomic(folder / name, text)
        parts.append(name)
        return f"{folder.name}/{name}"

    html = _render(page, image_size, inline, write_part)
    write_atomic(path, html)
    for old in folder.glob("*.js"):
        if old.name not in parts:
            old.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return path


def render(page: Page, *, image_size: int = 320) -> str:
    """Return the page as text, all pictures in it. Arguments and errors as `write_page`."""
    return _render(page, image_size, math.inf, lambda _: "")


def _render(
    page: Page, image_size: int, inline: int | float, write_part: Callable[[dict[int, dict]], str]
) -> str:
    """Return the page's text.

    Args:
      inline: bytes of pictures that are put into it.
      write_part: writes those of further entries, by their number, and returns the address.
    """
    if page.colormap not in matplotlib.colormaps:
        raise ValueError(f"no colormap {page.colormap!r}: use one of matplotlib's, such as 'magma'")
    cards: list[dict[str, Any]] = []
    classes: set[str] = set()
    names: dict[str, None] = {}
    metrics: dict[str, None] = {}
    numbers: dict[str, str] = {}
    reasons: dict[str, None] = {}
    part: dict[int, dict] = {}
    held = part_size = 0

    def put_away():
        address = write_part(part)
        for index in part:
            cards[index]["data"]["part"] = address

    for index, entry in enumerate(page.entries):
        card = _card(index, entry, image_size)
        cards.append(card)
        size = _size(card["pictures"])
        held += size
        if held > inline:
            part[index], card["pictures"] = card["pictures"], None
            part_size += size
            if part_size >= PART:
                put_away()
                part, part_size = {}, 0
        # Dicts keep the order in which a name was first seen.
        names |= dict.fromkeys(entry.maps)
        metrics |= dict.fromkeys(entry.metrics)
        reasons |= dict.fromkeys(entry.reasons)
        classes |= set() if entry.label is None else {entry.label}
        numbers |= {n: n for n in ("probability", "score") if getattr(entry, n) is not None}
    if part:
        put_away()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = format_number
    environment.policies["json.dumps_kwargs"] = JSON
    source = resources.files("fgjax.report").joinpath("page.html.j2").read_text("utf-8")
    colors = {
        k: "#{:02x}{:02x}{:02x}".format(*c) for k, c in (ANNOTATION | {"map": CONTOUR}).items()
    }
    kinds = {kind for card in cards for kind in card["annotated"]}
    lut = matplotlib.colormaps[page.colormap](np.arange(256), bytes=True)[:, :3]
    metrics_of_run = page.metrics or ()
    told = [m for m in metrics_of_run if m.defined and finite(m.value) is not None]
    return environment.from_string(source).render(
        page=page,
        cards=cards,
        rows=[_row(metric, _baselines(told)) for metric in told],
        untold=[metric.name for metric in metrics_of_run if metric not in told],
        baselines=_baselines(told),
        maps=[(name, map_title(name)) for name in names],
        primary=primary_map(list(names)),
        metric_names=list(metrics),
        numbers=sorted(numbers),
        reasons=list(reasons),
        classes=sorted(classes),
        statuses={card["status"] for card in cards},
        colors={kind: color for kind, color in colors.items() if kind in kinds},
        beside=any(card["pictures"] is None for card in cards),
        data={
            "title": page.title,
            "entries": [card["data"] for card in cards],
            "pictures": {
                i: {k: v for k, v in card["pictures"].items() if k not in ("image", "cutouts")}
                for i, card in enumerate(cards)
                if card["pictures"] is not None
            },
            "lut": np.ascontiguousarray(lut).tobytes().hex(),
            "colors": colors,
        },
    )


JSON: dict[str, Any] = {"allow_nan": False, "separators": (",", ":")}


def _json(value: Any) -> str:
    return json.dumps(value, **JSON)


def _size(pictures: dict[str, Any]) -> int:
    return len(_json(pictures))


def format_number(value: Number | None, unit: str = "") -> str:
    """Return three decimals near one, fewer for large numbers and percent; an en dash for
    undefined."""
    if value is None or not math.isfinite(value):
        return "–"
    if isinstance(value, int | np.integer):
        return str(value)
    if unit == "%":
        return f"{value:.1f}"
    size = abs(float(value))
    if 0 < size < 0.0005:
        return f"{value:.1e}"
    return f"{value:.{3 if size < 10 else 2 if size < 100 else 1}f}"


def _card(index: int, entry: Entry, image_size: int) -> dict:
    """Return what the template writes for an entry, under "data" what its script is told of it,
    under "pictures" what it draws."""
    _check(entry)
    height, width = entry.image.shape[:2]
    maps, notes = {}, []
    for name, heat in entry.maps.items():
        unit, note = to_unit(heat)
        maps[name] = encode_map(unit)
        if note:
            notes.append(f"{map_title(name)}: {note}")
    known = entry.label is not None and entry.predicted is not None
    status = "unknown" if not known else "right" if entry.label == entry.predicted else "wrong"
    box = None
    if entry.box is not None:
        box = (np.asarray(entry.box, float) / [width, height, width, height]).tolist()
    annotated = {"box": box, "object": entry.mask, "cue": entry.cue}
    encode = lambda mask: None if mask is None else encode_mask(mask, image_size)
    return {
        "entry": entry,
        "height": height,
        "width": width,
        "status": status,
        "notes": notes,
        "lines": sparkline(entry.traces),
        "annotated": [kind for kind, what in annotated.items() if what is not None],
        "pictures": {
            "image": encode_image(entry.image, image_size),
            "cutouts": [
                encode_image(_cutout(entry.image, c), image_size // 2) for c in entry.cutouts
            ],
            "maps": maps,
            "object": encode(entry.mask),
            "cue": encode(entry.cue),
        },
        "data": {
            "name": entry.name,
            "label": entry.label,
            "predicted": entry.predicted,
            "text": " ".join(
                filter(None, (entry.name, entry.label, entry.predicted, entry.target))
            ).lower(),
            "status": status,
            "reasons": list(entry.reasons),
            "probability": finite(entry.probability),
            "score": finite(entry.score),
            "metrics": {name: finite(value) for name, value in entry.metrics.items()},
            "maps": list(maps),
            "notes": dict(entry.notes),
            "box": box,
        },
    }


def _cutout(image: UInt8[np.ndarray, "h w 3"], cutout: Cutout) -> UInt8[np.ndarray, "_ _ 3"]:
    return cut_out(image, cutout.mask) if cutout.image is None else cutout.image


def _row(metric: Metric, baselines: list[str]) -> dict:
    """Return a metric's numbers, its own first, the best of them, and their places on a 0…100
    line."""
    numbers = [finite(metric.value), *(finite(metric.baselines.get(name)) for name in baselines)]
    known = [v for v in numbers if v is not None]
    best = None
    if metric.higher_is_better is not None and len(known) > 1:
        best = max(known) if metric.higher_is_better else min(known)
    low, high = min([0.0, *known]), max(known, default=1.0)
    high = 1.0 if 0 <= low and high <= 1 else 100.0 if metric.unit == "%" and high <= 100 else high
    span = (high - low) or 1.0
    places = [None if v is None else round(100 * (v - low) / span, 1) for v in numbers]
    return {"metric": metric, "numbers": numbers, "best": best, "places": places}


def _baselines(metrics: Sequence[Metric]) -> list[str]:
    return list(dict.fromkeys(name for metric in metrics for name in metric.baselines))


def _check(entry: Entry) -> None:
    """Raise a ValueError that names the entry when its arrays do not fit together."""
    image = entry.image
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"{entry.name}: image is {image.dtype} {image.shape}, not uint8 (h, w, 3)")
    for name, heat in entry.maps.items():
        if heat.ndim != 2:
            raise ValueError(f"{entry.name}: map {name!r} is {heat.shape}, not one (h, w)")
    for name, mask in (("mask", entry.mask), ("cue", entry.cue)):
        if mask is not None and (mask.dtype != bool or mask.shape != image.shape[:2]):
            raise ValueError(
                f"{entry.name}: {name} is {mask.dtype} {mask.shape}, not bool {image.shape[:2]}"
            )
    if entry.box is not None and not np.all(np.isfinite(entry.box)):
        raise ValueError(f"{entry.name}: box {entry.box} is not finite: pass None for no box")
