"""Occlusion: what the score loses when a window of the image is covered.

Reference:
  Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, 2014, §4.2.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from fgjax.attribution.common.infill import Infill, check_infill, keyed_infill
from fgjax.attribution.common.perturbation import (
    Score,
    ask,
    check_at_least_one,
    check_score,
    perturbed_scores,
    positive_part,
    spread_of,
)
from fgjax.attribution.common.presets import preset
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes
from fgjax.core.filters import REFERENCE_SIDE
from fgjax.core.floor import is_flat
from fgjax.core.option import option


@dataclass(frozen=True)
class OcclusionConfig:
    """Settings of occlusion. Lengths are those of a 224 px image, and scale with the shorter
    side (to whole pixels, at least 1).
    """

    window: int = option(48, "side of the square that is covered.")
    stride: int = option(
        16,
        "from one window to the next; at most `window`, so that none is left out.",
    )
    infill: Infill = option(
        "mean",
        "what it is covered with: a name of `INFILLS`; in Python also an array or a function "
        "`(images, key) -> images`. The random ones need a key.",
    )
    blur_sigma: float = option(11.6, "σ of the blur infill in pixels.")
    score: Score = option(
        "probability",
        '"probability" of the class, another of `CLASS_SCORES`, or a function `(outputs, '
        "targets) -> n` for a model that returns something else.",
    )
    chunk_size: int | None = option(
        None,
        "perturbed images per model call; None: by the memory there is.",
        free=True,
    )

    def __post_init__(self):
        check_at_least_one(self, "window", "stride", "chunk_size")
        if self.stride > self.window:
            raise ValueError(
                f"stride={self.stride} exceeds window={self.window}: pixels between two windows "
                "would never be covered"
            )
        if not self.blur_sigma > 0:
            raise ValueError(f"blur_sigma={self.blur_sigma}: must be above 0")
        check_infill(self.infill)
        check_score(self.score)


OCCLUSION_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # What captum.attr.Occlusion computes with its baseline 0, for the same window and stride.
    "captum": dict(infill="zeros", score="logit"),
}
"""Published settings by name; `occlusion_preset` makes a config of one."""


def occlusion_preset(name: str, **changes: Any) -> OcclusionConfig:
    """Return the settings published under `name` (see `OCCLUSION_PRESETS`), with `changes` on top.

    Raises:
      ValueError: no such preset, or no such setting.
    """
    return preset(OcclusionConfig, OCCLUSION_PRESETS, name, changes)


def windows(size: int, window: int, stride: int) -> Float[np.ndarray, "windows size"]:
    """Return 1 inside each window along one axis, else 0.

    Windows start at 0, stride, 2 · stride, …; the last reaches the border, and is cut there.
    """
    count = max(0, math.ceil((size - window) / stride)) + 1
    start = stride * np.arange(count)[:, None]
    place = np.arange(size)
    return ((start <= place) & (place < start + window)).astype(np.float32)


def cover(images: Array, own: Any, shared: Any, index: Array) -> Array:
    """Return perturbations: 0 is the image itself, the others have a window covered, row by row."""
    down, across = shared
    window = jnp.maximum(index - 1, 0)
    rows, columns = down[window // len(across)], across[window % len(across)]
    covered = rows[:, :, None] * columns[:, None, :]
    covered = jnp.where((index == 0)[:, None, None], 0, covered)[None, ..., None]
    return images[:, None] * (1 - covered) + own[:, None] * covered


@with_config
def occlusion(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Any,
    *,
    key: Key[Array, "..."] | None = None,
    config: OcclusionConfig = OcclusionConfig(),
) -> Attribution:
    """Sliding-window occlusion: the mean loss of score over the windows that cover a pixel.

      A(x) = 1/|W_x| Σ_{w ∈ W_x} (f(I) - f(I covered at w)),   W_x the windows over x

    Args:
      model: any callable pytree, images -> logits; with a score function of the user's,
        images -> whatever that reads.
      images: RGB in [0, 1].
      targets: class index per image; with a score function, arrays with a row per image.
      key: needed by random infills only; one key, or one per image.
      config: see `OcclusionConfig`; published settings in `OCCLUSION_PRESETS`.

    Returns:
      heatmap: the positive part of A over its maximum: 0 where covering costs nothing, and
      everywhere if the scores differ by no more than rounding (`fgjax.core.floor`).
      maps: "signed", A itself. traces: "spread", one number per image, how far the scores lie
      apart as a share of the largest. An image for which the model returns NaN gets NaN maps; its
      neighbours do not.

    Raises:
      ValueError: shapes that do not fit, a target outside the model's classes, images
        outside [0, 1], a random infill without a key.

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> result = occlusion(model, images, target)
      >>> result.heatmap.shape
      (1, 16, 16)
    """
    question = ask(model, images, targets, config.score)
    infill = keyed_infill(config.infill, question.images, key, blur_sigma=config.blur_sigma)
    height, width = question.images.shape[1:3]
    scale = min(height, width) / REFERENCE_SIDE
    window, stride = (max(1, round(length * scale)) for length in (config.window, config.stride))
    down, across = windows(height, window, stride), windows(width, window, stride)
    shared = (jnp.asarray(down), jnp.asarray(across))
    count = len(down) * len(across)
    scores = perturbed_scores(
        question, cover, 1 + count, own=infill, shared=shared, chunk_size=config.chunk_size
    )
    signed = _average(scores, *shared)
    return Attribution(
        heatmap=positive_part(signed, is_flat(scores)),
        maps={"signed": signed},
        traces={"spread": spread_of(scores)},
    )


@jax.jit
def _average(scores, down, across):
    lost = (scores[:, :1] - scores[:, 1:]).reshape(len(scores), len(down), len(across))
    sums = jnp.einsum("nrc,rh,cw->nhw", lost, down, across, precision="highest")
    return sums / (down.sum(0)[:, None] * across.sum(0)[None])[None]


def _passes(config: OcclusionConfig, height: int, width: int, channels: int) -> Passes:
    scale = min(height, width) / REFERENCE_SIDE
    window, stride = (max(1, round(n * scale)) for n in (config.window, config.stride))
    down, across = (len(windows(side, window, stride)) for side in (height, width))
    return Passes(1 + down * across, 0)


OCCLUSION = Method(
    occlusion,
    OcclusionConfig,
    passes=_passes,
    presets=OCCLUSION_PRESETS,
    order=50,
)
