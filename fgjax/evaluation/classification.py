"""How a classifier is judged beside its accuracy: each class, what is mistaken for what, whether
its probabilities mean what they say, and how right it is higher up in a tree of classes.

Classes are columns of `logits` here, and `targets` places among them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import squareform
from scipy.special import log_softmax, softmax

BINS = 15
"""Of the calibration error, as Guo et al. have it."""
OPTIMAL = 300
"""Classes up to which similar ones are ordered optimally; of more, as their tree comes."""
HOTTEST = 100.0
"""Temperatures lie between 1/100 and 100."""


def confusion_matrix(
    targets: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], classes: int
) -> Int[np.ndarray, "k k"]:
    """Return how many images of each class (a row) were taken for each (a column)."""
    found = np.zeros((classes, classes), np.int64)
    np.add.at(found, (targets, predicted), 1)
    return found


def similar_together(confusion: Int[np.ndarray, "k k"]) -> Int[np.ndarray, "k"]:
    """Return an order of the classes in which those that are mistaken for each other are
    neighbours.

    Two classes are as near as the shares of their images that were taken for each other (1 minus
    the mean of both); a tree of average linkage, its leaves in the order with the smallest sum of
    distances between neighbours.

    Reference: Bar-Joseph et al., Fast Optimal Leaf Ordering for Hierarchical Clustering, 2001.
    """
    k = len(confusion)
    if k < 3:
        return np.arange(k)
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    distances = 1 - (shares + shares.T) / 2
    np.fill_diagonal(distances, 0)
    condensed = squareform(distances, checks=False)
    tree = linkage(condensed, "average")
    return leaves_list(optimal_leaf_ordering(tree, condensed) if k <= OPTIMAL else tree)


class ClassFigures(NamedTuple):
    """One class: its test images, the share of them that is recognised (recall), the share of what
    is taken for it that is it (precision), and what it is taken for most often (-1: nothing)."""

    images: int
    recall: float
    precision: float
    mistaken_for: int
    mistaken: int


def class_figures(confusion: Int[np.ndarray, "k k"]) -> list[ClassFigures]:
    """Return the figures of every class; NaN where there is nothing to take a share of."""
    off = confusion.copy()
    np.fill_diagonal(off, 0)
    rows = []
    for c in range(len(confusion)):
        images, taken, right = confusion[c].sum(), confusion[:, c].sum(), confusion[c, c]
        worst = int(off[c].argmax())
        count = int(off[c, worst])
        rows.append(
            ClassFigures(
                int(images),
                float(right / images) if images else float("nan"),
                float(right / taken) if taken else float("nan"),
                worst if count else -1,
                count,
            )
        )
    return rows


class Reliability(NamedTuple):
    """Predictions sorted into bins by how sure they are.

    Attributes:
      counts: of each bin; `sure`: their mean probability; `right`: the share that is right. NaN in
        an empty bin.
      error: the expected calibration error: mean |right - sure|, weighed by `counts`.
    """

    counts: Int[np.ndarray, "b"]
    sure: Float[np.ndarray, "b"]
    right: Float[np.ndarray, "b"]
    error: float


def reliability(
    probability: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"], bins: int = BINS
) -> Reliability:
    """Return how often predictions are right that are so and so sure, in bins of equal width.

    Args:
      probability: of each prediction, in [0, 1].
      right: whether it is.

    Reference: Guo et al., On Calibration of Modern Neural Networks, 2017, Eqs. 2 to 5.
    """
    place = np.minimum((np.asarray(probability, np.float64) * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        sure = np.bincount(place, probability, bins) / count
        share = np.bincount(place, right, bins) / count
    gaps = np.where(count > 0, np.abs(share - sure), 0.0)
    return Reliability(count, sure, share, float((gaps * count).sum() / max(count.sum(), 1)))


def fit_temperature(logits: Float[np.ndarray, "n k"], targets: Int[np.ndarray, "n"]) -> float:
    """Return the T for which softmax(logits / T) has the smallest cross-entropy: above 1 where a
    classifier is surer than it should be. Which class is highest does not change. Where every
    image is right there is no such T, for surer is always better: then it is 1.

    Args:
      logits, targets: of images that did not train it.

    Reference: Guo et al., On Calibration of Modern Neural Networks, 2017, section 4.2.
    """
    z = np.asarray(logits, np.float64)
    if (z.argmax(1) == targets).all():
        return 1.0

    def loss(log_t: float) -> float:
        return -log_softmax(z / np.exp(log_t), axis=1)[np.arange(len(z)), targets].mean()

    most = np.log(HOTTEST)
    found = minimize_scalar(loss, bounds=(-most, most), method="bounded", options={"xatol": 1e-5})
    return float(np.exp(found.x))


@dataclass(frozen=True)
class LevelFigures:
    """A level of a tree of classes.

    Attributes:
      name: of the level.
      groups: how many there are.
      accuracy: of the group with the highest sum of probabilities.
      answered: share of the images whose answer is given at this level, where an answer climbs
        until it is sure enough.
      right: share of those answers that are right; NaN: none.
    """

    name: str
    groups: int
    accuracy: float
    answered: float
    right: float


def roll_up(
    logits: Float[np.ndarray, "n k"],
    targets: Int[np.ndarray, "n"],
    levels: Mapping[str, Sequence[str]],
    sure: float,
    temperature: float = 1.0,
) -> list[LevelFigures]:
    """Return how right a classifier is at every level of a tree of classes, the finest first, and
    what its answers are when it may answer coarsely.

    The probability of a group is the sum of its classes'. An answer is given at the finest level
    where the best group's probability is at least `sure`, and at the coarsest where there is
    none.

    Args:
      levels: name -> the group of every class, from fine to coarse; the classes themselves stand
        before them.
      temperature: of the probabilities.

    Reference: Deng et al., Hedging Your Bets, 2012, for answers that climb.
    """
    p = softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    waiting, rows = np.ones(len(p), bool), []
    every = {"class": [str(c) for c in range(p.shape[1])], **levels}
    for number, (name, groups) in enumerate(every.items()):
        known, place = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
        summed = np.stack([p[:, place == g].sum(1) for g in range(len(known))], axis=1)
        right = summed.argmax(1) == place[targets]
        last = number == len(every) - 1
        answers = waiting & ((summed.max(1) >= sure) | last)
        waiting &= ~answers
        rows.append(
            LevelFigures(
                name,
                len(known),
                float(right.mean()),
                float(answers.mean()),
                float(right[answers].mean()) if answers.any() else float("nan"),
            )
        )
    return rows
