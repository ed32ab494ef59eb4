"""Maps of any range to importance in [0, 1], the only scale that maps are judged on."""

import numpy as np
from jaxtyping import Float

from fgjax.core.floor import is_flat
from fgjax.core.spelling import did_you_mean

SCALES = {
    "keep": "as they are: importance in [0, 1]",
    "positive": "max(map, 0) / max(map): evidence for, what speaks against left out",
    "absolute": "|map| / max |map|: evidence either way",
    "unit": "(map − min) / (max − min): only the order counts",
}
"""How a map becomes importance."""


def to_importance(
    maps: Float[np.ndarray, "n h w"], scale: str = "keep"
) -> Float[np.ndarray, "n h w"]:
    """Return maps as importance in [0, 1], each scaled by itself as `SCALES` says.

    A map that has nothing to scale (nowhere positive; or the same everywhere but for rounding, see
    `fgjax.core.floor`) becomes zero; one with a NaN or an infinity NaN everywhere.

    Raises:
      ValueError: an unknown scale; "keep", and a map that leaves [0, 1].

    Example:
      >>> to_importance(np.array([[[-1.0, 2.0]]]), "absolute").tolist()
      [[[0.5, 1.0]]]
    """
    if scale not in SCALES:
        hint = did_you_mean(scale, SCALES)
        raise ValueError(f"scale={scale!r}: one of {', '.join(SCALES)}.{hint}")
    maps = np.asarray(maps, np.float32)
    finite = np.isfinite(maps).all((1, 2), keepdims=True)
    maps = np.where(finite, maps, np.float32(0))
    low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    if scale == "keep":
        if low.size and (low.min() < 0 or high.max() > 1):
            first = int(np.flatnonzero((low < 0) | (high > 1))[0])
            others = "; ".join(f"{name}: {SCALES[name]}" for name in list(SCALES)[1:])
            raise ValueError(
                f"map {first} spans {low.flat[first]:.3g} to {high.flat[first]:.3g}, and "
                f"importance is in [0, 1]: give the scale that makes it so ({others})"
            )
        made = maps
    elif scale == "positive":
        made = np.maximum(maps, 0) / np.where(high > 0, high, 1)
    elif scale == "absolute":
        most = np.maximum(-low, high)
        made = np.abs(maps) / np.where(most > 0, most, 1)
    else:
        made = (maps - low) / np.where(high > low, high - low, 1)
    if scale != "keep":
        made = np.where(np.asarray(is_flat(maps))[:, None, None], 0, made)
    return np.where(finite, made, np.nan).astype(np.float32)
