"""GLAS: Gaussian light and shadow.

The image is lit at one search point after the other and is dark elsewhere: where the class is
still seen, the light fell on its evidence (Eq. 1). Then a shadow falls on one point of the lit
image: where the class is lost, the shadow covered its evidence (Eq. 2). The map is the mixture
of Gaussians around the search points, weighted with both answers (Eq. 3).

Everything is separable over the axes of the image, so one core serves images and volumes, and
a mask costs little beside the forward pass that it is made for.

Reference:
  Salient Explanation for Fine-grained Classification, 2020.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from fgjax.attribution.common.perturbation import (
    Question,
    Score,
    ask,
    check_at_least_one,
    check_choice,
    check_score,
    perturbed_scores,
    scale_to_unit,
    spread_of,
)
from fgjax.attribution.common.presets import preset
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes
from fgjax.core.filters import REFERENCE_SIDE
from fgjax.core.floor import FLOOR, is_flat
from fgjax.core.floor import sizes as largest
from fgjax.core.option import option

LAMBDA = 1e-5
"""λ of Eq. 2, which keeps a shadow without effect from erasing the light's answer."""


@dataclass(frozen=True)
class GlasConfig:
    """Settings of GLAS. The defaults are measured (benchmarks/glas_sigma.py), see `sigma_unit`."""

    grid: int = option(11, "k; search points are the centres of k x k equal cells.")
    sigma_light: float = option(45.0, "σ_l, the standard deviation of the light.")
    sigma_shadow: float = option(20.0, "σ_s, that of the shadow.")
    sigma_spatial: float = option(
        60.0,
        "σ_spatial of the mixture: exp(-D / σ²), D the squared distance.",
    )
    sigma_unit: Literal["pixel", "cell"] = option(
        "pixel",
        'what the three are counted in: a "pixel" of a 224 px image (scaled with the shorter '
        'side), or a "cell" of the grid. On butterflies the best widths are the same number '
        "of pixels on a grid of 7 and of 11, and not the same number of cells: a light must "
        "show as much as the network needs to see, however many lights there are. A smaller "
        "σ_spatial shows finer clues, at the price of IoU with the whole object.",
    )
    normalise: Literal["points", "weights"] = option(
        "points",
        'what the mixture is divided by: "points" their number, as Eq. 3 has it: such a map falls '
        'off at the border, whatever the network says; "weights" the sum of the Gaussians at each '
        "pixel: a weighted mean of the answers. Measured (benchmarks/glas_normalise.py): by points "
        "it predicts better what the network needs where objects lie in the middle, by weights it "
        "has less in common with the map of a constant model.",
    )
    score: Score = option(
        "probability",
        '"probability" of the class as in the paper, another of `CLASS_SCORES`, or a function '
        "`(outputs, targets) -> n` for a model that returns something else.",
    )
    chunk_size: int | None = option(
        None,
        "perturbed images per model call; None: by the memory there is.",
        free=True,
    )

    def __post_init__(self):
        check_at_least_one(self, "grid", "chunk_size")
        check_sigmas(self)
        check_choice(self, "sigma_unit", ("pixel", "cell"))
        check_choice(self, "normalise", ("points", "weights"))
        check_score(self.score)


def check_sigmas(config: Any) -> None:
    """Raise ValueError where a width of light, shadow or mixture is not above 0."""
    for name in ("sigma_light", "sigma_shadow", "sigma_spatial"):
        value = getattr(config, name)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value}: must be above 0")


GLAS_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # "σ_l = 5 and σ_s = 3 with σ_spatial = 6" for ILSVRC, 15 x 15 points; no unit is given.
    "glas-2020-pixel": dict(
        grid=15, sigma_light=5.0, sigma_shadow=3.0, sigma_spatial=6.0, sigma_unit="pixel"
    ),
    "glas-2020-cell": dict(
        grid=15, sigma_light=5.0, sigma_shadow=3.0, sigma_spatial=6.0, sigma_unit="cell"
    ),
    # "an equal sigma value of 3.0" for the salient explanation of birds, cars and aircraft.
    "glas-2020-salient-cell": dict(
        grid=15, sigma_light=3.0, sigma_shadow=3.0, sigma_spatial=3.0, sigma_unit="cell"
    ),
}
"""Published settings by name; `glas_preset` makes a config of one."""


def glas_preset(name: str, **changes: Any) -> GlasConfig:
    """Return the settings published under `name` (see `GLAS_PRESETS`), with `changes` on top.

    Raises:
      ValueError: no such preset, or no such setting.
    """
    return preset(GlasConfig, GLAS_PRESETS, name, changes)


class Sigmas(NamedTuple):
    """Standard deviations per axis, in pixels (voxels) of that axis."""

    light: Float[np.ndarray, "axes"]
    shadow: Float[np.ndarray, "axes"]
    spatial: Float[np.ndarray, "axes"]


def search_points(sizes: tuple[int, ...], grid: int) -> Float[np.ndarray, "points axes"]:
    """Return the centres of `grid` equal cells along every axis, row by row, in pixels.

    Pixel centres lie at +0.5, so the one cell of grid 1 has its centre at size / 2.
    """
    axes = [(np.arange(grid) + 0.5) * size / grid for size in sizes]
    places = np.meshgrid(*axes, indexing="ij")
    return np.stack([place.ravel() for place in places], axis=1).astype(np.float32)


def sigmas_in_pixels(config: Any, sizes: tuple[int, ...]) -> Sigmas:
    """Return the widths of a config for an image of these sizes."""
    if config.sigma_unit == "cell":
        unit = np.asarray(sizes, np.float32) / config.grid
    else:
        unit = np.full(len(sizes), min(sizes) / REFERENCE_SIDE, np.float32)
    widths = (config.sigma_light, config.sigma_shadow, config.sigma_spatial)
    return Sigmas(*(np.asarray(width * unit, np.float32) for width in widths))


def bells(
    sizes: tuple[int, ...], points: Float[Array, "m axes"], sigma: Float[Array, "m axes"]
) -> list[Float[Array, "m size"]]:
    """Return exp(-½ ((x - μ) / σ)²) along each axis.

    Their product over the axes is G(μ, σ), which is 1 at its centre (unnormalised).
    """
    places = [jnp.arange(size, dtype=jnp.float32) + 0.5 for size in sizes]
    return [
        jnp.exp(-0.5 * ((place[None] - points[:, axis, None]) / sigma[:, axis, None]) ** 2)
        for axis, place in enumerate(places)
    ]


def light_and_shadow(images: Array, own: Any, shared: Any, index: Array) -> Array:
    """Return perturbations of images or volumes.

    0 is the image itself; 1 … K are the lights (Eq. 1), K + 1 … 2K the shadows (Eq. 2) on the K
    points.
    """
    points, light, shadow = shared
    count, sizes = len(points), images.shape[1:-1]
    is_shadow = index > count
    at = points[jnp.where(is_shadow, index - count - 1, jnp.maximum(index - 1, 0))]
    sigma = jnp.where(is_shadow[:, None], shadow[None], light[None])
    mask: Any = 1.0
    for axis, line in enumerate(bells(sizes, at, sigma)):
        mask = mask * line.reshape(
            len(line), *(size if a == axis else 1 for a, size in enumerate(sizes))
        )
    wide = (-1,) + (1,) * len(sizes)
    mask = jnp.where(is_shadow.reshape(wide), 1 - mask, mask)
    mask = jnp.where((index == 0).reshape(wide), 1.0, mask)
    return images[:, None] * mask[None, ..., None]


class GlasScores(NamedTuple):
    """The model's answers: P(y|I), and f_l and f_s of every search point."""

    whole: Float[Array, "n"]
    light: Float[Array, "n points"]
    shadow: Float[Array, "n points"]


def glas_scores(
    question: Question,
    points: Float[Array | np.ndarray, "points axes"],
    sigmas: Sigmas,
    *,
    chunk_size: int | None = None,
) -> GlasScores:
    """Return the scores of Eqs. 1 and 2 for images or volumes: 1 + 2 · points forward passes each.

      f_l(μ) = P(y | I ⊙ G(μ, σ_l))
      f_s(μ) = |P(y | I) - P(y | I ⊙ (1 - G(μ, σ_s)))| + λ

    λ = 1e-5. The paper writes σ_l in Eq. 2, and gives σ_s of its own (Fig. 2, §4).
    """
    shared = (jnp.asarray(points), jnp.asarray(sigmas.light), jnp.asarray(sigmas.shadow))
    count = len(points)
    scores = perturbed_scores(
        question, light_and_shadow, 1 + 2 * count, shared=shared, chunk_size=chunk_size
    )
    whole, light, dark = scores[:, 0], scores[:, 1 : count + 1], scores[:, count + 1 :]
    return GlasScores(whole, light, jnp.abs(whole[:, None] - dark) + LAMBDA)


def mixture(
    values: Float[Array, "n points"],
    points: Float[Array | np.ndarray, "points axes"],
    sigma: Float[np.ndarray, "axes"],
    sizes: tuple[int, ...],
    alive: Bool[Array, "n points"] | None = None,
    *,
    normalise: Literal["points", "weights"] = "points",
) -> Float[Array, "n ..."]:
    """Compute Eq. 3: the Gaussians around the search points, weighted with `values`.

      S(x) = 1/|Ω| Σ_{μ ∈ Ω} exp(-D(x, μ) / σ²) values(μ),   D the squared distance

    At the border there are fewer points around than in the middle, so this falls off there, also
    where all values are equal. With "weights" it does not:

      S(x) = Σ_{μ ∈ Ω} exp(-D(x, μ) / σ²) values(μ) / Σ_{μ ∈ Ω} exp(-D(x, μ) / σ²)

    Args:
      alive: which points belong to Ω (all, if left out); none left gives NaN.
      normalise: the first form or the second, which is 0 where no Gaussian reaches.
    """
    alive = jnp.ones(values.shape, bool) if alive is None else alive
    maps = [
        _mixture(values[i], jnp.asarray(points), jnp.asarray(sigma), alive[i], sizes, normalise)
        for i in range(len(values))
    ]
    return jnp.stack(maps)


@partial(jax.jit, static_argnames=("sizes", "normalise"))
def _mixture(values, points, sigma, alive, sizes, normalise):
    # exp(-d² / σ²) is a bell of width σ / √2.
    width = jnp.broadcast_to(sigma[None] / math.sqrt(2), points.shape)
    lines = bells(sizes, points, width)

    def together(values):
        *outer, last = lines
        weighted = jnp.where(alive, values, 0)[:, None]
        for line in outer:
            weighted = (weighted[:, :, None] * line[:, None, :]).reshape(len(line), -1)
        return jnp.einsum("ps,pw->sw", weighted, last, precision="highest").reshape(sizes)

    if normalise == "points":
        return together(values) / alive.sum().astype(jnp.float32)
    weights = together(jnp.ones_like(values))
    # Where no Gaussian reaches, the sum is no normal number.
    reached = weights > jnp.finfo(jnp.float32).tiny / FLOOR
    mean = jnp.where(reached, together(values) / jnp.where(reached, weights, 1), 0)
    return jnp.where(alive.any(), mean, jnp.nan)


@with_config
def glas(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Any,
    *,
    key: Key[Array, "..."] | None = None,
    config: GlasConfig = GlasConfig(),
) -> Attribution:
    """Gaussian light and shadow (Eqs. 1-3): 1 + 2 k² forward passes an image.

    Args:
      model: any callable pytree, images -> logits; with a score function of the user's,
        images -> whatever that reads.
      images: RGB in [0, 1].
      targets: class index per image; with a score function, arrays with a row per image.
      key: not used, there is nothing random.
      config: see `GlasConfig`; published settings in `GLAS_PRESETS`.

    Returns:
      heatmap: the fusion S of Eq. 3. maps: "light" and "shadow", the same mixture of f_l
      alone and f_s alone. Each map is scaled to [0, 1] by its own minimum and maximum; it is 0
      everywhere if the scores it is made of differ by no more than rounding
      (`fgjax.core.floor`), the fusion if both do. traces: "spread", one number per image, how far
      the scores lie apart as a share of the largest. An image for which the model returns NaN gets
      NaN maps; its neighbours do not.

    Raises:
      ValueError: shapes that do not fit, a target outside the model's classes, images
        outside [0, 1], a score function that does not give one number per image.

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> result = glas(model, images, target, config=GlasConfig(grid=3))
      >>> result.heatmap.shape, sorted(result.maps)
      ((1, 16, 16), ['light', 'shadow'])
    """
    question = ask(model, images, targets, config.score)
    sizes = question.images.shape[1:-1]
    points, sigmas = search_points(sizes, config.grid), sigmas_in_pixels(config, sizes)
    scores = glas_scores(question, points, sigmas, chunk_size=config.chunk_size)
    maps = glas_maps(scores, points, sigmas, sizes, config.normalise)
    return Attribution(
        heatmap=maps.pop("fusion"), maps=maps, traces={"spread": glas_spread(scores)}
    )


class Silent(NamedTuple):
    """Whether an image's lights say nothing, its shadows, and both."""

    light: Bool[Array, "n"]
    shadow: Bool[Array, "n"]
    fusion: Bool[Array, "n"]


def silent(scores: GlasScores) -> Silent:
    """Return which answers differ by no more than rounding. Shadows are differences from P(y|I),
    and round as that does."""
    light, shadow = is_flat(scores.light), is_flat(scores.shadow, jnp.abs(scores.whole))
    return Silent(light, shadow, light & shadow)


def glas_spread(scores: GlasScores) -> Float[Array, "n 1"]:
    """Return how far the lights' scores lie apart as a share of the largest, or the shadows' where
    that is more: the trace "spread"."""
    with_whole = jnp.concatenate([scores.shadow, jnp.abs(scores.whole)[:, None]], axis=1)
    apart = (scores.shadow.max(1) - scores.shadow.min(1))[:, None]
    size = largest(with_whole)[:, None]
    share = jnp.where(size == 0, 0, apart / jnp.where(size == 0, 1, size))
    return jnp.maximum(spread_of(scores.light), share)


def glas_maps(
    scores: GlasScores,
    points: Float[np.ndarray, "points axes"],
    sigmas: Sigmas,
    sizes: tuple[int, ...],
    normalise: Literal["points", "weights"] = "points",
) -> dict[str, Array]:
    """Return the maps of Eq. 3, in [0, 1]: "fusion", "light" and "shadow"."""
    parts = {
        "fusion": scores.light * scores.shadow,
        "light": scores.light,
        "shadow": scores.shadow,
    }
    nothing = silent(scores)._asdict()
    return {
        name: scale_to_unit(
            mixture(values, points, sigmas.spatial, sizes, normalise=normalise), nothing[name]
        )
        for name, values in parts.items()
    }


GLAS = Method(
    glas,
    GlasConfig,
    passes=lambda config, *_: Passes(1 + 2 * config.grid**2, 0),
    presets=GLAS_PRESETS,
    order=20,
    variants=lambda maps: {name: maps[name] for name in ("light", "shadow")},
)
