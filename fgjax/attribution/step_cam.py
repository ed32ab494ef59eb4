"""Grad-CAM at every time step of a recurrence: where each further look rests.

A model offers `looks_again`, `patch_boxes(images) -> n p 4`, `patch_features(images, boxes) ->
n p H W d` and `classify_patches(features) -> (n p k, n p t k)`; fgjax's two-stream classifiers
with LSTMs do. The features are computed once; only the recurrence and its classifier are
differentiated, once for every step.

References:
  Shroff, Search for Finer Attention Details for Fine-Grained Image Classification, 2020,
    chapter 5 and section 6.3 (Figs. 5.1, 5.2 and 6.2).
  Selvaraju et al., Grad-CAM, 2017, Eqs. 1 and 2.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.common.perturbation import positive_part
from fgjax.attribution.common.score_gradient import prepare
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes
from fgjax.core.functional import combine
from fgjax.devices.jit import program


@dataclass(frozen=True)
class StepCamConfig:
    """Settings of Grad-CAM at every step: there are none."""


def place_in_boxes(
    maps: Float[Array, "n p H W"], boxes: Float[Array, "n p 4"], height: int, width: int
) -> Float[Array, "n p height width"]:
    """Return each patch's map enlarged (bilinearly) to its box in the image; 0 outside of it."""
    rows, columns = maps.shape[2:]

    def place(cell, box):
        corner, far = box[:2][::-1], box[2:][::-1]
        scale = (far - corner) / jnp.asarray([rows, columns], jnp.float32)
        large = jax.image.scale_and_translate(
            cell, (height, width), (0, 1), scale, corner, "linear", antialias=False
        )
        y = (jnp.arange(height, dtype=jnp.float32) + 0.5)[:, None]
        x = (jnp.arange(width, dtype=jnp.float32) + 0.5)[None]
        covered = (y >= corner[0]) & (y < far[0]) & (x >= corner[1]) & (x < far[1])
        return jnp.where(covered, large, 0)

    return jax.vmap(jax.vmap(place))(maps, boxes)


def step_maps(
    model: Any, features: Float[Array, "n p H W d"], targets: Int[Array, "n"]
) -> tuple[Float[Array, "t n p H W"], Float[Array, "n p H W"]]:
    """Grad-CAM of the target's logit on every patch's map: of every step, and of the readout."""

    def scores(features):
        logits, steps = model.classify_patches(features)
        chosen = targets[:, None, None]
        at_readout = jnp.take_along_axis(logits, chosen, axis=2)[..., 0].sum()
        at_steps = jnp.take_along_axis(steps, chosen[..., None], axis=3)[..., 0].sum((0, 1))
        return jnp.concatenate([at_steps, at_readout[None]])

    # Patches never mix, so the gradient of the sum is each patch's own.
    total, back = jax.vjp(scores, features)
    (gradients,) = jax.vmap(back)(jnp.eye(len(total), dtype=total.dtype))
    weights = gradients.mean((3, 4))
    maps = jnp.maximum(jnp.einsum("nphwd,tnpd->tnphw", features, weights), 0)
    return maps[:-1], maps[-1]


@program("explain")
def _look(model, images, targets):
    boxes = model.patch_boxes(images)
    features = model.patch_features(images, boxes).astype(jnp.float32)
    steps, readout = step_maps(model, features, targets)
    size = images.shape[1:3]
    # Where patches overlap, the higher value counts.
    each = jax.lax.map(lambda maps: place_in_boxes(maps, boxes, *size).max(1), steps)
    whole = place_in_boxes(readout, boxes, *size).max(1)
    p = jax.nn.softmax(model.classify_patches(features)[1].mean(1))
    own = jnp.take_along_axis(p, targets[:, None, None], axis=2)[..., 0]
    right = (p.argmax(2) == targets[:, None]).astype(jnp.float32)
    return each, whole, own, right


@with_config
def step_cam(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: StepCamConfig = StepCamConfig(),
) -> Attribution:
    """Grad-CAM of the local stream at every time step, in the image's coordinates.

    The score of step t is the target's logit when the step's output alone is classified, and
    its map L_t = ReLU(Σ_k w_k A^k), w_k the mean gradient on a patch's feature map A. Every
    patch's map is laid into its box; where patches overlap the higher value counts; outside of
    them the map is 0.

    Args:
      model: a two-stream classifier with LSTMs (`create_model("two_stream", …)`), with boxes or
        without.
      images: RGB in [0, 1].
      targets: class index per image.
      key, config: not used.

    Returns:
      heatmap: the same of what the stream's readout makes of the steps (attention, or its other
      readouts). maps: "step_1" … "step_T". All divided by their own maximum, 0 where they are 0
      everywhere. traces: "p_step", the target's probability at each step by itself (the logits
      averaged over the patches), and "right_step", 1 where the target's is the highest.

    Raises:
      ValueError: a model without time steps; shapes that do not fit, a target outside the
        model's classes, or images outside [0, 1].
    """
    if not getattr(model, "looks_again", False):
        raise ValueError(
            "step_cam needs a model that looks at patches again and again: a two-stream "
            'classifier with LSTMs, create_model("two_stream", …, readout="attention"). '
            f"{type(model).__name__} has no time steps"
        )
    arrays, static, images, targets = prepare(model, images, targets)
    model = combine(arrays, static)
    each, whole, own, right = _look(model, images, jnp.asarray(targets))
    maps = {f"step_{t + 1}": positive_part(part) for t, part in enumerate(each)}
    return Attribution(positive_part(whole), maps, {"p_step": own, "right_step": right})


# The recurrence alone is differentiated; the patches of an image count with it.
STEP_CAM = Method(
    step_cam,
    StepCamConfig,
    passes=lambda *_: Passes(1, 0),
    needs=("steps",),
    order=180,
)
