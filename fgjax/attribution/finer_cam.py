"""Finer-CAM: what tells the class from those that come nearest to it.

Reference:
  Zhang, Gu, Chowdhury, Mai, Carlyn, Berger-Wolf, Su, Chao, Finer-CAM: Spotting the Difference
  Reveals Finer Details for Visual Explanation, CVPR 2025.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.cam import class_activation, prepare_features, prepared_gradient
from fgjax.attribution.common.perturbation import check_at_least_one, check_choice
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes
from fgjax.core.features import grid_of, with_grid
from fgjax.core.functional import combine
from fgjax.core.option import option
from fgjax.devices.forward import output_shape
from fgjax.devices.jit import program

Weigh = Literal["probability", "equal"]


@dataclass(frozen=True)
class FinerCamConfig:
    """Settings of Finer-CAM."""

    rivals: int = option(
        3,
        "so many classes that the target is told from: those whose logits are nearest to its own; "
        "at most all others.",
    )
    strength: float = option(
        1.0,
        "γ: 0 is Grad-CAM; the nearer to 1, the less of what the classes share is shown.",
    )
    weigh: Weigh = option(
        "probability",
        'how the differences to several rivals become one: by the rivals\' "probability", through '
        'which the gradient flows too, as in the released code; or "equal".',
    )
    chunk_size: int | None = option(
        None,
        "images per model call; None: as memory allows.",
        free=True,
    )

    def __post_init__(self):
        check_at_least_one(self, "rivals", "chunk_size")
        check_choice(self, "weigh", get_args(Weigh))
        if not self.strength >= 0:
            raise ValueError(f"strength={self.strength}: must not be negative")


def difference(
    logits: Float[Array, "n k"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    rivals: int = 3,
    strength: float = 1.0,
    weigh: str = "probability",
) -> Float[Array, "n"]:
    """Return Σ_d ω_d (y_c − γ y_d) over the rivals d, the classes whose logits are nearest to y_c.

    ω_d is p_d / Σ p of the rivals' softmax probabilities, or the same for all. NaN where a logit
    is.
    """
    own = jnp.take_along_axis(logits, jnp.asarray(targets)[:, None], axis=1)
    is_own = jnp.arange(logits.shape[1])[None] == jnp.asarray(targets)[:, None]
    gap = jnp.where(is_own, jnp.inf, jnp.abs(logits - own))
    count = min(rivals, logits.shape[1] - 1)
    order = jax.lax.stop_gradient(jnp.argsort(gap, axis=1, stable=True))[:, :count]
    near = jnp.take_along_axis(logits, order, axis=1)
    # Of the rivals alone: the sum of the others' exponentials cancels in p_d / Σ p.
    share = jax.nn.softmax(near) if weigh == "probability" else jnp.full_like(near, 1 / count)
    broken = jnp.isnan(logits).any(1)
    return jnp.where(broken, jnp.nan, (share * (own - strength * near)).sum(1))


@program("explain", static_argnames=("static", "score", "rivals", "strength", "weigh"))
def _head_gradient(arrays, static, features, targets, score, rivals, strength, weigh):
    def total(grid):
        logits = combine(arrays, static).head(with_grid(features, grid)).astype(jnp.float32)
        values = difference(logits, targets, rivals=rivals, strength=strength, weigh=weigh)
        return values.sum(), values

    gradient, values = jax.grad(total, has_aux=True)(grid_of(features))
    gradient = gradient.astype(jnp.float32)
    return jnp.where(jnp.isnan(values)[:, None, None, None], jnp.nan, gradient)


@with_config
def finer_cam(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: FinerCamConfig = FinerCamConfig(),
) -> Attribution:
    """Finer-CAM: Grad-CAM of the difference between the class and its nearest rivals.

      s = Σ_d ω_d (y_c − γ y_d)
      w_k = (1/Z) Σ_ij ∂s/∂A^k_ij,   L = ReLU(Σ_k w_k A^k)

    Args:
      model: a classifier with `features(images)` and `head(features)`, of two classes or more.
      images: RGB in [0, 1].
      targets: class index per image.
      key: not used.
      config: see `FinerCamConfig`.

    Returns:
      heatmap: L, enlarged and divided by the image's maximum; zeros where L is zero everywhere,
      NaN where a logit is NaN. maps: "signed", Σ_k w_k A^k without the ReLU, enlarged.

    Raises:
      ValueError: as in `grad_cam`; a model of one class.
    """
    prepared = prepare_features(model, images, targets, "finer_cam")
    ask = partial(
        _head_gradient, rivals=config.rivals, strength=config.strength, weigh=config.weigh
    )
    logits = output_shape(prepared.arrays, prepared.static, prepared.images)
    if logits.shape[1] < 2:
        raise ValueError("finer_cam tells a class from others: the model has one class only")
    features, gradient = prepared_gradient(prepared, "logit", config.chunk_size, ask)
    return class_activation(features, gradient.mean((1, 2)), prepared.images)


FINER_CAM = Method(
    finer_cam,
    FinerCamConfig,
    passes=lambda *_: Passes(1, 0),  # the head alone is differentiated
    presets={"released": dict(rivals=3, strength=1.0, weigh="probability")},
    needs=("gradient", "features"),
    order=146,
)
