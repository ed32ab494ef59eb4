"""XRAI: integrated gradients gathered into regions, the densest region first.

Reference:
  Kapishnikov, Bolukbasi, Viégas, Terry, XRAI: Better Attributions Through Regions, ICCV 2019.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from fgjax.attribution.common.perturbation import (
    check_at_least_one,
    check_choice,
    positive_part,
)
from fgjax.attribution.common.score_gradient import Score
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.path_integral import path_integral
from fgjax.attribution.registry import Method, Passes
from fgjax.core.extras import extra
from fgjax.core.filters import REFERENCE_SIDE
from fgjax.core.option import option

POOLS: dict[str, Callable] = {"max": np.max, "sum": np.sum}
"""How a pixel's channels become one number."""


@dataclass(frozen=True)
class XraiConfig:
    """Settings of XRAI. Lengths and areas are those of a 224 px image, and scale with it."""

    steps: int = option(50, "gradients along each of the two paths, from black and from white.")
    scales: tuple[float, ...] = option(
        (50.0, 100.0, 150.0, 250.0, 500.0, 1200.0),
        "of Felzenszwalb's segmentation, one segmentation each: larger, larger segments.",
    )
    sigma: float = option(0.8, "of the blur before it, in pixels.")
    smallest: int = option(150, "pixels of the smallest segment.")
    dilation: int = option(5, "pixels by which each segment is widened, to take in its edge.")
    least_gain: int = option(50, "pixels that a segment must add to what is covered to be taken.")
    pool: str = option(
        "max",
        'how a pixel\'s channels become one number: "max", as in the released code, or "sum", by '
        "which the map's sum is the score's gain.",
    )
    score: Score = option(
        "logit",
        'what is differentiated: the target\'s "logit", its "log_odds", "probability", or '
        "another name of `CLASS_SCORES`.",
    )
    chunk_size: int | None = option(
        None,
        "images per model call; None: as memory allows.",
        free=True,
    )

    def __post_init__(self):
        check_at_least_one(self, "steps", "smallest", "least_gain", "chunk_size")
        check_choice(self, "pool", tuple(POOLS))
        if not self.scales or min(self.scales) <= 0 or self.sigma <= 0:
            raise ValueError(f"scales={self.scales}, sigma={self.sigma}: must be above 0")
        if self.dilation < 0:
            raise ValueError(f"dilation={self.dilation}: must not be negative")


def segments_of(image: Float[np.ndarray, "h w c"], config: XraiConfig) -> Bool[np.ndarray, "k h w"]:
    """Return the segments of all scales, widened: they overlap.

    As the paper's code has it, the image is first stretched to [−1, 1] and resized to 224 x 224,
    so that a scale means the same for every image.
    """
    with extra("lime", "XRAI's segments"):
        from skimage.morphology import dilation, disk  # slow to import, and of use only here
        from skimage.segmentation import felzenszwalb
        from skimage.transform import resize

    height, width = image.shape[:2]
    low, high = float(image.min()), float(image.max())
    stretched = (image.astype(np.float64) - low) / (high - low or 1.0) * 2 - 1
    side = (REFERENCE_SIDE, REFERENCE_SIDE)
    if (height, width) != side:
        stretched = resize(stretched, side, order=3, preserve_range=True, anti_aliasing=True)
    # The nearest pixel of the resized image, for each of the image's own.
    rows, columns = (
        ((np.arange(size) + 0.5) * REFERENCE_SIDE / size).astype(int) for size in (height, width)
    )
    reach = disk(round(config.dilation * min(height, width) / REFERENCE_SIDE))
    found = []
    for scale in config.scales:
        labels = felzenszwalb(
            stretched, scale=scale, sigma=config.sigma, min_size=config.smallest, channel_axis=-1
        )[np.ix_(rows, columns)]
        for label in np.unique(labels):
            found.append(dilation((labels == label).astype(np.uint8), reach) > 0)
    return np.stack(found)


def rank_regions(
    attribution: Float[np.ndarray, "h w"], segments: Bool[np.ndarray, "k h w"], least_gain: int
) -> Float[np.ndarray, "h w"]:
    """Return for each pixel the mean attribution of the region with which it was covered.

    Again and again the segment is taken whose not yet covered part has the highest mean, until no
    segment adds `least_gain` pixels; what is left has the mean of all that is left. (Of equal ones
    the first is taken.)
    """
    flat = attribution.reshape(-1).astype(np.float64)
    inside = np.ascontiguousarray(segments.reshape(len(segments), -1).T)  # a row per pixel
    sums = inside.T @ flat
    counts = inside.sum(0, dtype=np.int64)
    covered, out = np.zeros(flat.shape, bool), np.zeros(flat.shape)
    able = counts >= least_gain
    while able.any():
        means = np.where(able, sums / np.maximum(counts, 1), -np.inf)
        best = int(means.argmax())
        fresh = np.flatnonzero(inside[:, best] & ~covered)
        out[fresh] = means[best]
        covered[fresh] = True
        # Each pixel is taken from the segments once: that is all the work there is.
        rows = inside[fresh]
        sums -= flat[fresh] @ rows
        counts -= rows.sum(0, dtype=np.int64)
        able &= counts >= least_gain
        able[best] = False
    if not covered.all():
        out[~covered] = flat[~covered].mean()
    return out.reshape(attribution.shape)


@with_config
def xrai(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: XraiConfig = XraiConfig(),
) -> Attribution:
    """XRAI: regions in the order of their mean attribution.

    The attribution is the mean of integrated gradients from black and from white, so that neither
    dark nor light pixels go unseen; the regions are Felzenszwalb's segments at several scales
    (Kapishnikov et al. 2019, Algorithm 1).

    Args:
      model: any callable pytree, images -> logits.
      images: RGB in [0, 1].
      targets: class index per image.
      key: not used.
      config: see `XraiConfig`.

    Returns:
      heatmap: the positive part of each region's mean, over the greatest. maps: "signed", the
      means; "integrated", the attribution that was gathered. NaN where the score is.

    Raises:
      ValueError: as in `gradient`.

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 32, 32, 3), 0.5), jnp.array([0])
      >>> xrai(model, images, target, config=XraiConfig(steps=2)).heatmap.shape
      (1, 32, 32)
    """
    images = jnp.asarray(images, jnp.float32)
    both = [
        path_integral(
            model, images, targets, jnp.full_like(images, shade), steps=config.steps,
            score=config.score, chunk_size=config.chunk_size,
        )
        for shade in (0.0, 1.0)
    ]  # fmt: skip
    values = POOLS[config.pool](np.asarray((both[0] + both[1]) / 2), axis=-1)
    pixels = np.asarray(images)
    least = max(1, round(config.least_gain * values[0].size / REFERENCE_SIDE**2))
    signed = jnp.asarray(np.stack(_regions(pixels, values, config, least)), jnp.float32)
    return Attribution(positive_part(signed), {"signed": signed, "integrated": jnp.asarray(values)})


def _regions(
    pixels: Float[np.ndarray, "n h w c"],
    values: Float[np.ndarray, "n h w"],
    config: XraiConfig,
    least: int,
) -> Sequence[Float[np.ndarray, "h w"]]:
    return [
        rank_regions(own, segments_of(image, config), least)
        if np.isfinite(own).all()
        else np.full(own.shape, np.nan)
        for image, own in zip(pixels, values, strict=True)
    ]


XRAI = Method(
    xrai,
    XraiConfig,
    passes=lambda config, *_: Passes(0, 2 * config.steps),
    presets={"released": dict(steps=100)},
    needs=("gradient",),
    order=105,
)
