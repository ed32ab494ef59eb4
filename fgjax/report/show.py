"""Maps over their images as a figure: `fgjax.show(images, result)`, for notebooks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fgjax.report.overlay import contour, map_title, overlay, primary_map, resize_map, to_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show(
    images: Any,
    result: Any,
    *,
    titles: Sequence[str] = (),
    maps: Sequence[str] | None = None,
    threshold: float = 0.5,
    opacity: float = 0.5,
    colormap: str = "magma",
    size: float = 2.6,
) -> "Figure":
    """Return a figure with a row for each image: as it is, under each of its maps, and what lies
    above the threshold. At the end of a notebook's cell it is shown; elsewhere `.savefig(file)`.

    Args:
      images: `n h w 3`, RGB in [0, 1] or 8-bit; or one image, `h w 3`.
      result: what a method returned, a map of each image (`n h w`), or name -> maps.
      titles: of the rows, such as class names.
      maps: which; None: what the method made, then its heat map.
      threshold: of the contour and of the last picture.
      opacity, colormap: of the maps over the images.
      size: height and width of a picture in inches.

    Raises:
      ValueError: shapes that do not fit together, an unknown map.

    Example:
      >>> images, heat = np.full((2, 16, 16, 3), 0.5), np.eye(16)[None].repeat(2, 0)
      >>> figure = fgjax.show(images, heat, titles=["robin", "wren"])
      >>> len(figure.axes)  # image, map, above the threshold
      6
    """
    from matplotlib import pyplot

    pictures = _pictures(images)
    found = _maps(result)
    for name, values in found.items():
        if values.ndim != 3 or len(values) != len(pictures):
            raise ValueError(
                f"map {name!r} is {values.shape} for {len(pictures)} images: wanted is a map of "
                "each, (n, h, w)"
            )
    primary = primary_map(list(found))
    if maps is not None:
        if unknown := [name for name in maps if name not in found]:
            raise ValueError(f"no map {unknown[0]!r}: there are {', '.join(found)}")
        found = {name: found[name] for name in maps}
        primary = primary_map(list(found))
    columns = 1 + len(found) + (primary is not None)
    figure, axes = pyplot.subplots(
        len(pictures), columns, squeeze=False, layout="constrained",
        figsize=(size * columns, size * len(pictures)),
    )  # fmt: skip
    for i, (image, row) in enumerate(zip(pictures, axes, strict=True)):
        drawn = [(titles[i] if i < len(titles) else "image", image)]
        units = {name: _at(values[i], image) for name, values in found.items()}
        for name, (unit, note) in units.items():
            title = map_title(name) + (f" ({note})" if note else "")
            drawn.append((title, overlay(image, unit, opacity=opacity, colormap=colormap)))
        if primary is not None:
            unit = units[primary][0]
            cut = np.where((unit > threshold)[..., None], image, image // 3)
            drawn.append((f"{map_title(primary)} > {threshold:g}", contour(cut, unit, threshold)))
        for axis, (title, picture) in zip(row, drawn, strict=True):
            axis.imshow(picture)
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    if "inline" in pyplot.get_backend():  # else a notebook would show it twice
        pyplot.close(figure)
    return figure


def _pictures(images: Any) -> np.ndarray:
    found = np.asarray(images)
    found = found[None] if found.ndim == 3 else found
    if found.ndim != 4 or found.shape[-1] != 3:
        hint = ": channels come last here" if found.ndim == 4 and found.shape[1] == 3 else ""
        raise ValueError(f"images are {found.shape}, not (n, h, w, 3){hint}")
    if found.dtype == np.uint8:
        return found
    found = found.astype(np.float32)
    low, high = float(found.min(initial=0)), float(found.max(initial=0))
    if low < -1e-3 or high > 1 + 1e-3:
        raise ValueError(
            f"images go from {low:.3g} to {high:.3g}: they are shown as the model gets them, RGB "
            "in [0, 1] (or 8-bit); what is normalised or 0 … 255 as floats is not"
        )
    return np.rint(255 * np.clip(found, 0, 1)).astype(np.uint8)


def _maps(result: Any) -> dict[str, np.ndarray]:
    """Return name -> maps: of an attribution, a dict, or one array."""
    if isinstance(result, Mapping):
        return {name: _alone(np.asarray(value)) for name, value in result.items()}
    if not hasattr(result, "heatmap"):
        return {"heatmap": _alone(np.asarray(result))}
    more = dict(result.maps)
    # FIDO's heat map is the joint mask of the two others.
    title = "joint" if {"ssr", "sdr"} <= more.keys() else "heatmap"
    order = sorted(more, key=lambda name: name != "ssr")
    return {n: np.asarray(more[n]) for n in order} | {title: np.asarray(result.heatmap)}


def _alone(values: np.ndarray) -> np.ndarray:
    return values[None] if values.ndim == 2 else values


def _at(heat: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, str]:
    unit, note = to_unit(heat)
    return resize_map(unit, *image.shape[:2]), note
