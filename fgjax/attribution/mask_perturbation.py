"""Mask perturbation: the smallest smooth region whose deletion makes the class fall.

Reference:
  Fong & Vedaldi, Interpretable Explanations of Black Boxes by Meaningful Perturbation, 2017.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.common.infill import Infill, check_infill, make_infill
from fgjax.attribution.common.inputs import for_gradients
from fgjax.attribution.common.perturbation import (
    Score,
    ask,
    check_at_least_one,
    check_score,
    score_perturbed,
)
from fgjax.attribution.common.presets import preset
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.streaming import choose_chunk, chunks, plan
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes
from fgjax.core.filters import REFERENCE_SIDE, gaussian_matrix
from fgjax.core.functional import Static
from fgjax.core.keys import image_keys
from fgjax.core.option import option
from fgjax.devices.jit import program

REFERENCE_MASK = 28
"""L1 and TV are counted on a mask of this side, whatever side is set."""

TRACES = ("score", "l1", "tv")
"""What is recorded per step: the score of the perturbed image, and the unweighted terms."""


@dataclass(frozen=True)
class MaskPerturbationConfig:
    """Settings of mask perturbation. Lengths are those of a 224 px image, and scale with it."""

    steps: int = option(300, "of Adam.")
    learning_rate: float = option(0.1, "of the mask's values, which lie in [0, 1].")
    l1: float = option(1e-4, "λ1: the price of deleting one cell of a 28 x 28 mask.")
    tv: float = option(1e-2, "λ2, the weight of Σ |∇m|^β, counted on 28 x 28 cells.")
    tv_beta: float = option(3.0, "β.")
    mask_size: int = option(28, "side of the coarse mask, which is enlarged linearly.")
    mask_blur: float = option(5.0, "σ_m, of the blur of the enlarged mask; 0: none.")
    jitter: int = option(
        4,
        "image and infill are shifted by a random 0 … jitter - 1 pixels every step, so that "
        "the mask cannot rely on a few pixels; 0: never.",
    )
    infill: Infill = option(
        "blur",
        "what a deleted pixel becomes: a name of `INFILLS`; in Python also an array or a "
        "function `(images, key) -> images`.",
    )
    blur_sigma: float = option(10.0, "σ of the blur infill.")
    initial: float = option(
        0.5,
        "1 - m everywhere at the start. (The released code begins with a disc, the smallest "
        "one in the middle whose deletion suffices.)",
    )
    score: Score = option(
        "probability",
        '"probability" of the class, another of `CLASS_SCORES`, or a differentiable function '
        "`(outputs, targets) -> n`.",
    )
    chunk_size: int | None = option(
        None,
        "images optimised together in one compiled step; None: by the memory there is.",
        free=True,
    )

    def __post_init__(self):
        check_at_least_one(self, "steps", "mask_size", "chunk_size")
        for name in ("learning_rate", "blur_sigma"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0")
        for name in ("l1", "tv", "mask_blur", "jitter"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")
        if not self.tv_beta >= 1:
            raise ValueError(f"tv_beta={self.tv_beta}: must be at least 1")
        if not 0 <= self.initial <= 1:
            raise ValueError(f"initial={self.initial}: must lie in [0, 1]")
        check_infill(self.infill)
        check_score(self.score)


MASK_PERTURBATION_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The paper, §4.3: λ1 = 1e-4, λ2 = 1e-2, β = 3, Adam at 0.1 for 300 steps, 28 x 28, σ_m = 5.
    "fong-2017": dict(
        steps=300, learning_rate=0.1, l1=1e-4, tv=1e-2, tv_beta=3.0, mask_size=28, mask_blur=5.0
    ),
}
"""Published settings by name; `mask_perturbation_preset` makes a config of one."""


def mask_perturbation_preset(name: str, **changes: Any) -> MaskPerturbationConfig:
    """Return the settings published under `name` (`MASK_PERTURBATION_PRESETS`), with `changes` on
    top.

    Raises:
      ValueError: no such preset, or no such setting.
    """
    return preset(MaskPerturbationConfig, MASK_PERTURBATION_PRESETS, name, changes)


class MaskState(NamedTuple):
    """What one step hands to the next. mask: 1 = kept, 0 = deleted."""

    step: Int[Array, ""]
    mask: Float[Array, "n s s"]
    optimizer: Any


def smooth_enlarging(size: int, cells: int, sigma: float) -> Float[np.ndarray, "size cells"]:
    """Return the matrix that enlarges a line of cells linearly to `size` pixels and blurs it.

    Linear between the cells' centres, constant beyond the last; `sigma` in pixels, 0: no blur.
    """
    place = (np.arange(size) + 0.5) * cells / size - 0.5
    place = np.clip(place, 0, cells - 1)
    matrix = np.maximum(1 - np.abs(place[:, None] - np.arange(cells)), 0).astype(np.float32)
    return gaussian_matrix(size, sigma) @ matrix if sigma else matrix


def _enlarge(mask: Float[Array, "n s s"], height: int, width: int, config: Any):
    sigma = config.mask_blur * min(height, width) / REFERENCE_SIDE
    down = jnp.asarray(smooth_enlarging(height, mask.shape[1], sigma))
    across = jnp.asarray(smooth_enlarging(width, mask.shape[2], sigma))
    return jnp.einsum("yi,nij,xj->nyx", down, mask, across, precision="highest")


def _shift(images: Float[Array, "n h w c"], offset: Int[Array, "n 2"], room: int):
    """Return each image moved by its own offset; what comes in repeats the border."""
    before = room // 2
    padding = ((0, 0), (before, room - before), (before, room - before), (0, 0))
    padded = jnp.pad(images, padding, mode="edge")
    cut = lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), images.shape[1:])
    return jax.vmap(cut)(padded, offset)


def _loss(mask, arrays, static, images, infill, targets, keys, step, config):
    """Compute Eq. 4 summed over the images, which never mix; and the terms `n 3` of `TRACES`.

    E[f(Φ(x0(· - τ), m))] + λ1 Σ (1 - m) + λ2 Σ |∇m|^β,   Φ = m x + (1 - m) x̂
    """
    height, width = images.shape[1:3]
    kept = _enlarge(mask, height, width, config)[..., None]
    jitter = round(config.jitter * min(height, width) / REFERENCE_SIDE)
    if jitter > 1:
        draw = lambda key: jax.random.randint(jax.random.fold_in(key, step), (2,), 0, jitter)
        offset = jax.vmap(draw)(keys)
        images, infill = (_shift(x, offset, jitter - 1) for x in (images, infill))
    perturbed = kept * images + (1 - kept) * infill
    scores = score_perturbed(arrays, static, perturbed[:, None], targets, config.score)[:, 0]
    # Counted on a mask of 28 x 28: areas grow with the side squared; a gradient falls with the
    # side, so Σ |∇m|^β grows as side^(2 - β).
    scale = REFERENCE_MASK / config.mask_size
    l1 = (1 - mask).sum((1, 2)) * scale**2
    # |0|^β has no gradient for β = 1 and a NaN second one else; both are 0 here.
    power = lambda x: jnp.where(x == 0, 0, jnp.abs(jnp.where(x == 0, 1, x)) ** config.tv_beta)
    tv = sum(power(jnp.diff(mask, axis=axis)).sum((1, 2)) for axis in (1, 2))
    tv = tv * scale ** (2 - config.tv_beta)
    total = scores + config.l1 * l1 + config.tv * tv
    return total.sum(), jnp.stack([scores, l1, tv], axis=1)


@program("explain", static_argnames=("static", "config"), donate_argnames="state")
def mask_perturbation_step(
    state: MaskState,
    arrays: tuple,
    static: Static,
    images: Float[Array, "n h w c"],
    infill: Float[Array, "n h w c"],
    targets: Any,
    keys: Key[Array, "n"],
    config: MaskPerturbationConfig,
) -> tuple[MaskState, Float[Array, "n 3"]]:
    """Return one step of Adam for all images; the mask is clipped to [0, 1].

    Returns:
      The next state (the given one is donated), and the columns named in `TRACES`.
    """
    gradient = jax.grad(_loss, has_aux=True)
    grad, trace = gradient(
        state.mask, arrays, static, images, infill, targets, keys, state.step, config
    )
    # Adam's bias correction mixes a float with an integer count; nothing else here may.
    with jax.numpy_dtype_promotion("standard"):
        updates, optimizer = optax.adam(config.learning_rate).update(grad, state.optimizer)
    mask = jnp.clip(state.mask + updates, 0, 1)
    return MaskState(state.step + 1, mask, optimizer), trace


@partial(jax.jit, static_argnames=("height", "width", "config"))
def _heatmap(mask, broken, height, width, config):
    deleted = jnp.clip(1 - _enlarge(mask, height, width, config), 0, 1)
    return jnp.where(broken[:, None, None], jnp.nan, deleted)


@with_config
def mask_perturbation(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Any,
    *,
    key: Key[Array, "..."],
    config: MaskPerturbationConfig = MaskPerturbationConfig(),
) -> Attribution:
    """Return the deletion game with an optimised mask (Eq. 4).

    Args:
      model: any callable pytree, images -> logits, differentiable; with a score function of
        the user's, images -> whatever that reads.
      images: RGB in [0, 1].
      targets: class index per image; with a score function, arrays with a row per image.
      key: of the jitter and of random infills; one key, or one per image. With one key image
        i uses `fold_in(key, i)`: its mask does not depend on the images beside it.
      config: see `MaskPerturbationConfig`.

    Returns:
      heatmap: 1 - m, enlarged: how far each pixel is deleted, in [0, 1] as it is, unscaled.
      traces: the names in `TRACES`, each `n steps`. An image for which the model returns NaN
      gets a NaN map; its neighbours do not.

    Raises:
      ValueError: shapes that do not fit, a target outside the model's classes, images
        outside [0, 1], a key that is missing or of the old kind.

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> config = MaskPerturbationConfig(steps=2)
      >>> result = mask_perturbation(model, images, target, key=jax.random.key(0), config=config)
      >>> result.heatmap.shape
      (1, 16, 16)
    """
    question = ask(for_gradients(model), images, targets, config.score)
    keys = image_keys(key, len(question.images))
    infill = make_infill(config.infill, question.images, keys, blur_sigma=config.blur_sigma)
    most = config.chunk_size or choose_chunk(
        question.arrays, question.static, question.images, backward=True
    )
    size = plan(len(question.images), 1, most).images
    # The infill is made: what is left of the config must be hashable for jit, and another
    # number of steps is no other program.
    steps, config = config.steps, replace(config, infill="blur", steps=1, chunk_size=None)
    height, width = question.images.shape[1:3]
    maps, traces = [], []
    for group in chunks(len(question.images), size):
        part = question.at(group.index)
        shape = (size, config.mask_size, config.mask_size)
        mask = jnp.full(shape, 1 - config.initial, jnp.float32)
        state = MaskState(jnp.int32(0), mask, optax.adam(config.learning_rate).init(mask))
        rows = []
        # Steps are driven from Python: XLA's CPU backend is slow on convolutions in a scan.
        for _ in range(steps):
            state, values = mask_perturbation_step(
                state,
                part.arrays,
                part.static,
                part.images,
                infill[group.index],
                part.targets,
                keys[group.index],
                config,
            )
            rows.append(values)
        trace = jnp.stack(rows, axis=1)
        # A NaN need not reach the mask: clipping and a constant NaN have no gradient.
        broken = ~jnp.isfinite(trace).all((1, 2))
        maps.append(_heatmap(state.mask, broken, height, width, config)[: group.keep.sum()])
        traces.append(trace[: group.keep.sum()])
    trace = jnp.concatenate(traces)
    return Attribution(
        heatmap=jnp.concatenate(maps),
        traces={name: trace[:, :, i] for i, name in enumerate(TRACES)},
    )


MASK_PERTURBATION = Method(
    mask_perturbation,
    MaskPerturbationConfig,
    passes=lambda config, *_: Passes(0, config.steps),
    presets=MASK_PERTURBATION_PRESETS,
    needs=("descent",),
    order=60,
)
