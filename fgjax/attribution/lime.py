"""LIME: a linear model of which superpixels the score depends on.

Reference:
  Ribeiro et al., "Why Should I Trust You?" Explaining the Predictions of Any Classifier, 2016.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

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
from fgjax.attribution.common.presets import preset
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.superpixels import check_hidden, cut_up
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes
from fgjax.core.floor import is_flat
from fgjax.core.keys import image_keys
from fgjax.core.option import option


@dataclass(frozen=True)
class LimeConfig:
    """Settings of LIME."""

    samples: int = option(1000, "perturbed images, each with about half of its superpixels hidden.")
    segments: int = option(50, "superpixels, about so many (SLIC).")
    compactness: float = option(10.0, "of the superpixels: colour counts less the higher it is.")
    kernel_width: float = option(
        0.25,
        "of the exponential kernel that weighs samples by their nearness.",
    )
    ridge: float = option(1.0, "α, the penalty on the squared coefficients.")
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
        check_at_least_one(self, "samples", "segments", "chunk_size")
        for name in ("compactness", "kernel_width", "ridge"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0")
        check_hidden(self.infill)
        check_score(self.score)


LIME_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The authors' package (github.com/marcotcr/lime), lime_image: 1000 samples, kernel 0.25,
    # ridge 1, hidden superpixels at their mean colour. Its superpixels are quickshift's.
    "lime-image": dict(samples=1000, kernel_width=0.25, ridge=1.0, infill="segment_mean"),
}
"""Published settings by name; `lime_preset` makes a config of one."""


def lime_preset(name: str, **changes: Any) -> LimeConfig:
    """Return the settings published under `name` (see `LIME_PRESETS`), with `changes` on top.

    Raises:
      ValueError: no such preset, or no such setting.
    """
    return preset(LimeConfig, LIME_PRESETS, name, changes)


def draw_shown(
    key: Key[Array, ""], index: Int[Array, "m"], slots: Int[Array, "s"]
) -> Bool[Array, "m s"]:
    """Return which superpixels each sample shows: all in sample 0, each with probability ½ in
    others.

    A function of key, sample and superpixel alone: however many there are of either.
    """

    def draw(sample):
        at = jax.random.fold_in(key, sample)
        shown = jax.vmap(lambda slot: jax.random.bernoulli(jax.random.fold_in(at, slot)))(slots)
        return shown | (sample == 0)

    return jax.vmap(draw)(index)


_draw_shown = jax.jit(draw_shown)


def hide(images: Array, own: Any, shared: Any, index: Array) -> Array:
    """Return image g as sample `index` shows it; the superpixels not shown are filled in."""
    labels, infill, keys = own

    def one(image, labels, infill, key):
        shown = draw_shown(key, index, shared)[:, labels][..., None]
        return jnp.where(shown, image[None], infill[None])

    return jax.vmap(one)(images, labels, infill, keys)


def fit(
    shown: Bool[np.ndarray, "m s"],
    scores: Float[np.ndarray, "m"],
    *,
    kernel_width: float,
    ridge: float,
) -> Float[np.ndarray, "s"]:
    """Return the coefficients of weighted ridge regression with an intercept, in float64.

      min_β,b Σ_i π_i (y_i - b - β · z_i)² + α |β|²,   π = √exp(-d² / width²)

    d is the cosine distance between a sample's z ∈ {0, 1}^s and all ones: 1 - √(share shown).
    NaN for scores with a NaN or an infinity.
    """
    z, y = shown.astype(np.float64), scores.astype(np.float64)
    if not np.isfinite(y).all():
        return np.full(z.shape[1], np.nan)
    distance = 1 - np.sqrt(z.mean(1))
    weight = np.sqrt(np.exp(-((distance / kernel_width) ** 2)))
    share = (weight / weight.sum())[:, None]
    centred, target = z - (share * z).sum(0), y - (share[:, 0] * y).sum()
    gram = centred.T @ (weight[:, None] * centred) + ridge * np.eye(z.shape[1])
    return np.linalg.solve(gram, centred.T @ (weight * target))


@with_config
def lime(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Any,
    *,
    key: Key[Array, "..."],
    config: LimeConfig = LimeConfig(),
) -> Attribution:
    """Return local surrogate: ridge regression of the score on which superpixels are shown.

    Args:
      model: any callable pytree, images -> logits; with a score function of the user's,
        images -> whatever that reads.
      images: RGB in [0, 1].
      targets: class index per image; with a score function, arrays with a row per image.
      key: one key, or one key per image. With one key image i uses `fold_in(key, i)`: its
        samples do not depend on the images beside it.
      config: see `LimeConfig`; published settings in `LIME_PRESETS`.

    Returns:
      heatmap: each pixel has the positive part of its superpixel's coefficient, over the
      greatest; 0 everywhere if the scores differ by no more than rounding
      (`fgjax.core.floor`). maps: "signed", the coefficients as they are; "segments", the number of
      the superpixel. traces: "spread", one number per image, how far the scores lie apart as a
      share of the largest. An image for which the model returns NaN gets NaN maps ("segments"
      apart); its neighbours do not.

    Raises:
      ValueError: shapes that do not fit, a target outside the model's classes, images
        outside [0, 1], a key that is missing or of the old kind.

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> result = lime(model, images, target, key=jax.random.key(0), config=LimeConfig(samples=20))
      >>> result.heatmap.shape
      (1, 16, 16)
    """
    question = ask(model, images, targets, config.score)
    keys = image_keys(key, len(question.images))
    labels, infill = cut_up(
        question.images, keys, config.segments, config.compactness, config.infill
    )
    # Room for twice as many as wished for, so that one program serves images of any number.
    slots = jnp.arange(max(2 * config.segments, int(labels.max()) + 1))
    scores = perturbed_scores(
        question,
        hide,
        config.samples,
        own=(jnp.asarray(labels), infill, keys),
        shared=slots,
        chunk_size=config.chunk_size,
    )
    samples = jnp.arange(config.samples)
    found_maps = []
    for mine, answers, own in zip(keys, np.asarray(scores), labels, strict=True):
        shown = np.asarray(_draw_shown(mine, samples, slots))[:, : own.max() + 1]
        found = fit(shown, answers, kernel_width=config.kernel_width, ridge=config.ridge)
        found_maps.append(found[own].astype(np.float32))
    signed = jnp.asarray(np.stack(found_maps))
    return Attribution(
        heatmap=positive_part(signed, is_flat(scores)),
        maps={"signed": signed, "segments": jnp.asarray(labels, jnp.float32)},
        traces={"spread": spread_of(scores)},
    )


LIME = Method(
    lime,
    LimeConfig,
    passes=lambda config, *_: Passes(config.samples, 0),
    presets=LIME_PRESETS,
    order=70,
)
