"""The FunnyBirds protocol: does a map name the parts that the model's decision hangs on?

A drawn bird has `p` parts that tell its class. The image is drawn again without every subset of
them, and the model is asked once for all 2^p drawings; every number here is then looked up, for
any map and any threshold, with no further pass. Everything is NumPy and knows no model.

Subset number: Σ 2^i over the parts i that are *removed*; 0 is the whole bird.

References:
  Hesse, Schaub-Meyer, Roth, FunnyBirds: A Synthetic Vision Dataset for a Part-Based Analysis of
  Explainable AI Methods, ICCV 2023.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import maximum_filter
from scipy.stats import spearmanr

THRESHOLDS = np.linspace(0.01, 0.5, 80)
"""A part is important above this share of the map's sum; the best of them is reported."""

RELEVANT = 0.05
"""Share of the score that a part's removal must cost, or else it is irrelevant."""

DILATION = 5 / 256
"""Width of the square that a part's mask grows by, in image sides."""


def part_importance(
    maps: Float[np.ndarray, "n h w"], masks: Bool[np.ndarray, "n p h w"]
) -> Float[np.ndarray, "n p"]:
    """Return the share of the map's sum in every part, its mask dilated.

    0 for every part of a map whose sum is not positive: it says nothing.
    """
    total = maps.sum((1, 2), dtype=np.float64)
    width = 2 * max(1, round(DILATION * maps.shape[-1] / 2)) + 1
    grown = maximum_filter(masks, size=(1, 1, width, width), mode="constant")
    inside = np.where(grown, maps[:, None], 0).sum((2, 3), dtype=np.float64)
    return np.where(total[:, None] > 0, inside / np.where(total > 0, total, 1)[:, None], 0.0)


def important_parts(
    importance: Float[np.ndarray, "n p"], thresholds: Sequence[float] | np.ndarray = THRESHOLDS
) -> Bool[np.ndarray, "t n p"]:
    """Return which parts hold more than each threshold of the map's sum."""
    return importance[None] > np.asarray(thresholds)[:, None, None]


def subset_number(removed: Bool[np.ndarray, "... p"]) -> Int[np.ndarray, "..."]:
    """Return the number of the drawing in which these parts are removed."""
    return (removed * 2 ** np.arange(removed.shape[-1])).sum(-1)


def sufficient_sets(kinds: Int[np.ndarray, "k p"], label: int) -> Bool[np.ndarray, "s p"]:
    """Return the smallest sets of parts that no other class shares with the class `label`.

    Args:
      kinds: which variant of each part a class has.

    Raises:
      ValueError: another class has all the same parts.
    """
    parts = range(kinds.shape[1])
    same = np.delete(kinds == kinds[label], label, axis=0)
    found: list[frozenset[int]] = []
    for size in range(1, len(parts) + 1):
        for chosen in combinations(parts, size):
            if same[:, chosen].all(1).any() or any(found_set < set(chosen) for found_set in found):
                continue
            found.append(frozenset(chosen))
    if not found:
        raise ValueError(f"class {label} has the same parts as another: no set of them tells it")
    return np.array([[part in one for part in parts] for one in found])


def controlled_data_check(
    important: Bool[np.ndarray, "t n p"], sufficient: Sequence[Bool[np.ndarray, "_ p"]]
) -> Float[np.ndarray, "t n"]:
    """Return CSDC: the share, of the sufficient set that fits best, that is important.

    max_S |I ∩ S| / |S|
    """
    values = [
        ((important[:, i, None] & sets).sum(2) / sets.sum(1)).max(1)
        for i, sets in enumerate(sufficient)
    ]
    return np.stack(values, axis=1)


def preservation_check(
    important: Bool[np.ndarray, "t n p"], logits: Float[np.ndarray, "n subsets k"]
) -> Float[np.ndarray, "t n"]:
    """Return PC: 1 where the important parts alone keep the prediction."""
    return _kept(~important, logits).astype(float)


def deletion_check(
    important: Bool[np.ndarray, "t n p"], logits: Float[np.ndarray, "n subsets k"]
) -> Float[np.ndarray, "t n"]:
    """Return DC: 1 where the prediction changes when the important parts are removed."""
    return 1.0 - _kept(important, logits)


def _kept(
    removed: Bool[np.ndarray, "t n p"], logits: Float[np.ndarray, "n subsets k"]
) -> Bool[np.ndarray, "t n"]:
    predicted = logits.argmax(-1)
    return predicted[np.arange(len(logits)), subset_number(removed)] == predicted[:, 0]


def irrelevant_parts(
    score: Float[np.ndarray, "n"],
    without: Float[np.ndarray, "n q"],
    present: Bool[np.ndarray, "n q"] | None = None,
) -> Bool[np.ndarray, "n q"]:
    """Return the parts or things whose removal costs less than 5 % of the score, or raises it.

    Args:
      score: the class's logit for the whole image.
      without: the same with each part or background thing removed.
      present: False: the image has no such thing.
    """
    drop = score[:, None] - without
    irrelevant = (drop < 0) | (np.abs(drop) < RELEVANT * np.abs(score[:, None]))
    return irrelevant if present is None else irrelevant & present


def distractibility(
    important: Bool[np.ndarray, "t n q"], irrelevant: Bool[np.ndarray, "n q"]
) -> Float[np.ndarray, "t n"]:
    """Return D: 1 − the share of the irrelevant parts and things that are important.

    NaN for an image in which nothing is irrelevant.
    """
    count = irrelevant.sum(1)
    wrong = (important & irrelevant).sum(2)
    return np.where(count > 0, 1 - wrong / np.maximum(count, 1), np.nan)


def background_independence(
    irrelevant: Bool[np.ndarray, "n b"], present: Bool[np.ndarray, "n b"]
) -> Float[np.ndarray, "n"]:
    """Return BI, of the model: the share of the things in the background that are irrelevant.

    NaN for an image without such a thing. (The paper's number counts things, not images.)
    """
    count = present.sum(1)
    return np.where(count > 0, (irrelevant & present).sum(1) / np.maximum(count, 1), np.nan)


def single_deletion(
    importance: Float[np.ndarray, "n p"],
    score: Float[np.ndarray, "n"],
    without: Float[np.ndarray, "n p"],
) -> Float[np.ndarray, "n"]:
    """Return SD: (1 + ρ)/2, ρ Spearman's of importance and what the score loses with each part.

    A map that gives all parts the same has no order: chance, 0.5, and not left out as in the
    paper, or abstaining would pay. NaN where the score loses the same with every part.
    """
    values = []
    for weights, drops in zip(importance, score[:, None] - without, strict=True):
        if np.ptp(drops) == 0 or not np.isfinite(weights).all():
            values.append(np.nan)
        elif np.ptp(weights) == 0:
            values.append(0.5)
        else:
            values.append((1 + spearmanr(weights, drops).statistic) / 2)
    return np.array(values)


def rival_classes(kinds: Int[np.ndarray, "k p"], label: int, shared: int = 2) -> tuple[int, int]:
    """Return the first two classes that share `shared` parts each with `label`, none the same.

    Raises:
      ValueError: there are no such two.
    """
    same = kinds == kinds[label]
    able = [c for c in range(len(kinds)) if c != label and same[c].sum() == shared]
    for one, other in combinations(able, 2):
        if not (same[one] & same[other]).any():
            return one, other
    raise ValueError(f"no two classes share {shared} parts each, and different ones, with {label}")


def target_sensitivity(
    importance: Float[np.ndarray, "n 2 p"], shared: Bool[np.ndarray, "n 2 p"]
) -> Float[np.ndarray, "n"]:
    """Return TS: does the map of each rival class weigh that class's parts more than the other's
    map does?

    Args:
      importance: of the parts, in the maps for the first and the second rival class.
      shared: the parts that the image shares with the first and with the second.

    Returns:
      0, 0.5 or 1: the share of the two comparisons that are right. A tie is wrong.
    """
    first, second = importance[:, 0], importance[:, 1]
    gain = first - second
    right = (np.where(shared[:, 0], gain, 0).sum(1) > 0).astype(float)
    return (right + (np.where(shared[:, 1], gain, 0).sum(1) < 0)) / 2


def rivals_behave(
    logits: Float[np.ndarray, "n subsets k"],
    rivals: Int[np.ndarray, "n 2"],
    shared: Bool[np.ndarray, "n 2 p"],
) -> Bool[np.ndarray, "n"]:
    """Return where the model itself does what target sensitivity takes for granted.

    The first rival's logit falls lower without the first's parts than without the second's, and
    the other way round. TS is measured on these images only.
    """
    rows = np.arange(len(logits))
    found = []
    for own, other in ((0, 1), (1, 0)):
        without_own = logits[rows, subset_number(shared[:, own]), rivals[:, own]]
        without_other = logits[rows, subset_number(shared[:, other]), rivals[:, own]]
        found.append(without_own < without_other)
    return found[0] & found[1]


class Completeness(NamedTuple):
    """The threshold-based numbers at the best threshold, a value per image.

    Attributes:
      completeness: (mean(CSDC, PC, DC) + D)/2; NaN where D is.
      threshold: the share of the map's sum above which a part is important.
    """

    completeness: Float[np.ndarray, "n"]
    csdc: Float[np.ndarray, "n"]
    pc: Float[np.ndarray, "n"]
    dc: Float[np.ndarray, "n"]
    d: Float[np.ndarray, "n"]
    threshold: float


def best_completeness(
    csdc: Float[np.ndarray, "t n"],
    pc: Float[np.ndarray, "t n"],
    dc: Float[np.ndarray, "t n"],
    d: Float[np.ndarray, "t n"],
    thresholds: Sequence[float] | np.ndarray = THRESHOLDS,
) -> Completeness:
    """Return the numbers at the one threshold, for all images, whose mean completeness is highest.

    The lowest of equal ones. Every row of a table has its own threshold, chosen on the images it
    is judged by: a control that knows nothing has at least 0.5, for at a threshold at which
    nothing is important D is 1.
    """
    counts = np.isfinite(d).any(0)
    behind = d[:, counts].mean(1) if counts.any() else np.zeros(len(d))
    best = int(np.argmax((csdc + pc + dc).mean(1) / 3 + behind))
    whole = ((csdc + pc + dc)[best] / 3 + d[best]) / 2
    chosen = float(np.asarray(thresholds)[best])
    return Completeness(whole, csdc[best], pc[best], dc[best], d[best], chosen)
