"""The gradient and what is made of it: SmoothGrad and its kin, integrated gradients.

All ask one compiled program for the gradient of the target's score at some points of image
space, `chunk_size` points a call; what a call leaves behind is added to one running sum per
image, so the peak of memory does not grow with the number of samples or steps.

References:
  Simonyan et al., Deep Inside Convolutional Networks, 2014 (the gradient).
  Smilkov et al., SmoothGrad: removing noise by adding noise, 2017.
  Adebayo et al., Local Explanation Methods for Deep Neural Networks Lack Sensitivity to
    Parameter Values, 2018 (VarGrad).
  Hooker et al., A Benchmark for Interpretability Methods in Deep Neural Networks, 2019
    (SmoothGrad-Squared).
  Sundararajan et al., Axiomatic Attribution for Deep Networks, 2017 (integrated gradients).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.infill import Infill, check_infill, make_infill
from fgjax.attribution.inputs import check_inputs
from fgjax.attribution.perturbation import (
    CLASS_SCORES,
    check_at_least_one,
    check_choice,
    image_keys,
    positive_part,
)
from fgjax.attribution.streaming import choose_chunk, chunks
from fgjax.attribution.types import Attribution
from fgjax.functional import Static, combine, partition

Score = Literal["logit", "log_odds", "probability", "log_probability", "sigmoid"]
Reduce = Literal["max_abs", "sum_abs", "abs_sum", "norm"]
Rule = Literal["gausslegendre", "midpoint", "trapezoid", "left", "right"]


REDUCTIONS: dict[str, Callable] = {
    "max_abs": lambda values: jnp.abs(values).max(-1),
    "sum_abs": lambda values: jnp.abs(values).sum(-1),
    "abs_sum": lambda values: jnp.abs(values.sum(-1)),
    "norm": lambda values: jnp.sqrt(jnp.square(values).sum(-1)),
}
"""How a pixel's channels become one number: `n h w c -> n h w`."""


@dataclass(frozen=True)
class GradientConfig:
    """Settings of the gradient.

    Attributes:
      score: what is differentiated: the target's "logit", its "log_odds", "probability",
        or another name of `CLASS_SCORES`.
      reduce: how channels become one number: "max_abs" (Simonyan et al.: max_c |g|),
        "sum_abs" (Σ_c |g|), "abs_sum" (|Σ_c g|), "norm" (√Σ_c g²).
      chunk_size: images per model call; None: as memory allows.
    """

    score: Score = "logit"
    reduce: Reduce = "max_abs"
    chunk_size: int | None = None

    def __post_init__(self):
        check_choice(self, "score", get_args(Score))
        check_choice(self, "reduce", tuple(REDUCTIONS))
        check_at_least_one(self, "chunk_size")


@dataclass(frozen=True)
class SmoothGradientConfig(GradientConfig):
    """Settings of SmoothGrad, SmoothGrad-Squared and VarGrad.

    Attributes:
      kind: of the gradients at noisy images their "mean" (SmoothGrad), the mean of their
        squares "squared" (SmoothGrad-Squared), or their "variance" (VarGrad).
      samples: noisy images per image.
      noise: σ of the Gaussian noise, as a share of the image's max - min. The paper
        advises 0.1 to 0.2 and finds little gain beyond 50 samples.
      score, reduce, chunk_size: as in `GradientConfig`.
    """

    kind: Literal["mean", "squared", "variance"] = "mean"
    samples: int = 50
    noise: float = 0.15

    def __post_init__(self):
        super().__post_init__()
        check_choice(self, "kind", ("mean", "squared", "variance"))
        check_at_least_one(self, "samples")
        if not self.noise > 0:
            raise ValueError(f"noise={self.noise}: must be above 0")


@dataclass(frozen=True)
class IntegratedGradientsConfig(GradientConfig):
    """Settings of integrated gradients.

    Attributes:
      steps: gradients along the path from the baseline to the image.
      rule: where on the path [0, 1], and with which weights: "gausslegendre" (exact for
        polynomials up to degree 2·steps - 1), "midpoint", "trapezoid", "left", or "right"
        (the paper's Eq. 3: k/m for k = 1 … m). See `quadrature`.
      baseline: where the path starts: an infill's name, an array or a function, see
        `make_infill`. "zeros" is black, in [0, 1]; a black of normalised space is a grey here.
      score, reduce, chunk_size: as in `GradientConfig`; channels are summed, then made
        positive ("abs_sum"), because the attributions of a pixel's channels add up.
    """

    reduce: Reduce = "abs_sum"
    steps: int = 50
    rule: Rule = "gausslegendre"
    baseline: Infill = "zeros"

    def __post_init__(self):
        super().__post_init__()
        check_choice(self, "rule", get_args(Rule))
        check_at_least_one(self, "steps")
        if self.rule == "trapezoid" and self.steps < 2:
            raise ValueError(f"steps={self.steps}: the trapezoid rule needs both ends of the path")
        check_infill(self.baseline)


SMOOTH_GRADIENT_PRESETS: dict[str, dict[str, Any]] = {
    "smoothgrad": {},
    "smoothgrad-squared": dict(kind="squared"),
    "vargrad": dict(kind="variance"),
}
"""The three published means of noisy gradients."""

INTEGRATED_GRADIENTS_PRESETS: dict[str, dict[str, Any]] = {
    # Captum's defaults: 50 Gauss-Legendre nodes, the class's output.
    "captum": {},
    # The paper: Riemann sum of Eq. 3, 300 steps (20 to 300 suffice), softmax probability.
    "sundararajan-2017": dict(rule="right", steps=300, score="probability"),
}
"""Published settings of integrated gradients by name."""


# What the gradient and the CAM methods share.


class Prepared(NamedTuple):
    """A model taken apart, and inputs that fit it."""

    arrays: tuple
    static: Static
    images: Float[Array, "n h w c"]
    targets: Int[np.ndarray, "n"]


def prepare(model: Any, images: Any, targets: Any) -> Prepared:
    """Takes the model apart and checks that images and targets fit it.

    Raises:
      ValueError, TypeError: see `check_inputs` and `partition`.
    """
    images = jnp.asarray(images, jnp.float32)
    targets = jnp.asarray(targets, jnp.int32)
    arrays, static = partition(model)
    check_inputs(arrays, static, images, targets)
    return Prepared(arrays, static, images, np.asarray(targets))


def chunk_for(prepared: Prepared, chunk_size: int | None, count: int, *, backward: bool) -> int:
    """Images per call: what the user says, or what fits; never more than there are."""
    arrays, static, images, _ = prepared
    chosen = chunk_size or choose_chunk(arrays, static, images, backward=backward)
    return min(chosen, count)


RANDOM_INFILLS = ("uniform", "normal", "knockoff")


def replacement(infill: Infill, images: Float[Array, "n h w c"], key: Any, name: str) -> Any:
    """The infill images; a key is needed only by those made at random.

    A function given as infill gets `fold_in(jax.random.key(0), i)` where no key is given.

    Raises:
      ValueError: a random infill and no key, or what `make_infill` refuses.
    """
    if key is None and isinstance(infill, str) and infill in RANDOM_INFILLS:
        raise ValueError(f"{name}={infill!r} is random: give key=jax.random.key(seed)")
    key = jax.random.key(0) if key is None else key
    return make_infill(infill, images, image_keys(key, len(images)))


@partial(jax.jit, static_argnames="reduce")
def _heatmap(values, reduce):
    return positive_part(REDUCTIONS[reduce](values))


def attribution(values: Float[Array, "n h w c"], reduce: str, name: str) -> Attribution:
    """An attribution per channel as a heatmap, with its sum over channels as a map."""
    return Attribution(_heatmap(values, reduce), {name: values.sum(-1)})


@partial(jax.jit, static_argnames=("static", "score"))
def score_gradient(
    arrays: tuple,
    static: Static,
    images: Float[Array, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    score: str,
) -> Float[Array, "n h w c"]:
    """∂s_c/∂x of each image. NaN where the score is: a ReLU would let no NaN through."""
    return image_gradient(combine(arrays, static), images, targets, score)


def image_gradient(model, images, targets, score):
    def total(images):
        values = CLASS_SCORES[score](model(images).astype(jnp.float32), targets)
        return values.sum(), values

    # Images never mix, so the gradient of the sum is each image's own.
    gradient, values = jax.grad(total, has_aux=True)(images)
    return jnp.where(jnp.isnan(values)[:, None, None, None], jnp.nan, gradient)


def chunked_gradient(
    program: Callable, prepared: Prepared, chunk_size: int | None
) -> Float[Array, "n h w c"]:
    """`program(arrays, static, images, targets)` over all images, in equal calls."""
    arrays, static, images, targets = prepared
    size = chunk_for(prepared, chunk_size, len(images), backward=True)
    parts = [
        program(arrays, static, images[index], targets[index])[: keep.sum()]
        for index, keep in chunks(len(images), size)
    ]
    return jnp.concatenate(parts)


def input_gradient(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    score: str = "logit",
    chunk_size: int | None = None,
) -> Float[Array, "n h w c"]:
    """The raw gradient of each image's score by each of its values, ∂s_c(x)/∂x.

    Raises:
      ValueError: inputs that do not fit the model, see `check_inputs`.
    """
    program = partial(score_gradient, score=score)
    return chunked_gradient(program, prepare(model, images, targets), chunk_size)


def gradient(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: GradientConfig = GradientConfig(),
) -> Attribution:
    """The gradient of the score: how much a small change of a pixel would move it.

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
    """
    values = input_gradient(
        model, images, targets, score=config.score, chunk_size=config.chunk_size
    )
    return attribution(values, config.reduce, "signed")


# Sums over many points per image.


@jax.jit
def _add(total, image, weight, values):
    weight = weight[:, None, None, None]
    # A place that only fills up a call has weight 0, and may hold a NaN.
    return total.at[image].add(jnp.where(weight == 0, 0, weight * values))


def _places(count: int, each: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
    """`(image, question, keep)` of every call, for `each` questions on each of `count` images."""
    for index, keep in chunks(count * each, size):
        image, question = np.divmod(index, each)
        yield image, question, keep.astype(np.float32)


@jax.jit
def _noisy(images, keys, image, sample, noise):
    def one(x, key, sample):
        spread = noise * (x.max() - x.min())
        return x + spread * jax.random.normal(jax.random.fold_in(key, sample), x.shape)

    return jax.vmap(one)(images[image], keys[image], sample)


def smooth_gradient(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: SmoothGradientConfig = SmoothGradientConfig(),
) -> Attribution:
    """Gradients at noisy copies of the image, put together in one of three ways.

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
    """
    if key is None:
        raise ValueError("smooth_gradient draws noise: give key=jax.random.key(seed)")
    prepared = prepare(model, images, targets)
    arrays, static, images, targets = prepared
    keys, kind = image_keys(key, len(images)), config.kind
    program = partial(score_gradient, score=config.score)
    shift = jnp.zeros_like(images)
    if kind == "variance":
        shift = chunked_gradient(program, prepared, config.chunk_size)
    first, second = jnp.zeros_like(images), jnp.zeros_like(images)
    size = chunk_for(prepared, config.chunk_size, len(images) * config.samples, backward=True)
    for image, sample, weight in _places(len(images), config.samples, size):
        points = _noisy(images, keys, image, sample, jnp.float32(config.noise))
        values = program(arrays, static, points, targets[image]) - shift[image]
        if kind != "squared":
            first = _add(first, image, weight, values)
        if kind != "mean":
            second = _add(second, image, weight, values**2)
        # Calls that wait for each other hold no more than one call's images.
        jax.block_until_ready((first, second))
    first, second = first / config.samples, second / config.samples
    if kind == "mean":
        return attribution(first, config.reduce, "signed")
    values = second if kind == "squared" else jnp.maximum(second - first**2, 0)
    return attribution(values, config.reduce, kind)


def quadrature(rule: str, steps: int) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
    """Nodes α in [0, 1] and weights w with ∫₀¹ f(α) dα ≈ Σ w_k f(α_k).

    "gausslegendre":  the zeros of the Legendre polynomial of degree m, moved to [0, 1]
    "midpoint":       α = (k - 1/2)/m, w = 1/m            k = 1 … m
    "left", "right":  α = (k - 1)/m or k/m, w = 1/m
    "trapezoid":      α = (k - 1)/(m - 1), w = 1/(m - 1), half of it at both ends
    """
    k = np.arange(1, steps + 1)
    if rule == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        nodes, weights = (nodes + 1) / 2, weights / 2
    elif rule == "trapezoid":
        nodes, weights = (k - 1) / (steps - 1), np.full(steps, 1 / (steps - 1))
        weights[[0, -1]] /= 2
    else:
        offset = {"midpoint": 0.5, "left": 1.0, "right": 0.0}[rule]
        nodes, weights = (k - offset) / steps, np.full(steps, 1 / steps)
    return nodes.astype(np.float32), weights.astype(np.float32)


@jax.jit
def _between(baselines, images, image, alpha):
    start = baselines[image]
    return start + alpha[:, None, None, None] * (images[image] - start)


def path_integral(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    baselines: Float[Array | np.ndarray, "n h w c"],
    *,
    steps: int = 50,
    rule: str = "gausslegendre",
    score: str = "logit",
    chunk_size: int | None = None,
) -> Float[Array, "n h w c"]:
    """Integrated gradients per channel: (x - x') ⊙ Σ_k w_k ∂s(x' + α_k (x - x'))/∂x.

    With enough steps they sum to s(x) - s(x'), the axiom of completeness.

    Raises:
      ValueError: inputs that do not fit the model, see `check_inputs`.
    """
    prepared = prepare(model, images, targets)
    return _integral(prepared, jnp.asarray(baselines), steps, rule, score, chunk_size)


def _integral(prepared, baselines, steps, rule, score, chunk_size):
    arrays, static, images, targets = prepared
    nodes, weights = quadrature(rule, steps)
    total = jnp.zeros_like(images)
    size = chunk_for(prepared, chunk_size, len(images) * steps, backward=True)
    for image, step, keep in _places(len(images), steps, size):
        points = _between(baselines, images, image, nodes[step])
        values = score_gradient(arrays, static, points, targets[image], score=score)
        total = _add(total, image, keep * weights[step], values)
        total.block_until_ready()
    return (images - baselines) * total


def integrated_gradients(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: IntegratedGradientsConfig = IntegratedGradientsConfig(),
) -> Attribution:
    """The gradient integrated along the straight path from a baseline x' to the image.

      IG = (x - x') ⊙ ∫₀¹ ∂s(x' + α(x - x'))/∂x dα   (Sundararajan et al. 2017, Eq. 1)

    by the quadrature `config.rule` with `config.steps` nodes, see `quadrature`.

    Args:
      model: any callable pytree, images -> logits.
      images: RGB in [0, 1].
      targets: class index per image.
      key: one key, or one per image; needed by a random baseline only ("uniform", "normal",
        "knockoff").
      config: see `IntegratedGradientsConfig`; published settings in
        `INTEGRATED_GRADIENTS_PRESETS`.

    Returns:
      heatmap: channels reduced by `config.reduce`, divided by the image's maximum. maps:
      "signed", the sum over channels: over all pixels s(x) - s(x'), up to the quadrature's
      error. Per channel: `path_integral`.

    Raises:
      ValueError: a random baseline without a key, a baseline of another shape; and as in
        `gradient`.
    """
    prepared = prepare(model, images, targets)
    baselines = replacement(config.baseline, prepared.images, key, "baseline")
    values = _integral(
        prepared, baselines, config.steps, config.rule, config.score, config.chunk_size
    )
    return attribution(values, config.reduce, "signed")
