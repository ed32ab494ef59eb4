"""The smallest regions of a map that suffice, and that destroy: found by asking the model.

A map ranks pixels. How many of the first a decision needs is no property of the map's scale, so
nothing is read off a threshold: the model is asked about regions cut out sharply.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from fgjax.attribution.common.infill import Infill, keyed_infill
from fgjax.attribution.common.inputs import class_targets
from fgjax.attribution.common.types import Attribution
from fgjax.devices.forward import compiled
from fgjax.evaluation.faithfulness import target_probability
from fgjax.evaluation.order import pixel_ranks


class Region(NamedTuple):
    """A region of each image, made of the first pixels of a map's ranking.

    Attributes:
      mask: True inside. Where nothing was reached, the whole image.
      area: the share of the image's pixels inside; NaN where nothing was reached.
      p: class probability with the region kept (or replaced); of the whole image's where
        nothing was reached.
      reached: whether p is on the demanded side.
    """

    mask: Bool[Array, "n h w"]
    area: Float[Array, "n"]
    p: Float[Array, "n"]
    reached: Bool[Array, "n"]


class SmallestRegions(NamedTuple):
    """What `smallest_regions` found; `p_full` is the class probability of the image as it is."""

    kept: Region
    destroyed: Region
    p_full: Float[Array, "n"]


def smallest_regions(
    model: Callable,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    result: Attribution | Float[Array | np.ndarray, "n h w"],
    keep: float = 0.9,
    destroy: float = 0.1,
    *,
    infill: Infill = "blur",
    blur_sigma: float = 11.6,
    key: Key[Array, "..."] | None = None,
) -> SmallestRegions:
    """Return per image the smallest share of the map's ranking that keeps the class, and the
    smallest that destroys it.

      kept:      p(c | only the region shown)    ≥ keep · p(c | image)
      destroyed: p(c | only the region replaced) ≤ destroy · p(c | image)

    Kept is asked of the map "ssr", destroyed of the map "sdr"; of a method that has neither, both
    are asked of its heatmap. Regions are sharp: a pixel is shown or it is replaced.

    The number of pixels is found by bisection, to one pixel, all images at once: at most
    2·(⌈log₂(h·w)⌉ + 2) + 1 forward passes each. p need not grow with the region. What is returned
    fulfils its inequality and the region that is one pixel smaller does not, but a much smaller
    one may, and is then not found. An empty region counts: its area is 0 where the infill alone
    is enough.

    Pixels of equal importance are ranked at random (`pixel_ranks`). So a constant map is answered
    too; its area says how bad it is.

    Args:
      model: any callable pytree, images -> logits.
      images: RGB in [0, 1].
      targets: class index per image.
      result: what a method returned, or maps, importance in any scale.
      keep: share of the full image's probability that the region alone must have, in (0, 1].
      destroy: share of it that may be left when the region is replaced, in [0, 1).
      infill: what a pixel is replaced by: a name, an array or a function, as in `FidoConfig`.
      blur_sigma: σ of the blur infill in pixels of a 224 px image.
      key: for an infill that draws.

    Returns:
      The regions. "Not reached": the whole image replaced still has more than `destroy` of the
      probability, or the map or the probability is NaN.

    Raises:
      ValueError: keep or destroy outside its range; maps of another shape than the images; targets
        that are no class indices.

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> found = smallest_regions(model, images, target, images.mean(-1))
      >>> found.kept.mask.shape
      (1, 16, 16)
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep}: a share of the probability, above 0 and at most 1")
    if not 0 <= destroy < 1:
        raise ValueError(f"destroy={destroy}: a share of the probability, at least 0 and below 1")
    images = jnp.asarray(images, jnp.float32)
    targets = class_targets(targets)
    maps = [jnp.asarray(m, jnp.float32) for m in _rankings(result)]
    for m in maps:
        if m.shape != images.shape[:3]:
            raise ValueError(f"maps of shape {m.shape} do not fit images {images.shape}")
    ask, replaced = compiled(model), keyed_infill(infill, images, key, blur_sigma=blur_sigma)
    p_full = target_probability(ask(images), targets)

    def probability(mask):
        return target_probability(ask(_show(images, replaced, mask)), targets)

    keeps = lambda p: p >= keep * p_full
    destroys = lambda p: p <= destroy * p_full
    return SmallestRegions(
        _smallest(maps[0], probability, keeps),
        _smallest(maps[1], lambda mask: probability(~mask), destroys),
        p_full,
    )


def _rankings(result: Attribution | Array | np.ndarray) -> tuple[Any, Any]:
    if not isinstance(result, Attribution):
        return result, result
    return result.maps.get("ssr", result.heatmap), result.maps.get("sdr", result.heatmap)


def _smallest(maps: Array, probability: Callable, enough: Callable) -> Region:
    """Bisect the number of pixels: `high` is enough, `low` is not (unless nothing at all is)."""
    ranks = pixel_ranks(maps)
    pixels = ranks.shape[1] * ranks.shape[2]

    def ask(count):
        p = probability(_first(ranks, jnp.asarray(count)))
        return np.asarray(p), np.asarray(enough(p))

    low, high = np.zeros(len(maps), np.int32), np.full(len(maps), pixels, np.int32)
    p, reached = ask(high)
    nothing, suffices = ask(low)
    reached = reached & ~np.asarray(jnp.isnan(maps).any((1, 2)))
    p, high = np.where(suffices, nothing, p), np.where(suffices, 0, high)
    high = np.where(reached, high, pixels)
    for _ in range(int(np.ceil(np.log2(pixels)))):
        middle = (low + high) // 2
        open_ = reached & (high - low > 1)
        if not open_.any():
            break
        found, fits = ask(middle)
        p = np.where(open_ & fits, found, p)
        high = np.where(open_ & fits, middle, high)
        low = np.where(open_ & ~fits, middle, low)
    area = np.where(reached, high / pixels, np.nan).astype(np.float32)
    return Region(_first(ranks, jnp.asarray(high)), jnp.asarray(area), jnp.asarray(p), reached)


@jax.jit
def _first(ranks, count):
    return ranks < count[:, None, None]


@jax.jit
def _show(images, infill, mask):
    return jnp.where(mask[..., None], images, infill)
