"""Prompt-CAM: where a class's prompt looks, head by head.

Reference: Chowdhury et al., Prompt-CAM: Making Vision Transformers Interpretable for Fine-Grained
  Analysis, CVPR 2025, section 2.3.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.cam import enlarge
from fgjax.attribution.common.perturbation import (
    check_at_least_one,
    check_choice,
    positive_part,
)
from fgjax.attribution.common.score_gradient import chunk_for, prepare
from fgjax.attribution.common.streaming import chunks
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes
from fgjax.core.features import grid_of
from fgjax.core.functional import combine
from fgjax.core.option import option
from fgjax.devices.jit import program

Heads = Literal["all", "needed"]


@dataclass(frozen=True)
class PromptCamConfig:
    """Settings of Prompt-CAM."""

    heads: Heads = option(
        "all",
        "whose mean the map is: all, or those needed: heads are blurred one by one, the least "
        "important first, for as long as the target stays what is predicted.",
    )
    chunk_size: int | None = option(
        None, "images per model call; None: as memory allows.", free=True
    )

    def __post_init__(self):
        check_choice(self, "heads", get_args(Heads))
        check_at_least_one(self, "chunk_size")


def _blur(weights, targets, blurred, cells):
    """Return what turns the attention of blurred heads to the cells, of the target's prompt, into
    the same for every cell."""
    own = jax.nn.one_hot(targets, weights.shape[2])[:, None, :, None] * blurred[:, :, None, None]
    grid = weights[..., -cells:]
    alike = own * (grid.mean(-1, keepdims=True) - grid)
    return jnp.concatenate([jnp.zeros_like(weights[..., :-cells]), alike], axis=-1)


def _needed(model, features, weights, targets, cells):
    """Return which heads are left: those without which the target would not be predicted."""
    n, heads = weights.shape[:2]
    rows = jnp.arange(n)

    def margin(blurred):
        logits = model.ask(features, _blur(weights, targets, blurred, cells)).logits
        own = logits[rows, targets]
        return own - logits.at[rows, targets].set(-jnp.inf).max(1)

    def step(_, blurred):
        tried = lambda head: margin(blurred.at[:, head].set(1.0))
        margins = jax.lax.map(tried, jnp.arange(heads))  # g n
        margins = jnp.where(blurred.T > 0, -jnp.inf, margins)
        least = margins.argmax(0)
        still = (margins[least, rows] > 0) & (blurred.sum(1) < heads - 1)
        # Where the image is not the target's as it is, no head is taken away.
        still = still & (margin(blurred) > 0)
        return blurred.at[rows, least].max(still.astype(blurred.dtype))

    return 1 - jax.lax.fori_loop(0, heads - 1, step, jnp.zeros((n, heads)))


@program("explain", static_argnames=("static", "heads"))
def _looks(arrays, static, images, targets, heads):
    """Return the attention of the target's prompt to the cells, and which heads count."""
    model = combine(arrays, static)
    features = model.features(images)
    n, height, width = grid_of(features).shape[:3]
    weights = model.ask(features).weights.astype(jnp.float32)
    own = weights[jnp.arange(n), :, targets, -height * width :]
    counts = jnp.ones(weights.shape[:2])
    if heads == "needed":
        counts = _needed(model, features, weights, targets, height * width)
    return own.reshape(n, -1, height, width), counts


def prompt_cam(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: PromptCamConfig = PromptCamConfig(),
) -> Attribution:
    """Prompt-CAM: where the prompt of the target's class looks.

      α^{c,r} = softmax(K_rᵀ q^{c,r} / √d)      (Chowdhury et al. 2025, Eq. 5)
      map = mean over the heads r of α^{c,r}

    The network decides by these looks: it is no estimate of what it does but a piece of it. With
    heads="needed" the greedy search of section 2.3 leaves out heads whose attention may be spread
    evenly without another class being predicted. As the attention goes to tokens beside the grid,
    too, a blurred head spreads evenly what it gives the grid.

    Args:
      model: a classifier with prompts, `features(images)` and `ask(features, tap)`, such as
        `create_model("prompts", …)`.
      images: RGB in [0, 1].
      targets: class index per image.
      key: not used.
      config: see `PromptCamConfig`.

    Returns:
      heatmap: the map, enlarged bilinearly and divided by the image's maximum. maps: "attention",
      the same undivided, and "head_1" … of every head, divided by its own maximum, zero where one
      is left out.

    Raises:
      ValueError: a model without prompts; shapes that do not fit, a target outside the model's
        classes, or images outside [0, 1].
    """
    if not callable(getattr(model, "ask", None)):
        raise ValueError(
            "prompt_cam needs a model that has a prompt for each class, with ask(features); "
            f"{getattr(model, 'name', '') or type(model).__name__} has none. config=prompts_folder "
            "makes one on a frozen ViT; grad_cam explains networks without prompts"
        )
    arrays, static, images, targets = prepared = prepare(model, images, targets)
    size = chunk_for(prepared, config.chunk_size, len(images), backward=False)
    looks: list[Array] = []
    counts: list[Array] = []
    for index, keep in chunks(len(images), size):
        found = _looks(arrays, static, images[index], jnp.asarray(targets[index]), config.heads)
        for part, into in zip(found, (looks, counts), strict=True):
            into.append(part[: keep.sum()])
    counted = jnp.concatenate(counts)
    each = jnp.concatenate(looks) * counted[:, :, None, None]
    wide = lambda maps: enlarge(maps, *images.shape[1:3])
    attention = wide(each.sum(1) / counted.sum(1)[:, None, None])
    heads = {f"head_{r + 1}": positive_part(wide(each[:, r])) for r in range(each.shape[1])}
    return Attribution(positive_part(attention), {"attention": attention, **heads})


PROMPT_CAM = Method(
    prompt_cam,
    PromptCamConfig,
    passes=lambda *_: Passes(1, 0),
    needs=("prompts",),
    order=172,
)
