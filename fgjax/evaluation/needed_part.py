"""Does the model need the part that tells the class? Only then must a true map show it.

The annotated cue is the part by which classes differ, for those who made the data. A model that has
learnt something else as well is right without it: the overlap of its maps with the cue then says
what the model looks at, not how good a method is.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fgjax.evaluation.faithfulness import target_probability
from fgjax.evaluation.hard_masks import SURE

NEEDED = 0.5
"""A part is needed where its replacement leaves at most this share of p(full)."""


def without_part(
    model: Callable[[Float[Array, "n h w c"]], Float[Array, "n k"]],
    images: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    parts: Any,
    infill: Float[Array, "n h w c"],
) -> Float[Array, "n"]:
    """Return p of each image with its part replaced; NaN where no part is known.

    Args:
      model: images -> logits; it is asked once, and not at all where no part is known.
      images: RGB in [0, 1].
      targets: class index per image.
      parts: n h w, True on the part; all False, or None for all: unknown.
      infill: what a pixel is replaced by.
    """
    if parts is None or not jnp.any(parts):
        return jnp.full(len(images), jnp.nan)
    parts = jnp.asarray(parts, bool)
    p = target_probability(model(jnp.where(parts[..., None], infill, images)), targets)
    return jnp.where(parts.any((1, 2)), p, jnp.nan)


def where_needed(
    values: Float[Array, "n"], p_full: Float[Array, "n"], p_without: Float[Array, "n"]
) -> Float[Array, "n"]:
    """Return the values of images whose part the model needs (`NEEDED`), NaN for the others.

    Of an image with p(full) below `SURE` a share of it says nothing: NaN, too.

    Example:
      >>> where_needed(jnp.array([0.3, 0.2]), jnp.array([0.8, 0.8]), jnp.array([0.1, 0.7]))
      Array([0.3, nan], dtype=float32)
    """
    needed = (p_full >= SURE) & (p_without <= NEEDED * p_full)
    return jnp.where(needed, values, jnp.nan)


def protocols(threshold: float) -> dict[str, str]:
    """Return how each number was measured."""
    return {
        "p_without_cue": "class probability with the annotated cue replaced, whatever the map says",
        "iou_cue_needed": f"IoU of mask and cue; mask: map > {threshold:g}; of the images where "
        f"the cue's replacement leaves at most {NEEDED:g} of p_full, which is at least {SURE:g}",
    }


BETTER: dict[str, bool | None] = {"p_without_cue": None, "iou_cue_needed": True}
"""Whether higher is better; None: neither is, by itself."""
