"""With another species' crest it is that species: does the map point at the part whose swap counts?

A drawn bird is drawn again with one part of another class in place of its own. The parts whose
swap changes what the model says are what its decision hangs on, found without a baseline, an infill
or a threshold. Everything is NumPy and knows no model.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class PartSwaps(NamedTuple):
    """A value per image; NaN where no part's swap counts, or every part's: nothing to find.

    Attributes:
      energy: the share of the map's sum that lies in the parts whose swap counts.
      first: whether the part with most of the map's sum is one of them. Of parts that have equally
        much, each counts alike: a map that tells none apart has the chance.
      area: the share of the image in those parts, `energy` of a constant map.
      chance: the share of the parts that are such, `first` of a random choice.
    """

    energy: Float[np.ndarray, "n"]
    first: Float[np.ndarray, "n"]
    area: Float[np.ndarray, "n"]
    chance: Float[np.ndarray, "n"]


def flipping_parts(
    before: int, after: Int[np.ndarray, "s"], parts: Int[np.ndarray, "s"], count: int
) -> Bool[np.ndarray, "p"]:
    """Return the parts of which at least one swap changes the prediction.

    Args:
      before: the prediction for the bird as it is.
      after: that for each drawing with a part swapped.
      parts: which part that was.
      count: how many parts there are.
    """
    flips = np.zeros(count, bool)
    flips[parts[after != before]] = True
    return flips


def part_swaps(
    importance: Float[np.ndarray, "n p"],
    flips: Bool[np.ndarray, "n p"],
    areas: Float[np.ndarray, "n p"],
) -> PartSwaps:
    """Return whether maps point at the parts whose swap changes the prediction.

    Args:
      importance: the share of each map's sum in every part (`funnybirds.part_importance`).
      flips: see `flipping_parts`.
      areas: the same share of a constant map.

    Example:
      >>> found = part_swaps(np.array([[0.6, 0.1]]), np.array([[True, False]]),
      ...                    np.array([[0.1, 0.2]]))
      >>> float(found.energy[0]), float(found.first[0]), float(found.chance[0])
      (0.6, 1.0, 0.5)
    """
    told = flips.any(1) & ~flips.all(1)
    top = importance == importance.max(1, keepdims=True)
    first = np.where((top & flips).any(1), (top & flips).sum(1) / np.maximum(top.sum(1), 1), 0.0)
    first = np.where(np.isfinite(importance).all(1), first, np.nan)
    only = lambda values: np.where(told, values, np.nan)
    return PartSwaps(
        only(np.where(flips, importance, 0).sum(1)),
        only(first),
        only(np.where(flips, areas, 0).sum(1)),
        only(flips.mean(1)),
    )
