"""Class activation maps: where the last grid of features holds what the target needs.

With A the grid `H W K` and s the target's score, every method weighs the channels,

  L = ReLU(Σ_k w_k A^k),

and they differ in w. The map is then enlarged bilinearly to the image (pixel centres at
+0.5, constant beyond the outermost). Only the head is differentiated, never the trunk.

A model offers `features(images)` and `head(features) -> logits`, with `head(features(images))`
its logits; fgjax's classifiers do. Features are the last grid that is mixed with what the head
reads: the last map `n H W K` of a convolutional network, or a tuple of a grid and other tokens
(see `fgjax.core.features`). Of a transformer that classifies by a class token it is what goes into
the last block: behind that block the head reads the class token alone, and no cell of the grid
has a gradient. The model knows its grid; nobody names a layer.

References:
  Zhou et al., Learning Deep Features for Discriminative Localization, 2016 (CAM).
  Selvaraju et al., Grad-CAM, 2017 (and Guided Grad-CAM).
  Chattopadhay et al., Grad-CAM++, 2018.
  Wang et al., Score-CAM, 2020.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from fgjax.attribution.common.perturbation import (
    CLASS_SCORES,
    check_at_least_one,
    check_choice,
    positive_part,
)
from fgjax.attribution.common.score_gradient import Prepared, Score, attribution, chunk_for, prepare
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.streaming import chunks
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.gradients import GradientConfig
from fgjax.attribution.guided import rectified_gradient
from fgjax.attribution.registry import Method, Passes
from fgjax.core.features import grid_of, with_grid
from fgjax.core.functional import combine
from fgjax.core.option import option
from fgjax.devices.jit import program


@dataclass(frozen=True)
class GradCamConfig:
    """Settings of Grad-CAM."""

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
        check_choice(self, "score", get_args(Score))
        check_at_least_one(self, "chunk_size")


@dataclass(frozen=True)
class GradCamPlusPlusConfig(GradCamConfig):
    """Settings of Grad-CAM++: those of `GradCamConfig`."""


@dataclass(frozen=True)
class GuidedGradCamConfig(GradientConfig):
    """Settings of Guided Grad-CAM: those of `GradientConfig`."""


# Features.


@program("explain", static_argnames="static")
def last_features(arrays: Any, static: Any, images: Any) -> Any:
    """Return what the model's head reads: a grid, or a tuple of a grid and other tokens."""
    return combine(arrays, static).features(images)


@program("explain", static_argnames=("static", "score"))
def _head_gradient(arrays, static, features, targets, score):
    def total(grid):
        logits = combine(arrays, static).head(with_grid(features, grid))
        values = CLASS_SCORES[score](logits.astype(jnp.float32), targets)
        return values.sum(), values

    gradient, values = jax.grad(total, has_aux=True)(grid_of(features))
    gradient = gradient.astype(jnp.float32)
    return jnp.where(jnp.isnan(values)[:, None, None, None], jnp.nan, gradient)


def _check_features(model: Any, prepared: Prepared, method: str) -> None:
    missing = [name for name in ("features", "head") if not callable(getattr(model, name, None))]
    if missing:
        raise ValueError(
            f"{method} needs the model's last feature map: a model with features(images) -> "
            "n H W K, or a tuple of that and other tokens, and head(features) -> logits. "
            f"{type(model).__name__} has no "
            f"{' and no '.join(missing)}. fgjax's classifiers have both (create_model, "
            "load_pretrained, load_classifier); a Linen, Equinox or other model needs a class "
            "that offers them"
        )
    found = last_features.eval_shape(prepared.arrays, prepared.static, prepared.images)
    shape = getattr(grid_of(found), "shape", None)
    if shape is None or len(shape) != 4 or shape[0] != len(prepared.images):
        raise ValueError(
            f"{method}: the model's features must be a map n H W K, or a tuple that begins with "
            f"one; they are {shape or found}"
        )


def prepare_features(model: Any, images: Any, targets: Any, method: str) -> Prepared:
    prepared = prepare(model, images, targets)
    _check_features(model, prepared, method)
    return prepared


def feature_gradient(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    score: str = "logit",
    chunk_size: int | None = None,
) -> tuple[Float[Array, "n H W K"], Float[Array, "n H W K"]]:
    """Return the last grid A, and ∂s_c/∂A of each image's score by it, float32.

    Raises:
      ValueError: a model without `features` and `head`; inputs that do not fit the model.
    """
    prepared = prepare_features(model, images, targets, "feature_gradient")
    return prepared_gradient(prepared, score, chunk_size)


def prepared_gradient(
    prepared: Prepared,
    score: str,
    chunk_size: int | None,
    head_gradient: Callable[..., Array] | None = None,
) -> tuple[Float[Array, "n H W K"], Float[Array, "n H W K"]]:
    """Return `feature_gradient` for what is prepared.

    Args:
      head_gradient: `(arrays, static, features, targets, score) -> n H W K`; None: that of the
        target's score.
    """
    arrays, static, images, targets = prepared
    size = chunk_for(prepared, chunk_size, len(images), backward=False)
    ask = head_gradient or _head_gradient
    parts = []
    for index, keep in chunks(len(images), size):
        features = jax.tree.map(_wide, last_features(arrays, static, images[index]))
        gradient = ask(arrays, static, features, targets[index], score)
        parts.append((grid_of(features)[: keep.sum()], gradient[: keep.sum()]))
    features, gradients = zip(*parts, strict=True)
    return jnp.concatenate(features), jnp.concatenate(gradients)


def _wide(array: Array) -> Array:
    return array.astype(jnp.float32)


@partial(jax.jit, static_argnames=("height", "width"))
def enlarge(maps: Float[Array, "n H W"], height: int, width: int) -> Float[Array, "n h w"]:
    """Return bilinear enlargement, pixel centres at +0.5, constant beyond the outermost.

    The same as PyTorch's `interpolate(mode="bilinear", align_corners=False)`.
    """
    return jax.image.resize(maps, (len(maps), height, width), "linear", antialias=False)


def class_activation(
    features: Float[Array, "n H W k"],
    weights: Float[Array, "n k"],
    images: Float[Array | np.ndarray, "n h w c"],
    silent: Bool[Array, "n"] | None = None,
) -> Attribution:
    """Compute Eq. 2 of Grad-CAM: the weighted channels, rectified, then enlarged; 0 for an image
    whose weights are `silent`, made of scores that say nothing."""
    return enlarged(_weigh(features, weights), images, silent)


def enlarged(
    coarse: Float[Array, "n H W"],
    images: Float[Array | np.ndarray, "n h w c"],
    silent: Bool[Array, "n"] | None = None,
) -> Attribution:
    """Return a map of the feature map's size, rectified, enlarged and scaled; "signed" is not.
    The map is 0 for an image that is `silent`."""
    height, width = images.shape[1:3]
    return Attribution(
        positive_part(enlarge(jnp.maximum(coarse, 0), height, width), silent),
        {"signed": enlarge(coarse, height, width)},
    )


@jax.jit
def _weigh(features, weights):
    return jnp.einsum("nhwk,nk->nhw", features, weights, precision="highest")


# The methods.


@with_config
def grad_cam(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: GradCamConfig = GradCamConfig(),
) -> Attribution:
    """Grad-CAM: a channel counts as much as its mean gradient.

      w_k = (1/Z) Σ_ij ∂s/∂A^k_ij   (Selvaraju et al. 2017, Eq. 1)
      L = ReLU(Σ_k w_k A^k)         (Eq. 2)

    For a network that ends in global average pooling and one linear layer, w is that
    layer's weights (up to 1/Z) and L is CAM.

    Args:
      model: a classifier with `features(images)` and `head(features)`.
      images: RGB in [0, 1].
      targets: class index per image.
      key: not used.
      config: see `GradCamConfig`.

    Returns:
      heatmap: L, enlarged and divided by the image's maximum; zeros where L is zero
      everywhere, NaN where the score is NaN. maps: "signed", Σ_k w_k A^k without the ReLU,
      enlarged.

    Raises:
      ValueError: a model without `features` and `head`; shapes that do not fit, a target
        outside the model's classes, or images outside [0, 1].
    """
    prepared = prepare_features(model, images, targets, "grad_cam")
    features, gradient = prepared_gradient(prepared, config.score, config.chunk_size)
    return class_activation(features, gradient.mean((1, 2)), prepared.images)


@jax.jit
def _plus_plus_weights(features, gradient):
    total = features.sum((1, 2), keepdims=True)
    # g² / (2 g² + ΣA g³) = 1 / (2 + ΣA g) wherever g is not 0, and g³ does not underflow.
    bottom = 2 + total * gradient
    share = jnp.where((gradient > 0) & (bottom != 0), 1 / jnp.where(bottom == 0, 1, bottom), 0)
    weights = (share * jnp.maximum(gradient, 0)).sum((1, 2))
    return jnp.where(jnp.isnan(gradient).any((1, 2)), jnp.nan, weights)


@with_config
def grad_cam_plus_plus(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: GradCamPlusPlusConfig = GradCamPlusPlusConfig(),
) -> Attribution:
    """Grad-CAM++: a channel counts as much as its positive gradients, each with its share.

    With g = ∂s/∂A^k_ij, and Y = exp(s), whose higher derivatives are powers of g for a
    piecewise linear head (Chattopadhay et al. 2018):

      α^k_ij = g² / (2 g² + Σ_ab A^k_ab g³)    (Eq. 19; 0 where g is 0)
      w_k = Σ_ij α^k_ij ReLU(∂Y/∂A^k_ij)       (Eq. 5)
      L = ReLU(Σ_k w_k A^k)

    ∂Y/∂A = exp(s) g; the factor exp(s) is the same for all channels of an image and is left
    out: it would overflow, and the heatmap does not change.

    Args, Returns, Raises:
      as in `grad_cam`.
    """
    prepared = prepare_features(model, images, targets, "grad_cam_plus_plus")
    features, gradient = prepared_gradient(prepared, config.score, config.chunk_size)
    return class_activation(features, _plus_plus_weights(features, gradient), prepared.images)


@with_config
def guided_grad_cam(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: GuidedGradCamConfig = GuidedGradCamConfig(),
) -> Attribution:
    """Guided Grad-CAM: guided backpropagation where Grad-CAM looks.

      Up(L_Grad-CAM) ⊙ guided backpropagation   (Selvaraju et al. 2017, section 3.2)

    Args:
      model: a classifier with `features(images)` and `head(features)`, and with ReLUs.
      images: RGB in [0, 1].
      targets: class index per image.
      key: not used.
      config: see `GuidedGradCamConfig`.

    Returns:
      heatmap: the product's channels reduced by `config.reduce`, divided by the image's
      maximum. maps: "signed", its sum over channels.

    Raises:
      ValueError: as in `grad_cam` and `guided_backprop`.
    """
    prepared = prepare_features(model, images, targets, "guided_grad_cam")
    features, gradient = prepared_gradient(prepared, config.score, config.chunk_size)
    coarse = jnp.maximum(_weigh(features, gradient.mean((1, 2))), 0)
    guided = rectified_gradient(
        model, images, targets, "guided", score=config.score, chunk_size=config.chunk_size
    )
    cam = enlarge(coarse, *guided.shape[1:3])
    return attribution(cam[..., None] * guided, config.reduce, "signed")


def _one_pass(config: GradCamConfig, height: int, width: int, channels: int) -> Passes:
    return Passes(1, 0)  # the head alone is differentiated


GRAD_CAM = Method(
    grad_cam,
    GradCamConfig,
    passes=_one_pass,
    needs=("gradient", "features"),
    order=130,
)
GRAD_CAM_PLUS_PLUS = Method(
    grad_cam_plus_plus,
    GradCamPlusPlusConfig,
    passes=_one_pass,
    needs=("gradient", "features"),
    order=140,
)
GUIDED_GRAD_CAM = Method(
    guided_grad_cam,
    GuidedGradCamConfig,
    passes=lambda *_: Passes(1, 1),
    needs=("gradient", "features", "relus"),
    order=150,
)
