"""KernelSHAP on superpixels: how much each adds to the score, averaged over all orders of adding.

Reference:
  Lundberg & Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from fgjax.attribution.common.infill import Infill
from fgjax.attribution.common.perturbation import (
    Score,
    ask,
    check_at_least_one,
    check_score,
    perturbed_scores,
    positive_part,
    spread_of,
)
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.superpixels import check_hidden, cut_up
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes
from fgjax.core.floor import is_flat
from fgjax.core.keys import image_keys
from fgjax.core.option import option


@dataclass(frozen=True)
class KernelShapConfig:
    """Settings of KernelSHAP."""

    samples: int = option(
        1000,
        "perturbed images, the one with all superpixels hidden and the whole one among them. As "
        "many as there are sets of superpixels, and the values are exact.",
    )
    segments: int = option(50, "superpixels, about so many (SLIC).")
    compactness: float = option(10.0, "of the superpixels: colour counts less the higher it is.")
    infill: Infill = option(
        "segment_mean",
        'what a hidden superpixel becomes: "segment_mean", its own mean colour; or a name of '
        "`INFILLS`; in Python also an array or a function `(images, key) -> images`.",
    )
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
        check_at_least_one(self, "segments", "chunk_size")
        if self.samples < 4:
            raise ValueError(
                f"samples={self.samples}: at least 4, for two of them are none and all of the "
                "superpixels, and the others come in pairs"
            )
        if not self.compactness > 0:
            raise ValueError(f"compactness={self.compactness}: must be above 0")
        check_hidden(self.infill)
        check_score(self.score)


def coalitions(
    key: Key[Array, ""], count: int, samples: int
) -> tuple[Bool[np.ndarray, "samples count"], Float[np.ndarray, "samples"]]:
    """Return which superpixels each sample shows, and the sample's weight in the regression.

    The first shows none, the second all; both are met exactly and have no weight. Where there is
    room for every other set, each is there once, with the Shapley kernel's weight

      π(z) = (M − 1) / (C(M, |z|) |z| (M − |z|))   (Lundberg & Lee 2017, Theorem 2)

    and what is left over repeats the first with weight 0. Else sets are drawn with that weight,
    each followed by its complement, and count alike.
    """
    shown = np.zeros((samples, count), bool)
    weight = np.zeros(samples)
    shown[1] = True
    if count < 2:
        return shown, weight
    if count < 30 and 2**count <= samples:
        every = (np.arange(1, 2**count - 1)[:, None] >> np.arange(count)) & 1
        size = every.sum(1)
        choose = np.array([math.comb(count, int(s)) for s in size], np.float64)
        shown[2 : 2**count] = every.astype(bool)
        weight[2 : 2**count] = (count - 1) / (choose * size * (count - size))
        return shown, weight
    pairs = (samples - 2) // 2
    # Raw output of the generator: NumPy keeps that the same in all its versions.
    seed = np.random.SeedSequence(np.asarray(jax.random.key_data(key)).ravel().tolist())
    raw = np.random.PCG64(seed).random_raw(pairs * (count + 1)).reshape(pairs, count + 1)
    sizes = np.arange(1, count)
    chance = 1 / (sizes * (count - sizes))
    size = 1 + np.searchsorted(np.cumsum(chance) / chance.sum(), raw[:, 0] / 2.0**64)
    rank = np.argsort(np.argsort(raw[:, 1:], axis=1), axis=1)
    drawn = rank < np.minimum(size, count - 1)[:, None]
    shown[2 : 2 + 2 * pairs : 2], shown[3 : 3 + 2 * pairs : 2] = drawn, ~drawn
    weight[2 : 2 + 2 * pairs] = 1
    return shown, weight


def shapley_values(
    shown: Bool[np.ndarray, "samples count"],
    weight: Float[np.ndarray, "samples"],
    scores: Float[np.ndarray, "samples"],
) -> Float[np.ndarray, "count"]:
    """Return the φ that fit the scores best and sum to what all superpixels add, in float64.

      min_φ Σ_i π_i (v(z_i) − v(∅) − φ · z_i)²,   Σ φ = v(all) − v(∅)

    NaN for scores with a NaN or an infinity.
    """
    count, scores = shown.shape[1], scores.astype(np.float64)
    if not np.isfinite(scores).all():
        return np.full(count, np.nan)
    gain = scores[1] - scores[0]
    if count == 1:
        return np.array([gain])
    z, y = shown.astype(np.float64), scores - scores[0]
    # The condition of a minimum on the plane Σ φ = gain, with its multiplier as last unknown.
    system, wanted = np.ones((count + 1, count + 1)), np.empty(count + 1)
    system[:count, :count] = z.T @ (weight[:, None] * z)
    system[count, count] = 0
    wanted[:count], wanted[count] = z.T @ (weight * y), gain
    # Too few samples leave directions free: the shortest solution is taken.
    return np.linalg.lstsq(system, wanted, rcond=None)[0][:count]


def hide(images: Array, own: Any, shared: Any, index: Array) -> Array:
    """Return image g as sample `index` shows it; the superpixels not shown are filled in."""
    labels, infill, shown = own

    def one(image, labels, infill, shown):
        kept = shown[index][:, labels][..., None]
        return jnp.where(kept, image[None], infill[None])

    return jax.vmap(one)(images, labels, infill, shown)


@with_config
def kernel_shap(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Any,
    *,
    key: Key[Array, "..."],
    config: KernelShapConfig = KernelShapConfig(),
) -> Attribution:
    """Return Shapley values of superpixels, by the regression of KernelSHAP.

    What a superpixel adds to the score when it is shown, averaged over all orders in which they
    may be shown. They sum to the score of the image less that of the infill.

    Args:
      model: any callable pytree, images -> logits; with a score function of the user's,
        images -> whatever that reads.
      images: RGB in [0, 1].
      targets: class index per image; with a score function, arrays with a row per image.
      key: one key, or one key per image. With one key image i uses `fold_in(key, i)`: its
        samples do not depend on the images beside it.
      config: see `KernelShapConfig`.

    Returns:
      heatmap: each pixel has the positive part of its superpixel's value, over the greatest;
      0 everywhere if the scores differ by no more than rounding (`fgjax.core.floor`). maps:
      "signed", the values as they are; "segments", the number of the superpixel. traces: "spread",
      one number per image, how far the scores lie apart as a share of the largest. An image for
      which the model returns NaN gets NaN maps ("segments" apart); its neighbours do not.

    Raises:
      ValueError: shapes that do not fit, a target outside the model's classes, images
        outside [0, 1], a key that is missing or of the old kind.

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> config = KernelShapConfig(samples=20)
      >>> kernel_shap(model, images, target, key=jax.random.key(0), config=config).heatmap.shape
      (1, 16, 16)
    """
    question = ask(model, images, targets, config.score)
    keys = image_keys(key, len(question.images))
    labels, infill = cut_up(
        question.images, keys, config.segments, config.compactness, config.infill
    )
    sets = [
        coalitions(mine, int(own.max()) + 1, config.samples)
        for mine, own in zip(keys, labels, strict=True)
    ]
    # Room for twice as many as wished for, so that one program serves images of any number.
    room = max(2 * config.segments, int(labels.max()) + 1)
    shown = np.zeros((len(labels), config.samples, room), bool)
    for i, (own, _) in enumerate(sets):
        shown[i, :, : own.shape[1]] = own
    scores = perturbed_scores(
        question,
        hide,
        config.samples,
        own=(jnp.asarray(labels), infill, jnp.asarray(shown)),
        chunk_size=config.chunk_size,
    )
    found = [
        shapley_values(*own, answers)[of].astype(np.float32)
        for own, answers, of in zip(sets, np.asarray(scores), labels, strict=True)
    ]
    signed = jnp.asarray(np.stack(found))
    return Attribution(
        heatmap=positive_part(signed, is_flat(scores)),
        maps={"signed": signed, "segments": jnp.asarray(labels, jnp.float32)},
        traces={"spread": spread_of(scores)},
    )


KERNEL_SHAP = Method(
    kernel_shap,
    KernelShapConfig,
    passes=lambda config, *_: Passes(config.samples, 0),
    order=72,
)
