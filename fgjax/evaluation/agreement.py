"""Do parts that were found without labels agree with the known parts, pixel by pixel?

A part that was found has no name: what counts is whether pixels that share a found part share a
known one. Both numbers are of the table of counts alone, n_kp pixels of the found part k and the
known part p, over all images together; both are 0 for parts that have nothing to do with the known
ones, also for a single part, and 1 for the same parts under other numbers.
"""

import numpy as np
from jaxtyping import Float, Int, Integer

PROTOCOLS = {
    "nmi": "normalised mutual information, 2 I(found; known) / (H(found) + H(known)), of the "
    "pixels of all images together",
    "ari": "adjusted Rand index of the pixels of all images together",
    "object": "over the pixels on the animal",
    "image": "over all pixels, the background being a part",
}


def part_counts(
    grouped: Integer[np.ndarray, "H W"],
    part_map: Integer[np.ndarray, "h w"],
    found: int,
    known: int,
) -> Int[np.ndarray, "k q"]:
    """Return how many pixels of an image are of a found part (rows) and of a known one.

    Args:
      grouped: the found part of every cell, from 0; cells are enlarged to the image.
      part_map: the known part of every pixel, from 1; 0: the background.
      found, known: how many parts there are of each.
    """
    rows, columns = (
        np.arange(side) * cells // side
        for side, cells in zip(part_map.shape, grouped.shape, strict=True)
    )
    pairs = grouped[rows[:, None], columns].astype(np.int64) * (known + 1) + part_map
    return np.bincount(pairs.ravel(), minlength=found * (known + 1)).reshape(found, known + 1)


def mutual_information(counts: Int[np.ndarray, "k p"]) -> float:
    """Return the normalised mutual information 2 I / (H + H) of two groupings, in [0, 1].

    NaN where both have one group only, or nothing is counted.

    References:
      Strehl and Ghosh, Cluster ensembles, JMLR 2002; normalised by the arithmetic mean.
    """
    joint = counts / max(counts.sum(), 1)
    entropies = [_entropy(joint.sum(axis)) for axis in (0, 1)]
    both = sum(entropies)
    if both == 0:
        return float("nan")
    return float(np.clip(2 * (both - _entropy(joint.ravel())) / both, 0, 1))


def _entropy(shares: Float[np.ndarray, "n"]) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def rand_index(counts: Int[np.ndarray, "k p"]) -> float:
    """Return the Rand index of two groupings, adjusted for chance: 0 expected by chance, 1 at most.

    NaN where chance can do nothing: both have one group only, or groups of one.

    References:
      Hubert and Arabie, Comparing partitions, Journal of Classification, 1985.
    """
    pairs = lambda n: (n.astype(np.float64) * (n - 1.0) / 2).sum()
    same = pairs(counts)
    own = [pairs(counts.sum(axis)) for axis in (0, 1)]
    every = pairs(counts.sum(keepdims=True))
    expected = own[0] * own[1] / every if every else 0.0
    most = sum(own) / 2
    return float((same - expected) / (most - expected)) if most > expected else float("nan")


def agreement(counts: Int[np.ndarray, "k q"]) -> dict[str, float]:
    """Return both numbers of the pixels on the animal, "nmi_object" and "ari_object", and of all,
    "nmi_image" and "ari_image"; `counts` are those of `part_counts`, summed over the images."""
    found = {}
    for where, held in {"object": counts[:, 1:], "image": counts}.items():
        found[f"nmi_{where}"] = mutual_information(held)
        found[f"ari_{where}"] = rand_index(held)
    return found


def parts_on_the_animal(counts: Int[np.ndarray, "k q"]) -> Float[np.ndarray, "k"]:
    """Return the share of each found part's pixels that lie on the animal; NaN for a part that has
    none."""
    total = counts.sum(1)
    with np.errstate(invalid="ignore"):
        return counts[:, 1:].sum(1) / np.where(total > 0, total, np.nan)
