"""Score-CAM: channels weighted by the score of the image that they let through.

Reference:
  Wang et al., Score-CAM: Score-Weighted Visual Explanations for CNNs, CVPR workshops 2020.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.cam import class_activation, enlarge, last_features, prepare_features
from fgjax.attribution.common.infill import Infill, check_infill, keyed_infill
from fgjax.attribution.common.perturbation import (
    CLASS_SCORES,
    check_at_least_one,
    check_choice,
    spread_of,
)
from fgjax.attribution.common.score_gradient import Score, chunk_for
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.streaming import chunks
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes
from fgjax.core.features import grid_of
from fgjax.core.floor import is_flat
from fgjax.core.functional import combine
from fgjax.core.option import option
from fgjax.devices.in_flight import InFlight, calls_at_a_time
from fgjax.devices.jit import program


@dataclass(frozen=True)
class ScoreCamConfig:
    """Settings of Score-CAM."""

    score: Score = option(
        "probability",
        'f: the target\'s "probability", its "logit", or another name of `CLASS_SCORES`.',
    )
    weights: Literal["increase", "score", "softmax"] = option(
        "increase",
        'what a channel counts: "increase", f(masked) - f(infill); "score", f(masked) alone; '
        '"softmax" over the channels of f(masked).',
    )
    infill: Infill = option(
        "zeros",
        "what the mask leaves open shows this: a name of `INFILLS`, an array or a function. "
        '"zeros" is X ∘ H in [0, 1] space; the released code multiplies normalised images, '
        "where 0 is the data set's mean colour: give that as an array to do the same.",
    )
    channels: int | None = option(
        None,
        "only as many, those that vary most over the map; None: all of them.",
    )
    chunk_size: int | None = option(
        None,
        "masked images per model call; None: as memory allows.",
        free=True,
    )

    def __post_init__(self):
        check_choice(self, "score", get_args(Score))
        check_choice(self, "weights", ("increase", "score", "softmax"))
        check_at_least_one(self, "channels", "chunk_size")
        check_infill(self.infill)


SCORE_CAM_PRESETS: dict[str, dict[str, Any]] = {
    # Definition 2: the increase of confidence over the baseline, after the softmax.
    "wang-2020": {},
    # Algorithm 1 of the same paper: the weights are a softmax over the channels.
    "wang-2020-algorithm": dict(score="logit", weights="softmax"),
    # The released code: the probability itself, nothing subtracted.
    "score-cam-pytorch": dict(weights="score"),
    # Faster Score-CAM: the ten channels that vary most.
    "faster-score-cam": dict(score="logit", weights="softmax", channels=10),
}
"""Published settings of Score-CAM by name."""


@jax.jit
def _masked(images, infill, features, image, channel):
    """X̂ + H (X - X̂), where H is a channel, enlarged and scaled to [0, 1]."""
    maps = jax.vmap(lambda i, k: features[i, :, :, k])(image, channel)
    maps = enlarge(maps, *images.shape[1:3])
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    flat = is_flat(maps)[:, None, None]
    masks = jnp.where(flat, 0, (maps - low) / jnp.where(flat, 1, high - low))[..., None]
    return infill[image] + masks * (images[image] - infill[image])


@program("explain", static_argnames=("static", "score"))
def _score(arrays, static, images, targets, score):
    logits = combine(arrays, static)(images).astype(jnp.float32)
    return CLASS_SCORES[score](logits, targets)


@partial(jax.jit, static_argnames="kind")
def _score_weights(scores, baseline, constant, kind):
    if kind == "softmax":
        # Where every channel is constant there is nothing to share.
        shares = jax.nn.softmax(jnp.where(constant, -jnp.inf, scores), axis=1)
        return jnp.where(constant, 0, shares)
    return jnp.where(constant, 0, scores - baseline[:, None])


@with_config
def score_cam(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: ScoreCamConfig = ScoreCamConfig(),
) -> Attribution:
    """Score-CAM: a channel counts as much as the class when only its region is shown.

      H^k = s(Up(A^k)),  s(A) = (A - min A) / (max A - min A)
      w_k = f(X ∘ H^k) - f(X_b)      (Wang et al. 2020, Definition 2)
      L = ReLU(Σ_k w_k A^k)

    f is the softmax probability, as the paper argues and its code does; its Algorithm 1
    takes a softmax over the channels for w (`SCORE_CAM_PRESETS`). A channel that is constant
    over the map has no H and counts 0. There is one forward pass per channel.

    Args:
      model: a classifier with `features(images)` and `head(features)`.
      images: RGB in [0, 1].
      targets: class index per image.
      key: one key, or one per image; needed by a random infill only.
      config: see `ScoreCamConfig`.

    Returns:
      heatmap and maps as in `grad_cam`; a heatmap of zeros where the scores differ by no more
      than rounding (`fgjax.core.floor`). traces: "spread", one number per image, how far the
      scores lie apart as a share of the largest.

    Raises:
      ValueError: as in `grad_cam`; a random infill without a key.
    """
    prepared = prepare_features(model, images, targets, "score_cam")
    arrays, static, images, targets = prepared
    infill = keyed_infill(config.infill, images, key)
    features = _all_features(prepared, config.chunk_size)
    features, constant = _chosen_channels(features, config.channels)
    n, count = constant.shape

    size = chunk_for(prepared, config.chunk_size, n * count, backward=False)
    find = partial(_score, arrays, static, score=config.score)
    parts, sent = [], InFlight(calls_at_a_time(images, arrays))
    for index, keep in chunks(n * count, size):
        image, channel = np.divmod(index, count)
        masked = _masked(images, infill, features, image, channel)
        parts.append(find(masked, targets[image])[: keep.sum()])
        sent.add(parts[-1])
    scores = jnp.concatenate(parts).reshape(n, count)

    baseline, asked = jnp.zeros(n), scores
    if config.weights == "increase":
        parts = [
            find(infill[index], targets[index])[: keep.sum()] for index, keep in chunks(n, size)
        ]
        baseline = jnp.concatenate(parts)
        asked = jnp.concatenate([scores, baseline[:, None]], axis=1)
    weights = _score_weights(scores, baseline, constant, config.weights)
    found = class_activation(features, weights, images, is_flat(asked))
    return Attribution(found.heatmap, found.maps, {"spread": spread_of(asked)})


def _all_features(prepared, chunk_size):
    arrays, static, images, _ = prepared
    size = chunk_for(prepared, chunk_size, len(images), backward=False)
    return jnp.concatenate(
        [
            grid_of(last_features(arrays, static, images[index])).astype(jnp.float32)[: keep.sum()]
            for index, keep in chunks(len(images), size)
        ]
    )


@partial(jax.jit, static_argnames="channels")
def _chosen_channels(features, channels):
    """Return the features of the channels that vary most, and which of those are constant."""
    if channels is not None and channels < features.shape[-1]:
        _, order = jax.lax.top_k(features.std((1, 2)), channels)
        features = jnp.take_along_axis(features, order[:, None, None, :], axis=-1)
    n, *_, count = features.shape
    flat = is_flat(jnp.moveaxis(features, -1, 1).reshape(n * count, -1))
    return features, flat.reshape(n, count)


def _passes(config: ScoreCamConfig, height: int, width: int, channels: int) -> Passes:
    masked = min(config.channels or channels, channels)
    return Passes(1 + masked + (config.weights == "increase"), 0)


SCORE_CAM = Method(
    score_cam,
    ScoreCamConfig,
    passes=_passes,
    presets=SCORE_CAM_PRESETS,
    needs=("features",),
    order=160,
)
