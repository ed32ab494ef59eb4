"""The gradient and its means over noisy images: SmoothGrad and its kin.

All ask one compiled program for the gradient of the target's score at some points of image
space, `chunk_size` points a call; what a call leaves behind is added to one running sum per
image, so the peak of memory does not grow with the number of samples.

References:
  Simonyan et al., Deep Inside Convolutional Networks, 2014 (the gradient).
  Smilkov et al., SmoothGrad: removing noise by adding noise, 2017.
  Adebayo et al., Local Explanation Methods for Deep Neural Networks Lack Sensitivity to
    Parameter Values, 2018 (VarGrad).
  Hooker et al., A Benchmark for Interpretability Methods in Deep Neural Networks, 2019
    (SmoothGrad-Squared).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.common.inputs import for_gradients
from fgjax.attribution.common.perturbation import (
    check_at_least_one,
    check_choice,
)
from fgjax.attribution.common.score_gradient import (
    REDUCTIONS,
    Reduce,
    Score,
    add_at,
    attribution,
    chunk_for,
    chunked_gradient,
    input_gradient,
    places,
    prepare,
    score_gradient,
)
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes
from fgjax.core.keys import image_keys
from fgjax.core.option import option
from fgjax.devices.in_flight import InFlight, calls_at_a_time


@dataclass(frozen=True)
class GradientConfig:
    """Settings of the gradient."""

    score: Score = option(
        "logit",
        'what is differentiated: the target\'s "logit", its "log_odds", "probability", or '
        "another name of `CLASS_SCORES`.",
    )
    reduce: Reduce = option(
        "max_abs",
        'how channels become one number: "max_abs" (Simonyan et al.: max_c |g|), "sum_abs" '
        '(Σ_c |g|), "abs_sum" (|Σ_c g|), "norm" (√Σ_c g²).',
    )
    chunk_size: int | None = option(
        None,
        "images per model call; None: as memory allows.",
        free=True,
    )

    def __post_init__(self):
        check_choice(self, "score", get_args(Score))
        check_choice(self, "reduce", tuple(REDUCTIONS))
        check_at_least_one(self, "chunk_size")


@dataclass(frozen=True)
class SmoothGradientConfig(GradientConfig):
    """Settings of SmoothGrad, SmoothGrad-Squared and VarGrad."""

    kind: Literal["mean", "squared", "variance"] = option(
        "mean",
        'of the gradients at noisy images their "mean" (SmoothGrad), the mean of their '
        'squares "squared" (SmoothGrad-Squared), or their "variance" (VarGrad).',
    )
    samples: int = option(50, "noisy images per image.")
    noise: float = option(
        0.15,
        "σ of the Gaussian noise, as a share of the image's max - min. The paper advises 0.1 "
        "to 0.2 and finds little gain beyond 50 samples.",
    )

    def __post_init__(self):
        super().__post_init__()
        check_choice(self, "kind", ("mean", "squared", "variance"))
        check_at_least_one(self, "samples")
        if not self.noise > 0:
            raise ValueError(f"noise={self.noise}: must be above 0")


SMOOTH_GRADIENT_PRESETS: dict[str, dict[str, Any]] = {
    "smoothgrad": {},
    "smoothgrad-squared": dict(kind="squared"),
    "vargrad": dict(kind="variance"),
}
"""The three published means of noisy gradients."""


@with_config
def gradient(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: GradientConfig = GradientConfig(),
) -> Attribution:
    """Return the gradient of the score: how much a small change of a pixel would move it.

      M_ij = max_c |∂s/∂x_ijc|   (Simonyan et al. 2014, section 3.1)

    Args:
      model: any callable pytree, images -> logits.
      images: RGB in [0, 1].
      targets: class index per image.
      key: not used.
      config: see `GradientConfig`.

    Returns:
      heatmap: channels reduced by `config.reduce`, divided by the image's maximum; zeros
      where the gradient is zero everywhere, NaN where the score is NaN. maps: "signed", the
      sum of the raw gradient over channels. The raw gradient itself: `input_gradient`.

    Raises:
      ValueError: shapes that do not fit, a target outside the model's classes, or images
        outside [0, 1].

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> result = gradient(model, images, target)
      >>> float(result.heatmap.min())  # every pixel counts alike
      1.0
    """
    values = input_gradient(
        model, images, targets, score=config.score, chunk_size=config.chunk_size
    )
    return attribution(values, config.reduce, "signed")


# Sums over many points per image.


@jax.jit
def _noisy(images, keys, image, sample, noise):
    def one(x, key, sample):
        spread = noise * (x.max() - x.min())
        return x + spread * jax.random.normal(jax.random.fold_in(key, sample), x.shape)

    return jax.vmap(one)(images[image], keys[image], sample)


@with_config
def smooth_gradient(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: SmoothGradientConfig = SmoothGradientConfig(),
) -> Attribution:
    """Return gradients at noisy copies of the image, put together in one of three ways.

    With g_s = ∂s/∂x at x + ε_s, ε_s ~ N(0, σ²), σ = noise · (max x - min x), s = 1 … S:

      "mean":      (1/S) Σ g_s                                 (SmoothGrad)
      "squared":   (1/S) Σ g_s²                                (SmoothGrad-Squared)
      "variance":  (1/S) Σ g_s² - ((1/S) Σ g_s)²               (VarGrad)

    The noisy images are not clipped to [0, 1]. The variance is that of g_s - ∂s(x)/∂x,
    which is the same number without its cancellation, for one gradient more.

    Args:
      model: any callable pytree, images -> logits.
      images: RGB in [0, 1].
      targets: class index per image.
      key: one key, or one per image; with one, image i uses `fold_in(key, i)`, and its
        sample s `fold_in(·, s)`: a map depends neither on the images beside it nor on
        `chunk_size`.
      config: see `SmoothGradientConfig`.

    Returns:
      heatmap: channels reduced by `config.reduce`, divided by the image's maximum. maps:
      the sum over channels, unscaled, as "signed" for the mean, "squared" or "variance".

    Raises:
      ValueError: no key; and as in `gradient`.

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> config = SmoothGradientConfig(samples=4)
      >>> result = smooth_gradient(model, images, target, key=jax.random.key(0), config=config)
      >>> result.heatmap.shape
      (1, 16, 16)
    """
    if key is None:
        raise ValueError("smooth_gradient draws noise: give key=jax.random.key(seed)")
    prepared = prepare(for_gradients(model), images, targets)
    arrays, static, images, targets = prepared
    keys, kind = image_keys(key, len(images)), config.kind
    program = partial(score_gradient, score=config.score)
    shift = jnp.zeros_like(images)
    if kind == "variance":
        shift = chunked_gradient(program, prepared, config.chunk_size)
    first, second = jnp.zeros_like(images), jnp.zeros_like(images)
    size = chunk_for(prepared, config.chunk_size, len(images) * config.samples, backward=True)
    sent = InFlight(calls_at_a_time(images, arrays))
    for image, sample, weight in places(len(images), config.samples, size):
        points = _noisy(images, keys, image, sample, jnp.float32(config.noise))
        values = program(arrays, static, points, targets[image]) - shift[image]
        if kind != "squared":
            first = add_at(first, image, weight, values)
        if kind != "mean":
            second = add_at(second, image, weight, values**2)
        sent.add(values)
    first, second = first / config.samples, second / config.samples
    if kind == "mean":
        return attribution(first, config.reduce, "signed")
    values = second if kind == "squared" else jnp.maximum(second - first**2, 0)
    return attribution(values, config.reduce, kind)


GRADIENT = Method(
    gradient,
    GradientConfig,
    passes=lambda *_: Passes(0, 1),
    needs=("gradient",),
    order=80,
)
SMOOTH_GRADIENT = Method(
    smooth_gradient,
    SmoothGradientConfig,
    passes=lambda config, *_: Passes(0, config.samples),
    presets=SMOOTH_GRADIENT_PRESETS,
    needs=("gradient",),
    order=90,
)
