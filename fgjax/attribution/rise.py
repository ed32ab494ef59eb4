"""RISE: the mean of random masks, weighted with the score that each leaves.

Reference:
  Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, 2018.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.common.infill import Infill, check_infill, make_infill
from fgjax.attribution.common.perturbation import (
    Question,
    Score,
    ask,
    check_at_least_one,
    check_choice,
    check_score,
    scale_to_unit,
    score_perturbed,
    spread_of,
)
from fgjax.attribution.common.presets import preset
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.streaming import chunks, plan
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes
from fgjax.core.floor import is_flat
from fgjax.core.keys import image_keys
from fgjax.core.option import option
from fgjax.devices.jit import program


@dataclass(frozen=True)
class RiseConfig:
    """Settings of RISE."""

    masks: int = option(4000, "N, random masks an image is seen through.")
    cells: int = option(7, "s, side of the small binary masks before they are enlarged.")
    keep: float = option(0.5, "p, the probability that a cell of a mask lets the image through.")
    normalise: Literal["keep", "masks", "none"] = option(
        "keep",
        'what the raw map is divided by: "keep" p, as Eq. 6 has it; "masks" the mean of the '
        'masks drawn at each pixel, whose expectation p is; "none" nothing. The first and the '
        "last have the same heat map.",
    )
    tolerance: float = option(
        0.0,
        "stop early when the heat map is this near its limit: the expected mean absolute "
        "error of the scaled map, found from what leaving out a block of `check_every` masks "
        "changes (`jackknife_error`). 0: never.",
    )
    check_every: int = option(500, "masks between two checks; only with a tolerance.")
    score: Score = option(
        "probability",
        '"probability" of the class, another of `CLASS_SCORES`, or a function `(outputs, '
        "targets) -> n` for a model that returns something else.",
    )
    infill: Infill = option(
        "zeros",
        'what is seen where a mask is shut. "zeros" is the paper\'s product I ⊙ M, with black '
        "in place of what is hidden; released code masks *normalised* images, where 0 is the "
        'data set\'s mean colour, for which "mean" is nearest.',
    )
    chunk_size: int | None = option(
        None,
        "perturbed images per model call; None: by the memory there is.",
        free=True,
    )

    def __post_init__(self):
        check_at_least_one(self, "masks", "cells", "check_every", "chunk_size")
        if not 0 < self.keep < 1:
            raise ValueError(f"keep={self.keep}: a probability strictly between 0 and 1")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance={self.tolerance}: must not be negative")
        check_choice(self, "normalise", ("keep", "masks", "none"))
        check_score(self.score)
        check_infill(self.infill)


RISE_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The paper's settings for ResNet-50; 4000 masks for VGG16.
    "petsiuk-2018": dict(masks=8000, cells=7, keep=0.5, normalise="keep"),
    # The authors' released code (github.com/eclique/RISE): fewer, finer, darker masks.
    "rise-eclique": dict(masks=6000, cells=8, keep=0.1, normalise="keep"),
    # TorchRay's benchmark: the sigmoid of the logit for a score, no division.
    "rise-torchray": dict(masks=8000, cells=7, keep=0.5, normalise="none", score="sigmoid"),
}
"""Published settings by name; `rise_preset` makes a config of one. Both programs mask the
normalised image; see `RiseConfig.infill`."""


def rise_preset(name: str, **changes: Any) -> RiseConfig:
    """Return the settings published under `name` (see `RISE_PRESETS`), with `changes` on top.

    Raises:
      ValueError: no such preset, or no such setting.
    """
    return preset(RiseConfig, RISE_PRESETS, name, changes)


def enlarging(size: int, cells: int) -> Float[np.ndarray, "room cells"]:
    """Return the matrix that enlarges a line of `cells` cells linearly to (cells + 1) · ⌈size /
    cells⌉ pixels: one cell more than the image needs, for the random shift. Beyond the outermost
    centres the line is mirrored there."""
    room = (cells + 1) * math.ceil(size / cells)
    place = (np.arange(room) + 0.5) * cells / room - 0.5
    last = cells - 1
    # Half a cell beyond the ends at most: mirrored once at the centres of the end cells.
    place = np.where(place < 0, -place, np.where(place > last, 2 * last - place, place))
    place = np.clip(place, 0, last)
    return np.maximum(1 - np.abs(place[:, None] - np.arange(cells)), 0).astype(np.float32)


def rise_masks(
    key: Key[Array, ""],
    index: Int[Array | np.ndarray, "m"],
    height: int,
    width: int,
    *,
    cells: int = 7,
    keep: float | Float[Array, ""] = 0.5,
) -> Float[Array, "m h w"]:
    """Return the masks with these indices (§3.2), each a function of the key and its index alone.

    `cells` x `cells` values, each 1 with probability `keep`, enlarged linearly to one cell
    more than the image and cut to it at a random shift within a cell.
    """
    rows, columns = jnp.asarray(enlarging(height, cells)), jnp.asarray(enlarging(width, cells))
    steps = [math.ceil(size / cells) for size in (height, width)]

    def draw(index):
        for_cells, for_y, for_x = jax.random.split(jax.random.fold_in(key, index), 3)
        grid = jax.random.bernoulli(for_cells, keep, (cells, cells)).astype(jnp.float32)
        y = jax.random.randint(for_y, (), 0, steps[0])
        x = jax.random.randint(for_x, (), 0, steps[1])
        down = jax.lax.dynamic_slice_in_dim(rows, y, height)
        across = jax.lax.dynamic_slice_in_dim(columns, x, width)
        return jnp.einsum("yi,ij,xj->yx", down, grid, across, precision="highest")

    return jax.vmap(draw)(jnp.asarray(index))


class Sums(NamedTuple):
    """What is kept of all masks so far: Σ score · mask for each image, Σ mask, and the lowest and
    the highest score of each image."""

    weighted: Float[Array, "g h w"]
    masks: Float[Array, "h w"]
    low: Float[Array, "g"]
    high: Float[Array, "g"]


@program("explain", static_argnames=("static", "score", "cells"), donate_argnames="sums")
def _step(sums, arrays, static, images, targets, infill, key, index, real, keep, score, cells):
    """Return one call: draws the masks, asks the model, and adds to the sums (donated)."""
    masks = rise_masks(key, index, *images.shape[1:3], cells=cells, keep=keep)
    open_ = masks[None, ..., None]
    perturbed = open_ * images[:, None] + (1 - open_) * infill[:, None]
    scores = score_perturbed(arrays, static, perturbed, targets, score)
    low, high = (jnp.where(real[None], scores, far) for far in (jnp.inf, -jnp.inf))
    scores = jnp.where(real[None], scores, 0)
    masks = jnp.where(real[:, None, None], masks, 0)
    weighted = jnp.einsum("gm,mhw->ghw", scores, masks, precision="highest")
    return join(sums, Sums(weighted, masks.sum(0), low.min(1), high.max(1)))


@jax.jit
def join(a: Sums, b: Sums) -> Sums:
    """Return the sums over the masks of both."""
    return Sums(
        a.weighted + b.weighted,
        a.masks + b.masks,
        jnp.minimum(a.low, b.low),
        jnp.maximum(a.high, b.high),
    )


@partial(jax.jit, static_argnames="normalise")
def _raw(sums, count, keep, normalise):
    """Compute Eq. 6: 1 / (p N) Σ score · mask."""
    if normalise == "masks":
        return sums.weighted / jnp.maximum(sums.masks, 1e-9)[None]
    return sums.weighted / (count * (keep if normalise == "keep" else 1.0))


@with_config
def rise(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Any,
    *,
    key: Key[Array, "..."],
    config: RiseConfig = RiseConfig(),
) -> Attribution:
    """Return randomised input sampling: S(x) = 1 / (p N) Σ_i f(I ⊙ M_i) M_i(x) (Eq. 6).

    Masks are drawn on the device, in every call its own; no mask outlives its call.

    Args:
      model: any callable pytree, images -> logits; with a score function of the user's,
        images -> whatever that reads.
      images: RGB in [0, 1].
      targets: class index per image; with a score function, arrays with a row per image.
      key: one key: all images are seen through the same masks. Or one key per image: each
        through its own. Either way an image's map does not depend on the images beside it.
      config: see `RiseConfig`; published settings in `RISE_PRESETS`.

    Returns:
      heatmap: S scaled to [0, 1] by its own minimum and maximum; 0 everywhere if S is constant,
      or if the scores under all masks differ by no more than rounding (`fgjax.core.floor`): S is
      then how often each pixel was shown. maps: "raw", S unscaled. traces: one number per image,
      "masks", how many were used, and "spread", how far the scores lie apart as a share of the
      largest. An image for which the model returns NaN gets NaN maps; its neighbours do not.

    Raises:
      ValueError: shapes that do not fit, a target outside the model's classes, images
        outside [0, 1], a key that is missing or of the old kind.

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> result = rise(model, images, target, key=jax.random.key(0), config=RiseConfig(masks=8))
      >>> result.heatmap.shape
      (1, 16, 16)
    """
    question = ask(model, images, targets, config.score)
    keys = image_keys(key, len(question.images))
    infill = make_infill(config.infill, question.images, keys)
    # Images stop early each for itself, and with masks of their own: then one at a time.
    together = len(question.images) if key.ndim == 0 and not config.tolerance else 1
    block = min(config.check_every, config.masks) if config.tolerance else config.masks
    shape = plan(together, block, question.chunk_size(config.chunk_size))
    found = []
    for group in chunks(len(question.images), shape.images):
        mine = key if key.ndim == 0 else keys[group.index[0]]
        part = question.at(group.index)
        raw, ends, used = _masked_means(part, infill[group.index], mine, config, block, shape)
        count = int(group.keep.sum())
        found.append((raw[:count], ends[:count], np.full((count, 1), used, np.float32)))
    raw, ends, counts = (jnp.concatenate(values) for values in zip(*found, strict=True))
    return Attribution(
        heatmap=scale_to_unit(raw, is_flat(ends)),
        maps={"raw": raw},
        traces={"masks": counts, "spread": spread_of(ends)},
    )


def _masked_means(
    part: Question, infill: Array, key: Array, config: RiseConfig, block: int, shape: Any
) -> tuple[Float[Array, "g h w"], Float[Array, "g 2"], int]:
    """Return the raw maps of a few images, their lowest and highest scores, and the number of
    masks."""
    g, height, width, _ = part.images.shape
    total = _no_sums(g, height, width)
    blocks, done = [], 0
    while done < config.masks:
        count = min(block, config.masks - done)
        sums = _no_sums(g, height, width)
        for chunk in chunks(count, shape.perturbations):
            sums = _step(
                sums,
                part.arrays,
                part.static,
                part.images,
                part.targets,
                infill,
                key,
                done + chunk.index,
                chunk.keep,
                config.keep,
                part.score,
                config.cells,
            )
        done += count
        total = join(total, sums)
        raw = _raw(total, float(done), config.keep, config.normalise)
        if config.tolerance:
            blocks.append(jax.tree.map(np.asarray, sums))
            if len(blocks) >= MIN_BLOCKS and jackknife_error(blocks, config) < config.tolerance:
                break
    return raw, jnp.stack([total.low, total.high], axis=1), done


def _no_sums(g: int, height: int, width: int) -> Sums:
    far = jnp.full((g,), jnp.inf)
    return Sums(jnp.zeros((g, height, width)), jnp.zeros((height, width)), far, -far)


MIN_BLOCKS = 4
"""Blocks of masks before the spread between them is believed."""


def jackknife_error(blocks: list[Sums], config: RiseConfig) -> float:
    """Return the expected mean absolute error of one image's scaled map, from its blocks of masks.

    With h_k the scaled map without block k of K, the squared standard error of the map is at
    each pixel (K - 1) / K Σ_k (h_k - mean h)², scaling included; a normal error of deviation
    σ has the mean size σ √(2/π). The blocks' sums lie in the host's memory.

    Reference:
      Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, §3.
    """
    weighted, masks = (np.stack([block[i] for block in blocks]) for i in range(2))
    without = (weighted.sum(0) - weighted)[:, 0]
    if config.normalise == "masks":
        without = without / np.maximum(masks.sum(0) - masks, 1e-9)
    scaled = np.asarray(scale_to_unit(jnp.asarray(without)))
    count = len(blocks)
    variance = (count - 1) / count * ((scaled - scaled.mean(0)) ** 2).sum(0)
    return float(np.sqrt(variance).mean() * math.sqrt(2 / math.pi))


RISE = Method(
    rise,
    RiseConfig,
    passes=lambda config, *_: Passes(config.masks, 0),
    presets=RISE_PRESETS,
    order=40,
)
