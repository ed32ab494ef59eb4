"""Recursive GLAS: one clue after the other (§3, Algorithm 1).

GLAS shows the most telling clue. Here what it found is dimmed and the search begins again, so
that further clues, and further objects of the class, come to light.

Reference:
  Salient Explanation for Fine-grained Classification, 2020.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from fgjax.attribution.common.perturbation import (
    Question,
    ask,
    check_at_least_one,
    perturbed_scores,
    scale_to_unit,
)
from fgjax.attribution.common.presets import preset
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.glas import (
    GLAS_PRESETS,
    GlasConfig,
    glas_scores,
    glas_spread,
    mixture,
    search_points,
    sigmas_in_pixels,
    silent,
)
from fgjax.attribution.registry import Maps, Method, Passes
from fgjax.core.floor import FLOOR
from fgjax.core.option import option


@dataclass(frozen=True)
class RecursiveGlasConfig(GlasConfig):
    """Settings of recursive GLAS: those of `GlasConfig`, and"""

    rounds: int = option(4, "at most so many; the stop condition may end it before.")
    threshold: float = option(
        0.8,
        "t1: search points where the scaled map exceeds it are not visited again.",
    )
    stop: float = option(5.0, "t2: the search ends when mean(S) / P(y|I) reaches it.")

    def __post_init__(self):
        super().__post_init__()
        check_at_least_one(self, "rounds")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold}: must lie in (0, 1], as the map does")
        if not self.stop > 0:
            raise ValueError(f"stop={self.stop}: must be above 0")


RECURSIVE_GLAS_PRESETS = GLAS_PRESETS
"""Published settings by name; t1 = 0.8 and t2 = 5 are those of the paper in all of them."""


def recursive_glas_preset(name: str, **changes: Any) -> RecursiveGlasConfig:
    """Return the settings published under `name`, with `changes` on top.

    Raises:
      ValueError: no such preset, or no such setting.
    """
    return preset(RecursiveGlasConfig, RECURSIVE_GLAS_PRESETS, name, changes)


@with_config
def recursive_glas(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Any,
    *,
    key: Key[Array, "..."] | None = None,
    config: RecursiveGlasConfig = RecursiveGlasConfig(),
) -> Attribution:
    """GLAS again and again, on what is left (Algorithm 1).

    Every round, for each image: S = GLAS(I) on the points left (Eq. 3), scaled to [0, 1];
    points where S > t1 leave Ω; I ← I (1 - S); O ← O + S. It ends when mean(S) / P(y|I) ≥ t2
    for the dimmed I, when no search point is left, or after `rounds`.

    Args:
      model, images, targets: as for `glas`.
      key: not used, there is nothing random.
      config: see `RecursiveGlasConfig`.

    Returns:
      heatmap: O, scaled to [0, 1] per image. maps: "round_1" … "round_<rounds>", each scaled
      to [0, 1]; zero everywhere for a round that an image did not need. traces:
      "probability", the score P(y|I) of the image as each round found it, and "stop",
      mean(S) / P(y|I) after it, NaN for rounds that were not needed; "spread", one number per
      image, how far the first round's scores lie apart (see `glas`). An image for which the
      model returns NaN gets NaN maps; its neighbours do not.

    Raises:
      ValueError: as for `glas`.

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> result = recursive_glas(model, images, target, config=RecursiveGlasConfig(grid=3))
      >>> result.heatmap.shape
      (1, 16, 16)
    """
    question = ask(model, images, targets, config.score)
    found = [_one_image(question.at(np.array([i])), config) for i in range(len(question.images))]
    rounds, traces, spread = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
    return Attribution(
        heatmap=scale_to_unit(rounds.sum(1)),
        maps={f"round_{i + 1}": rounds[:, i] for i in range(config.rounds)},
        traces={"probability": traces[:, :, 0], "stop": traces[:, :, 1], "spread": spread},
    )


def _one_image(
    question: Question, config: RecursiveGlasConfig
) -> tuple[Float[Array, "1 rounds h w"], Float[Array, "1 rounds 2"], Float[Array, "1 1"]]:
    """Return images need different numbers of rounds, so each goes its own way."""
    sizes = question.images.shape[1:-1]
    points, sigmas = search_points(sizes, config.grid), sigmas_in_pixels(config, sizes)
    pixel = np.minimum(points.astype(int), np.asarray(sizes) - 1)  # that the point lies in
    alive = np.ones((1, len(points)), bool)
    maps = np.zeros((1, config.rounds, *sizes), np.float32)
    trace = np.full((1, config.rounds, 2), np.nan, np.float32)
    spread: Any = None  # of the first round
    for i in range(config.rounds):
        scores = glas_scores(question, points, sigmas, chunk_size=config.chunk_size)
        spread = glas_spread(scores) if i == 0 else spread
        fusion = scores.light * scores.shadow
        raw = mixture(
            fusion, points, sigmas.spatial, sizes, jnp.asarray(alive), normalise=config.normalise
        )
        found = scale_to_unit(raw, silent(scores).fusion)
        question = Question(
            question.arrays,
            question.static,
            question.images * (1 - found[..., None]),
            question.targets,
            question.score,
        )
        left = perturbed_scores(question, _as_it_is, 1, chunk_size=config.chunk_size)
        maps[:, i] = found
        seen = np.asarray(found)[0][tuple(pixel.T)]
        alive &= ~(seen > config.threshold)[None]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.mean(maps[:, i]) / np.asarray(left)[0, 0]
        trace[:, i] = float(scores.whole[0]), ratio
        # A NaN ratio ends it, too, and answers that say nothing: nothing can follow from them.
        if not ratio < config.stop or not alive.any() or silent(scores).fusion[0]:
            break
    return jnp.asarray(maps), jnp.asarray(trace), spread


def _as_it_is(images, own, shared, index):
    return jnp.broadcast_to(images[:, None], (len(images), len(index), *images.shape[1:]))


def after_rounds(maps: Maps) -> dict[str, Any]:
    """Return O as it stood after each round but the last, scaled: the iterations of Table 3."""
    count = sum(name.startswith("round_") for name in maps)
    found: dict[str, Any] = {}
    total: Any = 0.0
    for i in range(1, count):
        total = total + np.asarray(maps[f"round_{i}"], np.float32)
        axes = tuple(range(total.ndim - 2, total.ndim))
        high = total.max(axes, keepdims=True)
        low = total.min(axes, keepdims=True)
        says = high - low > FLOOR * np.maximum(abs(high), abs(low))
        found[f"round_{i}"] = np.where(says, (total - low) / np.where(says, high - low, 1), 0)
    return found


RECURSIVE_GLAS = Method(
    recursive_glas,
    RecursiveGlasConfig,
    passes=lambda config, *_: Passes(config.rounds * (2 + 2 * config.grid**2), 0),
    presets=RECURSIVE_GLAS_PRESETS,
    order=30,
    variants=after_rounds,
)
