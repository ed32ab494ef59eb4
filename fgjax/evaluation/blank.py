"""Maps that say nothing: how many, and why."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fgjax.core.floor import FLOOR, is_flat

NO_SCORE_MOVED = "no perturbation moved the score by more than rounding"
NOTHING_FOR_IT = "zero everywhere: the method found nothing that speaks for the class"
ALL_ALIKE = "the same value everywhere"


def why_blank(heatmap: Float[Array | np.ndarray, "h w"], spread: float | None = None) -> str | None:
    """Return why a map is blank; None where it is not, or is broken (a NaN, an infinity).

    Args:
      heatmap: importance.
      spread: the trace "spread" of the methods that perturb, how far the scores lay apart as a
        share of the largest, where it is known.
    """
    heat = jnp.asarray(np.asarray(heatmap, np.float32))[None]
    if not bool(is_flat(heat)[0]):
        return None
    if spread is not None and spread <= FLOOR:
        return NO_SCORE_MOVED
    return ALL_ALIKE if heat.any() else NOTHING_FOR_IT


def count_reasons(reasons: Sequence[str | None]) -> dict[str, Any]:
    """Return how many maps there are, how many of them are blank, and how often why."""
    why = Counter(reason for reason in reasons if reason is not None)
    return {"maps": len(reasons), "blank": sum(why.values()), "why": dict(why.most_common())}


def blank_sentence(counts: dict[str, Any]) -> str:
    """Return what `count_reasons` found in a sentence; "" where no map is blank."""
    if not counts["blank"]:
        return ""
    why = "; ".join(f"{count}: {reason}" for reason, count in counts["why"].items())
    are = "is" if counts["blank"] == 1 else "are"
    return f"{counts['blank']} of {counts['maps']} maps {are} blank ({why})"
