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
      among: the share of what the map gives all the parts together; of a map that gives them
        nothing, the chance.
      first: whether the part whose pixels are highest on average is one of them. Of parts that are
        equally high, each counts alike: a map that tells none apart has the chance.
    """

    energy: Float[np.ndarray, "n"]
    among: Float[np.ndarray, "n"]
    first: Float[np.ndarray, "n"]


class Chances(NamedTuple):
    """What a map has that knows nothing; a value per image.

    Attributes:
      energy: the share of the image in the parts whose swap counts.
      among: their share of all the parts' pixels.
      first: how many of the parts are such.
    """

    energy: Float[np.ndarray, "n"]
    among: Float[np.ndarray, "n"]
    first: Float[np.ndarray, "n"]


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
      >>> found = part_swaps(np.array([[0.6, 0.2]]), np.array([[True, False]]),
      ...                    np.array([[0.1, 0.2]]))
      >>> float(found.energy[0]), round(float(found.among[0]), 2), float(found.first[0])
      (0.6, 0.75, 1.0)
    """
    height = importance / np.where(areas > 0, areas, 1)
    top = height == height.max(1, keepdims=True)
    first = (top & flips).sum(1) / np.maximum(top.sum(1), 1)
    every, inside = importance.sum(1), np.where(flips, importance, 0).sum(1)
    chance = chances(flips, areas)
    among = np.where(every > 0, inside / np.where(every > 0, every, 1), chance.among)
    known, told = np.isfinite(every), ~np.isnan(chance.first)
    only = lambda values: np.where(known & told, values, np.nan)
    return PartSwaps(only(inside), only(among), only(first))


def chances(flips: Bool[np.ndarray, "n p"], areas: Float[np.ndarray, "n p"]) -> Chances:
    """Return what a map has that knows nothing; the arguments are those of `part_swaps`."""
    told = flips.any(1) & ~flips.all(1)
    inside = np.where(flips, areas, 0).sum(1)
    only = lambda values: np.where(told, values, np.nan)
    return Chances(only(inside), only(inside / areas.sum(1)), only(flips.mean(1)))
