"""Does the model itself need what the map shows?

The model is any callable, images `n h w c` in [0, 1] -> logits `n k`. It is called as it
is, on whole batches of one shape and from Python: hand in a jitted one.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from fgjax.core.filters import gaussian_blur
from fgjax.core.scores import undefined_with
from fgjax.evaluation.order import TIES, pixel_ranks

BLUR_SIGMA = 10.0
BASELINES = {
    "blur": f"the image blurred by a Gaussian of {BLUR_SIGMA:g} px of a 224 px image",
    "mean": "the image's mean colour",
    "zero": "black (0 in pixel space)",
}


class KeptAndDeleted(NamedTuple):
    """Class probabilities, one per image; `._asdict()` is a part of a results row.

    Attributes:
      p_full: of the image as it is.
      p_kept: when only the map's region is kept.
      p_deleted: when the map's region is replaced.
    """

    p_full: Float[Array, "n"]
    p_kept: Float[Array, "n"]
    p_deleted: Float[Array, "n"]


def kept_and_deleted(
    model: Callable,
    images: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    maps: Float[Array, "n h w"] | Bool[Array, "n h w"],
    infill_images: Float[Array, "n h w c"],
) -> KeptAndDeleted:
    """Return the class probability with only the map's region kept, and with it replaced.

    Both are φ(x, z) = (1 − z)·x + z·x̂ (FIDO's Eq. 1) with the infill x̂: z = 1 − map
    keeps the region, z = map deletes it. A soft map (importance in [0, 1]) blends.
    An empty map keeps nothing, so p_kept is then the probability of the infill.

    NaN for a map with a NaN, and for a target that the model does not have.
    """
    importance = maps.astype(jnp.float32)
    return KeptAndDeleted(
        p_full=target_probability(model(images), targets),
        p_kept=target_probability(model(_fill(images, 1.0 - importance, infill_images)), targets),
        p_deleted=target_probability(model(_fill(images, importance, infill_images)), targets),
    )


def insertion(
    model: Callable,
    images: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    maps: Float[Array, "n h w"],
    *,
    steps: int = 50,
    baseline: str | Float[Array, "n h w c"] = "blur",
    key: Key[Array, "..."] | None = None,
    p_full: Float[Array, "n"] | None = None,
) -> Float[Array, "n"]:
    """Return area under the class probability as the image's pixels are put into a baseline.

    Most important pixels first, a `steps`-th of the image at a time (steps + 1 forward
    passes), over the share of pixels put in, by the trapezoid rule; in [0, 1], higher is
    better. Equally important pixels go in a random order.

    Args:
      baseline: "blur" (a Gaussian of 10 px of a 224 px image, the border mirrored), "mean" (each
        image's mean colour), "zero" (black), or images to use.
      key: of the order of ties, see `pixel_ranks`.
      p_full: the class probability of the images as they are, where it is known: a forward pass
        less.

    Returns:
      A value per image; NaN for a map with a NaN and a target the model does not have.

    Raises:
      ValueError: steps below 1; an unknown baseline.

    References:
      Petsiuk et al., RISE, BMVC 2018. (There the blur is an 11 px window with a Gaussian of
      5 px; pass such images to compare with its numbers.)

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> insertion(model, images, target, images.mean(-1), steps=4).shape
      (1,)
    """
    base = baseline_images(images, baseline)
    ranks = pixel_ranks(maps, key)
    return _area_under_curve(model, base, images, targets, maps, ranks, steps, after_p=p_full)


def deletion(
    model: Callable,
    images: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    maps: Float[Array, "n h w"],
    *,
    steps: int = 50,
    baseline: str | Float[Array, "n h w c"] = "mean",
    key: Key[Array, "..."] | None = None,
    p_full: Float[Array, "n"] | None = None,
) -> Float[Array, "n"]:
    """Return area under the class probability as the image's pixels are replaced by a baseline.

    As `insertion`, the other way round: lower is better.

    References:
      Petsiuk et al., RISE, BMVC 2018. (There the baseline is 0 *after* normalisation, the
      data set's mean colour.)

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> deletion(model, images, target, images.mean(-1), steps=4).shape
      (1,)
    """
    base = baseline_images(images, baseline)
    ranks = pixel_ranks(maps, key)
    return _area_under_curve(model, images, base, targets, maps, ranks, steps, before_p=p_full)


def curve_protocol(steps: int, baseline: str) -> str:
    """Return what a number of `insertion` or `deletion` was measured with, to print beside it."""
    return (
        f"trapezoid area under the class probability, {steps} equal steps, highest pixel first, "
        f"{TIES}, baseline {BASELINES.get(baseline, baseline)}"
    )


def baseline_images(
    images: Float[Array, "n h w c"], baseline: str | Float[Array, "n h w c"]
) -> Float[Array, "n h w c"]:
    """Return the images that know nothing of the class: see `insertion`."""
    if not isinstance(baseline, str):
        return baseline
    if baseline == "blur":
        return gaussian_blur(images, BLUR_SIGMA)
    if baseline == "mean":
        return jnp.broadcast_to(jnp.mean(images, axis=(1, 2), keepdims=True), images.shape)
    if baseline == "zero":
        return jnp.zeros_like(images)
    raise ValueError(
        f"baseline={baseline!r} is unknown; choose one of {', '.join(BASELINES)}, "
        f"or pass images of shape {images.shape}"
    )


@jax.jit
def target_probability(logits: Float[Array, "n k"], targets: Int[Array, "n"]) -> Float[Array, "n"]:
    """softmax(logits) at the target; NaN for a target outside [0, k)."""
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    known = (targets >= 0) & (targets < logits.shape[1])
    index = jnp.where(known, targets, 0)
    chosen = jnp.take_along_axis(probabilities, index[:, None], axis=1)[:, 0]
    return undefined_with(jnp.where(known, chosen, jnp.nan), logits)


def _area_under_curve(
    model, before, after, targets, maps, ranks, steps, before_p=None, after_p=None
):
    """`before` turns into `after`, most important pixels first."""
    if steps < 1:
        raise ValueError(f"steps={steps}: the curve needs at least 1 step")
    pixels = ranks.shape[1] * ranks.shape[2]
    # Whole pixels change: where the steps do not divide them, the trapezoids' widths say so.
    changed = [step * pixels // steps for step in range(steps + 1)]
    # A Python loop, not lax.scan: XLA's CPU convolutions are many times slower inside one.
    area = jnp.zeros(maps.shape[0], jnp.float32)
    previous = target_probability(model(before), targets) if before_p is None else before_p
    for low, high in itertools.pairwise(changed):
        if high == pixels and after_p is not None:
            current = after_p
        else:
            current = target_probability(model(_change(before, after, ranks, high)), targets)
        area += (previous + current) * ((high - low) / pixels / 2)
        previous = current
    return jnp.where(jnp.any(jnp.isnan(maps), axis=(1, 2)), jnp.nan, area)


def dimmed_drop(
    model: Callable,
    images: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    maps: Float[Array, "n h w"],
    *,
    p_full: Float[Array, "n"] | None = None,
) -> Float[Array, "n"]:
    """Return how far the class probability falls when the image is dimmed by its map.

      p(c | I) − p(c | I ⊙ (1 − S)),   in [−1, 1], higher is better

    S as it is, soft, not cut. A map that is 1 everywhere leaves a black image: look at its row
    before this one ranks anything.

    Args:
      maps: S, importance in [0, 1].
      p_full: p(c | I), where it is known.

    Returns:
      A value per image; NaN for a map with a NaN and a target that the model does not have.

    References:
      GLAS, 2020, Fig. 5: "images are perturbed by the inverse heat map, and the amount that the
      score drops is recorded".
    """
    if p_full is None:
        p_full = target_probability(model(images), targets)
    left = target_probability(model(_fill(images, maps, jnp.zeros_like(images))), targets)
    return jnp.where(jnp.any(jnp.isnan(maps), axis=(1, 2)), jnp.nan, p_full - left)


DIMMED_PROTOCOL = (
    "fall of the class probability when the image is dimmed by its heat map, I (1 − S), soft"
)


@jax.jit
def _change(before, after, ranks, count):
    """Return the first `count` pixels taken from `after`."""
    return jnp.where((ranks < count)[..., None], after, before)


@jax.jit
def _fill(images, z, infill):
    """Return FIDO's Eq. 1: z = 1 is replaced by the infill."""
    return (1.0 - z[..., None]) * images + z[..., None] * infill
