"""What a transformer looked at: attention rollout, and attention weighed by its gradient.

Both follow tokens through the blocks. With A_l the attention weights of block l, a row for each
token, the classifier's readout r (the class token, or every cell alike) is carried from the last
block to the first, r ← r Â_l, and what arrives at the grid's cells is the map. The methods differ
in Â.

A model offers `attend(images, taps)`, see `fgjax.core.features.Attended`, and `features(images)`,
a tuple that begins with the grid; fgjax's ViTs do. Windows, as Swin has them, have no such rows.

References:
  Abnar & Zuidema, Quantifying Attention Flow in Transformers, 2020.
  Chefer, Gur & Wolf, Generic Attention-model Explainability for Interpreting Bi-Modal and
    Encoder-Decoder Transformers, 2021.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.cam import enlarge
from fgjax.attribution.common.perturbation import (
    CLASS_SCORES,
    check_at_least_one,
    check_choice,
    positive_part,
)
from fgjax.attribution.common.score_gradient import Prepared, Score, chunk_for, prepare
from fgjax.attribution.common.streaming import chunks
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes
from fgjax.core.features import grid_of
from fgjax.core.functional import combine
from fgjax.core.option import option
from fgjax.devices.jit import program

Fuse = Literal["mean", "max", "min"]


@dataclass(frozen=True)
class AttentionRolloutConfig:
    """Settings of attention rollout."""

    fuse: Fuse = option(
        "mean", 'how a block\'s heads become one: their "mean" (the paper), "max" or "min".'
    )
    chunk_size: int | None = option(
        None, "images per model call; None: as memory allows.", free=True
    )

    def __post_init__(self):
        check_choice(self, "fuse", get_args(Fuse))
        check_at_least_one(self, "chunk_size")


@dataclass(frozen=True)
class AttentionRelevanceConfig:
    """Settings of attention relevance."""

    score: Score = option(
        "logit",
        'what is differentiated: the target\'s "logit", its "log_odds", "probability", or '
        "another name of `CLASS_SCORES`.",
    )
    chunk_size: int | None = option(
        None, "images per model call; None: as memory allows.", free=True
    )

    def __post_init__(self):
        check_choice(self, "score", get_args(Score))
        check_at_least_one(self, "chunk_size")


def _prepare(model: Any, images: Any, targets: Any, method: str) -> Prepared:
    missing = [name for name in ("attend", "features") if not callable(getattr(model, name, None))]
    if missing:
        name = getattr(model, "name", "") or type(model).__name__
        raise ValueError(
            f"{method} needs a transformer's attention weights: a model with attend(images, taps) "
            f"and features(images). {name} has no {' and no '.join(missing)}; a ViT of fgjax has "
            "both, such as create_model('vit_small_patch16_224', …). Grad-CAM explains networks "
            "without attention"
        )
    return prepare(model, images, targets)


@program("explain", static_argnames=("static", "fuse"))
def _rollout(arrays, static, images, fuse):
    attended = combine(arrays, static).attend(images)
    carried = attended.readout
    for weights in reversed(attended.weights):
        heads = getattr(weights.astype(jnp.float32), fuse)(1)
        heads = heads / heads.sum(-1, keepdims=True)  # the maxima and minima of rows sum to else
        carried = (carried + _through(carried, heads)) / 2
    return carried


def _through(carried, weights):
    return jnp.einsum("nt,nts->ns", carried, weights, precision="highest")


@program("explain", static_argnames=("static", "score"))
def _relevance(arrays, static, images, targets, score):
    model = combine(arrays, static)
    shapes = jax.eval_shape(model.attend, images).weights
    taps = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]

    def total(taps):
        attended = model.attend(images, taps)
        values = CLASS_SCORES[score](attended.logits.astype(jnp.float32), targets)
        return values.sum(), (values, attended)

    gradients, (values, attended) = jax.grad(total, has_aux=True)(taps)
    carried = attended.readout
    for weights, gradient in zip(reversed(attended.weights), reversed(gradients), strict=True):
        positive = jnp.maximum(weights * gradient, 0).astype(jnp.float32).mean(1)
        carried = carried + _through(carried, positive)
    return jnp.where(jnp.isnan(values)[:, None], jnp.nan, carried)


def _over_the_grid(
    model: Any, prepared: Prepared, find: Callable, chunk_size: int | None, backward: bool
) -> Attribution:
    """Return what arrives at the cells of the grid, as a map."""
    arrays, static, images, targets = prepared
    size = chunk_for(prepared, chunk_size, len(images), backward=backward)
    rows, columns = grid_of(jax.eval_shape(model.features, images[:1])).shape[1:3]
    parts = [
        find(arrays, static, images[index], targets[index])[: keep.sum(), -rows * columns :]
        for index, keep in chunks(len(images), size)
    ]
    coarse = jnp.concatenate(parts).reshape(len(images), rows, columns)
    cells = enlarge(coarse, *images.shape[1:3])
    return Attribution(positive_part(cells), {"cells": cells})


def attention_rollout(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: AttentionRolloutConfig = AttentionRolloutConfig(),
) -> Attribution:
    """Attention rollout: which cells the readout came from, were attention all that mixes.

      Â_l = (A_l + I) / 2, A_l the mean over the heads   (Abnar & Zuidema 2020, section 3)
      map = r Â_L … Â_1

    It is the same for every class.

    Args:
      model: a transformer with `attend(images, taps)` and `features(images)`.
      images: RGB in [0, 1].
      targets: class index per image; checked, and not used.
      key: not used.
      config: see `AttentionRolloutConfig`.

    Returns:
      heatmap: the map, enlarged bilinearly and divided by the image's maximum. maps: "cells", the
      same undivided: shares of 1, of which tokens beside the grid have the rest.

    Raises:
      ValueError: a model without attention weights; shapes that do not fit, a target outside the
        model's classes, or images outside [0, 1].
    """
    prepared = _prepare(model, images, targets, "attention_rollout")
    find = lambda arrays, static, images, targets: _rollout(arrays, static, images, config.fuse)
    return _over_the_grid(model, prepared, find, config.chunk_size, backward=False)


def attention_relevance(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: AttentionRelevanceConfig = AttentionRelevanceConfig(),
) -> Attribution:
    """Attention relevance: attention counts where more of it would raise the class's score.

      Ā_l = E_heads[(∇A_l ⊙ A_l)⁺]           (Chefer et al. 2021, Eq. 5)
      R ← R + Ā_l R, from R = I              (Eq. 6)
      map = r R, that is r (I + Ā_L) … (I + Ā_1)

    Args:
      model: a transformer with `attend(images, taps)` and `features(images)`.
      images: RGB in [0, 1].
      targets: class index per image.
      key: not used.
      config: see `AttentionRelevanceConfig`.

    Returns:
      heatmap: the map, enlarged bilinearly and divided by the image's maximum; NaN where the
      score is NaN. maps: "cells", the same undivided. Where a mean over the cells is read, r gives
      each cell the same to begin with.

    Raises:
      ValueError: as in `attention_rollout`.
    """
    prepared = _prepare(model, images, targets, "attention_relevance")
    find = partial(_relevance, score=config.score)
    return _over_the_grid(model, prepared, find, config.chunk_size, backward=True)


ATTENTION_ROLLOUT = Method(
    attention_rollout,
    AttentionRolloutConfig,
    passes=lambda *_: Passes(1, 0),
    needs=("attention",),
    order=162,
)
ATTENTION_RELEVANCE = Method(
    attention_relevance,
    AttentionRelevanceConfig,
    passes=lambda *_: Passes(0, 1),
    needs=("gradient", "attention"),
    order=164,
)
