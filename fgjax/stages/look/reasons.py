"""Why an image is worth a look: a classifier's mistakes, and what it may have learnt instead."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fgjax.options.judging import LookConfig

WRONG = "sure and wrong"
UNSURE = "unsure"
BACKGROUND = "explained by the background"
SAME = "nearly the same as a training image"
REASONS = (WRONG, SAME, BACKGROUND, UNSURE)
"""The worst first."""


@dataclass(frozen=True)
class Seen:
    """What is known of an explained image.

    Attributes:
      p: probability of each output.
      known: the output that would be right; None: not known.
      inside: share of the map in the object or its box; NaN: not annotated.
      likeness: to the training image that is most alike; NaN: there is none.
      twin: that one's name.
    """

    p: Float[np.ndarray, "k"]
    known: int | None = None
    inside: float = np.nan
    likeness: float = np.nan
    twin: str = ""


def reasons_of(seen: Seen, config: LookConfig) -> tuple[str, ...]:
    """Return the reasons, of `REASONS`, to look at an image."""
    order = np.argsort(-seen.p, kind="stable")
    first = float(seen.p[order[0]])
    second = float(seen.p[order[1]]) if len(order) > 1 else 0.0
    wrong = seen.known is not None and int(order[0]) != seen.known
    held = {
        WRONG: wrong and first >= config.sure,
        SAME: seen.likeness >= config.same,
        BACKGROUND: seen.inside < config.background,
        UNSURE: first - second < config.margin,
    }
    return tuple(reason for reason in REASONS if held[reason])


def worth(seen: Seen, reasons: tuple[str, ...]) -> tuple[float, ...]:
    """Return what images are sorted by, the lowest first: the worst reason, then p."""
    return (
        float(min((REASONS.index(reason) for reason in reasons), default=len(REASONS))),
        -float(seen.p.max()),
    )


def most_alike(
    features: Float[np.ndarray, "n d"], others: Float[np.ndarray, "m d"]
) -> tuple[np.ndarray, Float[np.ndarray, "n"]]:
    """Return for each row the index of the most alike of the others, and their cosine; index 0 and
    NaN where there are no others."""
    if not len(others):
        return np.zeros(len(features), int), np.full(len(features), np.nan)
    unit = lambda rows: rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosine = unit(features.astype(np.float64)) @ unit(others.astype(np.float64)).T
    best = cosine.argmax(1)
    return best, cosine[np.arange(len(best)), best]
