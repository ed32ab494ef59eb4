"""Extremal perturbations: of all smooth regions of an area, the one that keeps the class best.

Reference:
  Fong, Patrick, Vedaldi, Understanding Deep Networks via Extremal Perturbations and Smooth Masks,
  ICCV 2019.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.common.inputs import for_gradients
from fgjax.attribution.common.perturbation import (
    Score,
    ask,
    check_at_least_one,
    check_choice,
    check_score,
    score_perturbed,
    spread_of,
)
from fgjax.attribution.common.presets import preset
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.streaming import choose_chunk, chunks
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes
from fgjax.core.filters import REFERENCE_SIDE, gaussian_blur
from fgjax.core.floor import FLOOR, is_flat
from fgjax.core.functional import Static
from fgjax.core.option import option
from fgjax.devices.jit import program

Variant = Literal["preserve", "delete"]
COLDNESS = 20.0
"""T of the smooth maximum: at infinity it is the maximum."""
MOMENTUM = 0.9


@dataclass(frozen=True)
class ExtremalPerturbationConfig:
    """Settings of extremal perturbations. Lengths are those of a 224 px image, and scale with
    it."""

    areas: tuple[float, ...] = option(
        (0.05, 0.1, 0.2),
        "shares of the image, a mask each; the heat map is their mean, so that the smallest region "
        "is the hottest.",
    )
    steps: int = option(200, "of gradient descent with momentum, for each area; at least 2.")
    learning_rate: float = option(0.04, "of the masks' cells, which lie in [0, 1].")
    regulariser: float = option(300.0, "λ, the weight of the area at the start.")
    growth: float = option(1.014, "λ is multiplied by it every step.")
    cell: int = option(7, "side of a mask's cell, in pixels.")
    smooth: float = option(21.0, "σ: how far a cell's value reaches; outlines are as smooth.")
    levels: int = option(8, "of the blur between the image and its most blurred copy.")
    blur_sigma: float = option(20.0, "σ of the most blurred copy, what is left where a mask is 0.")
    variant: Variant = option(
        "preserve",
        'what a mask is for: "preserve", the class is kept by it alone, or "delete", the class is '
        "lost without it.",
    )
    flip: bool = option(True, "whether every second step sees the image mirrored.")
    final_blur: float = option(
        0.0, "σ of a blur of the heat map, as a share of the image's shorter side."
    )
    score: Score = option(
        "logit",
        '"logit" of the class, another of `CLASS_SCORES`, or a differentiable function '
        "`(outputs, targets) -> n`.",
    )
    chunk_size: int | None = option(
        None,
        "masked images per compiled step; None: by the memory there is. No fewer than areas.",
        free=True,
    )

    def __post_init__(self):
        check_at_least_one(self, "cell", "chunk_size")
        for name in ("learning_rate", "regulariser", "growth", "smooth", "blur_sigma"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0")
        if self.steps < 2:
            raise ValueError(f"steps={self.steps}: at least 2, the first sees the whole image")
        if not self.areas or not all(0 < area < 1 for area in self.areas):
            raise ValueError(f"areas={self.areas}: shares of the image, each between 0 and 1")
        if len(set(self.areas)) < len(self.areas):
            raise ValueError(f"areas={self.areas}: each once")
        if self.levels < 2:
            raise ValueError(f"levels={self.levels}: at least 2, the image and its blurred copy")
        if not self.final_blur >= 0:
            raise ValueError(f"final_blur={self.final_blur}: must not be negative")
        check_choice(self, "variant", get_args(Variant))
        check_score(self.score)


EXTREMAL_PERTURBATION_PRESETS: dict[str, dict[str, Any]] = {
    # The released `extremal_perturbation`. The default takes a quarter of its steps, each four
    # times as long.
    "fong-2019": dict(areas=(0.1,), steps=800, learning_rate=0.01, growth=1.0035),
    # Its benchmark of pointing: four areas, blurred.
    "fong-2019-pointing": dict(
        areas=(0.025, 0.05, 0.1, 0.2), steps=800, learning_rate=0.01, growth=1.0035, final_blur=0.09
    ),
}
"""Published settings by name; `extremal_perturbation_preset` makes a config of one."""


def extremal_perturbation_preset(name: str, **changes: Any) -> ExtremalPerturbationConfig:
    """Return the settings published under `name` (`EXTREMAL_PERTURBATION_PRESETS`), with
    `changes` on top.

    Raises:
      ValueError: no such preset, or no such setting.
    """
    return preset(ExtremalPerturbationConfig, EXTREMAL_PERTURBATION_PRESETS, name, changes)


class Grid(NamedTuple):
    """Cells of `side` pixels, of which so many cover the image; each reaches `radius` cells
    further."""

    side: int
    down: int
    across: int
    radius: int
    sigma: float


def grid_of(height: int, width: int, cell: int, smooth: float) -> Grid:
    """Return the cells of an image of that size, for lengths of a 224 px image."""
    scale = min(height, width) / REFERENCE_SIDE
    side, sigma = max(1, round(cell * scale)), smooth * scale
    radius = 1 + math.ceil(sigma / side)
    return Grid(side, math.ceil(height / side), math.ceil(width / side), radius, sigma)


def smooth_kernel(grid: Grid) -> Float[np.ndarray, "k side side"]:
    """Return k(‖u − u_i‖ / σ) of the cells i around each pixel u of a cell.

      k(z) = exp(−2 max(0, z − ½)²): a flat top, then a Gaussian's slope

    The same for every cell; the neighbours go row by row.
    """
    pixel = np.arange(grid.side) + 0.5
    offsets = np.arange(-grid.radius, grid.radius + 1)
    away = pixel[None] - (offsets[:, None] * grid.side + grid.side / 2)  # (neighbour, pixel)
    distance = np.hypot(away[:, None, :, None], away[None, :, None, :]) / grid.sigma
    kernel = np.exp(-2 * np.maximum(distance - 0.5, 0) ** 2)
    return kernel.reshape(-1, grid.side, grid.side).astype(np.float32)


def smooth_maximum(cells: Float[Array, "*m down across"], grid: Grid) -> Float[Array, "*m h w"]:
    """Return smooth masks of cells by the paper's smooth max-convolution (§3.2):

      m(u) = smax_i k(‖u − u_i‖ / σ) m̄_i,   smax_i v_i = Σ v_i e^(Tv_i) / Σ e^(Tv_i)

    over the cells i near u; there are none beyond the image. The mask has a margin of `radius`
    cells, at least σ, on every side: as far as a cell at the border reaches out of the image.
    """
    r, kernel = grid.radius, smooth_kernel(grid)
    kernel = kernel.reshape(len(kernel), *(1 for _ in cells.shape), grid.side, grid.side)
    down, across = grid.down + 2 * r, grid.across + 2 * r
    lead = [(0, 0)] * (cells.ndim - 2)
    padded = jnp.pad(cells, [*lead, (2 * r, 2 * r), (2 * r, 2 * r)])
    top = bottom = jnp.zeros((*cells.shape[:-2], down, across, grid.side, grid.side), cells.dtype)
    for place, weights in enumerate(kernel):
        y, x = divmod(place, 2 * r + 1)
        value = padded[..., y : y + down, x : x + across, None, None] * weights
        power = jnp.exp(COLDNESS * value)  # T v is at most T: no exponential overflows
        top, bottom = top + value * power, bottom + power
    mask = jnp.swapaxes(top / bottom, -3, -2)  # cells and pixels of a row side by side
    return mask.reshape(*cells.shape[:-2], down * grid.side, across * grid.side)


def smooth_mask(cells: Float[Array, "*m down across"], grid: Grid) -> Float[Array, "*m h w"]:
    """Return `smooth_maximum` in units of that of cells that are 1 everywhere.

    That has a ripple, .987 to .995 at σ = 3 cells, whose crest is along the border: all else being
    equal, the area's ranking would leave the region there. In these units it is 1 on the whole
    image; beyond it the unit is that of the nearest pixel of the image.
    """
    full = smooth_maximum(jnp.ones((grid.down, grid.across), cells.dtype), grid)
    margin = grid.radius * grid.side
    rows, columns = (np.clip(np.arange(size), margin, size - margin - 1) for size in full.shape)
    unit = full[rows][:, columns]
    return smooth_maximum(cells, grid) / unit.reshape(*(1 for _ in cells.shape[:-2]), *unit.shape)


def without_margin(
    masks: Float[Array, "*m tall wide"], grid: Grid, height: int, width: int
) -> Float[Array, "*m h w"]:
    """Return masks without their margin: what lies on the image."""
    margin = grid.radius * grid.side
    return masks[..., margin : margin + height, margin : margin + width]


def blur_pyramid(
    images: Float[Array, "n h w c"], levels: int, sigma: float
) -> Float[Array, "levels n h w c"]:
    """Return the images, the most blurred first, the image itself last; σ falls evenly to 0."""
    spread = np.linspace(1, 0, levels)[:-1] * sigma
    return jnp.stack([*(gaussian_blur(images, float(s)) for s in spread), images])


def perturb(
    pyramid: Float[Array, "levels n h w c"], masks: Float[Array, "n areas h w"]
) -> Float[Array, "n areas h w c"]:
    """Return images that are as sharp at each pixel as the mask says: between two levels of the
    pyramid, by linear interpolation."""
    at = masks * (len(pyramid) - 1)
    shown = jnp.zeros((*masks.shape, pyramid.shape[-1]), pyramid.dtype)
    for level, images in enumerate(pyramid):
        share = jnp.maximum(0, 1 - jnp.abs(at - level))
        shown = shown + share[..., None] * images[:, None]
    return shown


def area_loss(
    masks: Float[Array, "n areas tall wide"], pixels: tuple[int, ...]
) -> Float[Array, "n areas"]:
    """Return mean (vecsort(m) − r_a)² (Eq. 4): r_a is zeros, then as many ones as `pixels` says.

    0 only for a mask that is 0 or 1 everywhere, and 1 on just so many pixels. Ties, those but for
    rounding, go in a random order: at the start all pixels of the image tie.
    """
    every = masks.shape[2] * masks.shape[3]
    shuffled = np.random.default_rng(0).permutation(every)
    values = masks.reshape(*masks.shape[:2], every)[:, :, shuffled]
    _, ordered = jax.lax.sort((jnp.round(values / FLOOR), values), dimension=2, num_keys=1)
    wanted = np.arange(every) >= every - np.array(pixels)[:, None]
    return jnp.mean((ordered - wanted[None].astype(np.float32)) ** 2, axis=2)


class ExtremalState(NamedTuple):
    """What one step hands to the next."""

    step: Int[Array, ""]
    cells: Float[Array, "n areas down across"]
    velocity: Float[Array, "n areas down across"]


def _energy(cells, arrays, static, pyramid, targets, step, config, grid):
    """Compute −(Φ(m ⊗ x) − λ_t R_a(m)) summed over images and areas, which never mix."""
    height, width = pyramid.shape[2:4]
    whole = smooth_mask(cells, grid)
    masks = without_margin(whole, grid, height, width)
    shown = perturb(pyramid, masks if config.variant == "preserve" else 1 - masks)
    if config.flip:
        shown = jnp.where(step % 2 == 0, shown[:, :, :, ::-1], shown)
    scores = score_perturbed(arrays, static, shown, targets, config.score)
    loss = area_loss(whole, tuple(round(area * height * width) for area in config.areas))
    weight = config.regulariser * config.growth ** step.astype(jnp.float32)
    sign = 1 if config.variant == "preserve" else -1
    areas = whole.sum((2, 3)) / (height * width)
    return jnp.sum(weight * loss - sign * scores), jnp.stack([scores, areas], axis=1)


@program("explain", static_argnames=("static", "config", "grid"), donate_argnames="state")
def extremal_perturbation_step(
    state: ExtremalState,
    arrays: tuple,
    static: Static,
    pyramid: Float[Array, "levels n h w c"],
    targets: Any,
    config: ExtremalPerturbationConfig,
    grid: Grid,
) -> tuple[ExtremalState, Float[Array, "n 2 areas"]]:
    """Return one step of descent with momentum 0.9 for all masks; cells are clipped to [0, 1].

    Returns:
      The next state (the given one is donated); score and area of each mask before the step.
    """
    gradient, trace = jax.grad(_energy, has_aux=True)(
        state.cells, arrays, static, pyramid, targets, state.step, config, grid
    )
    # The first step is the gradient itself, later ones a running mean of it.
    mixed = MOMENTUM * state.velocity + (1 - MOMENTUM) * gradient
    velocity = jnp.where(state.step == 0, gradient, mixed)
    cells = jnp.clip(state.cells - config.learning_rate * velocity, 0, 1)
    return ExtremalState(state.step + 1, cells, velocity), trace


@partial(jax.jit, static_argnames=("height", "width", "grid"))
def _masks(cells, trace, height, width, grid):
    """Return the masks; zero where the scores say nothing, NaN where one of them is."""
    scores = trace[:, :, 0].reshape(len(trace), -1)
    masks = jnp.clip(without_margin(smooth_mask(cells, grid), grid, height, width), 0, 1)
    broken = ~jnp.isfinite(trace).all((1, 2, 3))
    masks = jnp.where(is_flat(scores)[:, None, None, None], 0, masks)
    return jnp.where(broken[:, None, None, None], jnp.nan, masks)


@with_config
def extremal_perturbation(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Any,
    *,
    key: Key[Array, "..."] | None = None,
    config: ExtremalPerturbationConfig = ExtremalPerturbationConfig(),
) -> Attribution:
    """Return the smooth masks of fixed areas that keep the class best.

      m_a = argmax_m Φ(m ⊗ x) − λ ‖vecsort(m) − r_a‖²   (Fong et al. 2019, Eq. 4)

    over masks m that are smooth maxima of a coarse grid of cells (§3.2); m ⊗ x blurs the image the
    more, the lower the mask. What a mask covers beyond the image's border counts, too: a region
    costs the same wherever it lies, and none is cheaper for being cut off.

    Args:
      model: any callable pytree, images -> logits, differentiable; with a score function of
        the user's, images -> whatever that reads.
      images: RGB in [0, 1].
      targets: class index per image; with a score function, arrays with a row per image.
      key: not used.
      config: see `ExtremalPerturbationConfig`; published settings in
        `EXTREMAL_PERTURBATION_PRESETS`.

    Returns:
      heatmap: the mean of the masks, in [0, 1] as it is. maps: "area_0.05" …, the mask of each
      area. traces: "score_0.05", "area_0.05" (with the margin, as a share of the image), …, each
      `n steps`, and "spread" of the scores. An image for which they differ by no more than
      rounding gets zero maps; one for which the model returns NaN, NaN maps; its neighbours do
      not.

    Raises:
      ValueError: shapes that do not fit, a target outside the model's classes, images
        outside [0, 1].

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> config = ExtremalPerturbationConfig(steps=2, areas=(0.1,))
      >>> extremal_perturbation(model, images, target, config=config).heatmap.shape
      (1, 16, 16)
    """
    question = ask(for_gradients(model), images, targets, config.score)
    most = config.chunk_size or choose_chunk(
        question.arrays, question.static, question.images, backward=True
    )
    count, height, width = question.images.shape[:3]
    size = min(count, max(1, most // len(config.areas)))
    grid = grid_of(height, width, config.cell, config.smooth)
    # Another number of steps is no other program.
    steps, config = config.steps, replace(config, steps=2, chunk_size=None)
    masks, traces = [], []
    for group in chunks(count, size):
        part = question.at(group.index)
        pyramid = blur_pyramid(part.images, config.levels, config.blur_sigma)
        cells = jnp.ones((size, len(config.areas), grid.down, grid.across), jnp.float32)
        state = ExtremalState(jnp.int32(0), cells, jnp.zeros_like(cells))
        rows = []
        # Steps are driven from Python: XLA's CPU backend is slow on convolutions in a scan.
        for _ in range(steps):
            state, values = extremal_perturbation_step(
                state, part.arrays, part.static, pyramid, part.targets, config, grid
            )
            rows.append(values)
        trace = jnp.stack(rows, axis=1)
        masks.append(_masks(state.cells, trace, height, width, grid)[: group.keep.sum()])
        traces.append(trace[: group.keep.sum()])
    every, trace = jnp.concatenate(masks), jnp.concatenate(traces)
    heat = every.mean(1)
    if config.final_blur:
        sigma = config.final_blur * REFERENCE_SIDE  # of a 224 px image
        heat = gaussian_blur(heat[..., None], sigma)[..., 0]
    names = [f"{area:g}" for area in config.areas]
    of_areas = {
        f"{what}_{name}": trace[:, :, at, i]
        for i, name in enumerate(names)
        for at, what in enumerate(("score", "area"))
    }
    return Attribution(
        heatmap=heat,
        maps={f"area_{name}": every[:, i] for i, name in enumerate(names)},
        traces={**of_areas, "spread": spread_of(trace[:, :, 0].reshape(count, -1))},
    )


EXTREMAL_PERTURBATION = Method(
    extremal_perturbation,
    ExtremalPerturbationConfig,
    passes=lambda config, *_: Passes(0, config.steps * len(config.areas)),
    presets=EXTREMAL_PERTURBATION_PRESETS,
    needs=("descent",),
    order=65,
)
