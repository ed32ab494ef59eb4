"""Integrated gradients: the gradient along a line from a baseline to the image.

Reference:
  Sundararajan et al., Axiomatic Attribution for Deep Networks, 2017.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.common.infill import Infill, check_infill, keyed_infill
from fgjax.attribution.common.inputs import for_gradients
from fgjax.attribution.common.perturbation import (
    check_at_least_one,
    check_choice,
)
from fgjax.attribution.common.score_gradient import (
    Reduce,
    add_at,
    attribution,
    chunk_for,
    places,
    prepare,
    score_gradient,
)
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.gradients import GradientConfig
from fgjax.attribution.registry import Method, Passes
from fgjax.core.option import option
from fgjax.devices.in_flight import InFlight, calls_at_a_time

Rule = Literal["gausslegendre", "midpoint", "trapezoid", "left", "right"]


@dataclass(frozen=True)
class IntegratedGradientsConfig(GradientConfig):
    """Settings of integrated gradients."""

    reduce: Reduce = option(
        "abs_sum",
        'as in `GradientConfig`; channels are summed, then made positive ("abs_sum"), because '
        "the attributions of a pixel's channels add up.",
    )
    steps: int = option(50, "gradients along the path from the baseline to the image.")
    rule: Rule = option(
        "gausslegendre",
        'where on the path [0, 1], and with which weights: "gausslegendre" (exact for '
        'polynomials up to degree 2·steps - 1), "midpoint", "trapezoid", "left", or "right" '
        "(the paper's Eq. 3: k/m for k = 1 … m). See `quadrature`.",
    )
    baseline: Infill = option(
        "zeros",
        "where the path starts: an infill's name, an array or a function, see `make_infill`. "
        '"zeros" is black, in [0, 1]; a black of normalised space is a grey here.',
    )

    def __post_init__(self):
        super().__post_init__()
        check_choice(self, "rule", get_args(Rule))
        check_at_least_one(self, "steps")
        if self.rule == "trapezoid" and self.steps < 2:
            raise ValueError(f"steps={self.steps}: the trapezoid rule needs both ends of the path")
        check_infill(self.baseline)


INTEGRATED_GRADIENTS_PRESETS: dict[str, dict[str, Any]] = {
    # Captum's defaults: 50 Gauss-Legendre nodes, the class's output.
    "captum": {},
    # The paper: Riemann sum of Eq. 3, 300 steps (20 to 300 suffice), softmax probability.
    "sundararajan-2017": dict(rule="right", steps=300, score="probability"),
}
"""Published settings of integrated gradients by name."""


def quadrature(rule: str, steps: int) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
    """Return nodes α in [0, 1] and weights w with ∫₀¹ f(α) dα ≈ Σ w_k f(α_k).

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
    """Return integrated gradients per channel: (x - x') ⊙ Σ_k w_k ∂s(x' + α_k (x - x'))/∂x.

    With enough steps they sum to s(x) - s(x'), the axiom of completeness.

    Raises:
      ValueError: inputs that do not fit the model, see `check_inputs`.
    """
    prepared = prepare(for_gradients(model), images, targets)
    return _integral(prepared, jnp.asarray(baselines, jnp.float32), steps, rule, score, chunk_size)


def _integral(prepared, baselines, steps, rule, score, chunk_size):
    arrays, static, images, targets = prepared
    nodes, weights = quadrature(rule, steps)
    total = jnp.zeros_like(images)
    size = chunk_for(prepared, chunk_size, len(images) * steps, backward=True)
    sent = InFlight(calls_at_a_time(images, arrays))
    for image, step, keep in places(len(images), steps, size):
        points = _between(baselines, images, image, nodes[step])
        values = score_gradient(arrays, static, points, targets[image], score=score)
        total = add_at(total, image, keep * weights[step], values)
        sent.add(values)
    return (images - baselines) * total


@with_config
def integrated_gradients(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: IntegratedGradientsConfig = IntegratedGradientsConfig(),
) -> Attribution:
    """Return the gradient integrated along the straight path from a baseline x' to the image.

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

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> result = integrated_gradients(model, images, target)
      >>> round(float(result.maps["signed"].sum()), 3)  # the score's gain from black to the image
      5.0
    """
    prepared = prepare(for_gradients(model), images, targets)
    baselines = keyed_infill(config.baseline, prepared.images, key, name="baseline")
    values = _integral(
        prepared, baselines, config.steps, config.rule, config.score, config.chunk_size
    )
    return attribution(values, config.reduce, "signed")


INTEGRATED_GRADIENTS = Method(
    integrated_gradients,
    IntegratedGradientsConfig,
    passes=lambda config, *_: Passes(0, config.steps),
    presets=INTEGRATED_GRADIENTS_PRESETS,
    needs=("gradient",),
    order=100,
)
