"""Does the map weigh the parts of an object as the model does?

For drawn images a part can be taken away for true: the scene is drawn again without it, and
no baseline or infill stands in for it. These functions take such drawings as arrays, one row
of `parts` per part; `SpeciesSource.without_parts` makes them.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fgjax.core.scores import log_odds
from fgjax.devices.jit import program
from fgjax.evaluation.order import rank_correlation

POOLS = {
    "sum": "sum of the map over the part's pixels",
    "mean": "mean of the map over the part's pixels",
}
SCORES = {"log_odds": "log-odds of the class", "logit": "logit of the class"}


class PartDeletion(NamedTuple):
    """What the model loses with each part, what the map gives it, and how these agree.

    Attributes:
      correlation: Spearman's ρ of the two over the parts of an image, in [−1, 1]; higher is
        better.
      drops: score of the image − score without the part; NaN for a part that does not count.
      attribution: the map pooled over the part; NaN for a part that does not count.
    """

    correlation: Float[Array, "n"]
    drops: Float[Array, "n parts"]
    attribution: Float[Array, "n parts"]


def single_part_deletion(
    model: Callable,
    images: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    maps: Float[Array, "n h w"],
    without: Float[Array, "n parts h w c"] | None,
    part_masks: Bool[Array, "n parts h w"],
    present: Bool[Array, "n parts"],
    *,
    pool: str = "sum",
    score: str = "log_odds",
    drops: Float[Array, "n parts"] | None = None,
) -> PartDeletion:
    """Return rank correlation of the true drop of the class score with the attribution, over parts.

      ρ_p( s(x) − s(x without part p),  pool over part p of the map )

    A part counts where it is `present` and its mask has a pixel. "log_odds" (FIDO's Eq. 4)
    orders the parts as the class probability does, without its saturation.

    Args:
      without: the image drawn again with one part away; whatever, where `present` is False. None
        where the drops are known.
      part_masks: where each part is seen in the image.
      pool: "sum" favours large parts, as the drop may; "mean" does not.
      drops: what `part_drops` returns, where it is known: it is the same for every map.

    Returns:
      `correlation` is NaN with fewer than two parts that count, where all their drops or all
      their attributions are equal, for a map with a NaN or an infinity, and for a target that
      the model does not have.

    Raises:
      ValueError: an unknown pool or score; neither `without` nor `drops`.

    References:
      Hesse et al., FunnyBirds: A Synthetic Vision Dataset for a Part-Based Analysis of
      Explainable AI Methods, ICCV 2023, "single deletion". (There: the logit, the sum, and
      (1 + ρ)/2 of those ρ that are defined.)
    """
    counts = present & jnp.any(part_masks, axis=(2, 3))
    if drops is None:
        if without is None:
            raise ValueError("without: the images without each part, or drops, what they cost")
        drops = part_drops(model, images, targets, without, score=score)
    attribution = part_attribution(maps, part_masks, pool=pool)
    broken = ~jnp.all(jnp.isfinite(maps), axis=(1, 2))
    correlation = jnp.where(broken, jnp.nan, rank_correlation(drops, attribution, counts))
    return PartDeletion(
        correlation, jnp.where(counts, drops, jnp.nan), jnp.where(counts, attribution, jnp.nan)
    )


def part_drops(
    model: Callable,
    images: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    without: Float[Array, "n parts h w c"],
    *,
    score: str = "log_odds",
) -> Float[Array, "n parts"]:
    """s(x) − s(x without part p) for every part: parts + 1 forward passes of n images."""
    _known("score", score, SCORES)
    before = _score(model(images), targets, score=score)
    after = [
        _score(model(without[:, part]), targets, score=score) for part in range(without.shape[1])
    ]
    return before[:, None] - jnp.stack(after, axis=1)


@program("explain", static_argnames="pool")
def part_attribution(
    maps: Float[Array, "n h w"],
    part_masks: Bool[Array, "n parts h w"],
    *,
    pool: str = "sum",
) -> Float[Array, "n parts"]:
    """Return the map's sum, or mean, over every part's pixels; without a pixel 0, or NaN."""
    _known("pool", pool, POOLS)
    total = jnp.sum(jnp.where(part_masks, maps[:, None], 0), axis=(2, 3))
    if pool == "sum":
        return total
    return total / jnp.sum(part_masks, axis=(2, 3), dtype=jnp.float32)


def parts_protocol(*, pool: str = "sum", score: str = "log_odds") -> str:
    """Return what a number of `single_part_deletion` was measured with, to print beside it."""
    return (
        f"Spearman's rank correlation, over the parts seen in an image, of the drop of the "
        f"{SCORES[score]} when the part is redrawn away and the {POOLS[pool]}"
    )


@partial(jax.jit, static_argnames="score")
def _score(logits, targets, *, score):
    logits = logits.astype(jnp.float32)
    known = (targets >= 0) & (targets < logits.shape[1])
    chosen = jnp.where(known, targets, 0)
    if score == "logit":
        values = jnp.take_along_axis(logits, chosen[:, None], axis=1)[:, 0]
    else:
        values = log_odds(logits, chosen)
    return jnp.where(known, values, jnp.nan)


def _known(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(choices)}")
