"""FIDO: the smallest region that suffices, and the smallest that destroys.

Two masks are optimised per image. SSR keeps the evidence: replacing everything else
leaves the class standing (Eq. 2). SDR destroys it: replacing this region alone makes
the class fall (Eq. 3). What both call important is the joint mask (Eq. 9).

Throughout, θ = σ(ϑ) is the probability that a pixel is *replaced by the infill*, so
importance is 1 - θ for SSR and θ for SDR.

References:
  Korsch et al., Simplified Concrete Dropout, 2023.
  Chang et al., Explaining Image Classifiers by Counterfactual Generation, 2018.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.common.infill import make_infill
from fgjax.attribution.common.inputs import check_inputs, class_targets, for_gradients
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.fido.config import FIDO_PRESETS, FidoConfig, fido_preset
from fgjax.attribution.fido.images_per_step import choose_images, choose_masks
from fgjax.attribution.fido.loop import Task, optimise
from fgjax.attribution.fido.step import (
    TRACES,
    FidoState,
    fido_start,
    fido_step,
    importance,
    sharpened,
    upsample,
)
from fgjax.attribution.registry import Method, Passes
from fgjax.core.functional import partition
from fgjax.core.keys import image_keys

__all__ = [
    "FIDO_PRESETS", "TRACES", "FidoConfig", "FidoState", "fido", "fido_preset", "fido_start",
    "fido_step",
]  # fmt: skip


@partial(jax.jit, static_argnames=("height", "width"))
def _maps(logits, broken, height, width):
    kept = upsample(importance(logits), height, width)
    kept = jnp.where(broken[:, None, None, None], jnp.nan, kept)
    ssr, sdr = kept[:, 0], kept[:, 1]
    return {"ssr": ssr, "sdr": sdr, "joint": jnp.sqrt(ssr * sdr)}  # Eq. 9


@with_config
def fido(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."],
    config: FidoConfig = FidoConfig(),
) -> Attribution:
    """Fill-in of the dropout: optimised masks of what the decision needs (Eqs. 1-4, 9).

    Args:
      model: any callable pytree, images -> logits.
      images: RGB in [0, 1].
      targets: class index per image.
      key: one key, or one key per image. With one key image i uses `fold_in(key, i)`:
        its masks depend on its key alone, not on the images beside it.
      config: see `FidoConfig`; published settings in `FIDO_PRESETS`.

    Returns:
      heatmap: the joint mask √(ssr·sdr). maps: "ssr" (what is kept) and "sdr" (what is
      destroyed), all in [0, 1]. traces: the names in `TRACES`, each `n steps`; with
      `config.stop` an image that stopped early repeats its last step, and "running" is 1
      while it was optimised, else 0. An image for which the model returns NaN gets NaN maps;
      its neighbours do not.

    Raises:
      ValueError: shapes that do not fit, a target outside the model's classes, images
        outside [0, 1], or a key of the old kind.

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> config = FidoConfig(steps=2, batch_size=2)
      >>> result = fido(model, images, target, key=jax.random.key(0), config=config)
      >>> result.heatmap.shape, sorted(result.maps)
      ((1, 16, 16), ['sdr', 'ssr'])
    """
    images = jnp.asarray(images, jnp.float32)
    targets = class_targets(targets)
    arrays, static = partition(for_gradients(model))
    check_inputs(arrays, static, images, targets)
    keys = image_keys(key, len(images))
    infill = make_infill(config.infill, images, keys, blur_sigma=config.blur_sigma)
    slots = config.images_per_step or choose_images(arrays, static, images, config)
    masks = config.masks_per_pass or choose_masks(arrays, static, images, config, slots)
    config = replace(config, masks_per_pass=masks)
    task = Task(arrays, static, images, infill, targets, keys)
    logits, trace, taken = optimise(task, config, slots)
    # A NaN need not reach the logits: where the model's NaN is a constant, no gradient carries it.
    logits = sharpened(logits, jnp.asarray(taken - 1), config)
    maps = _maps(logits, jnp.isnan(trace).any((1, 2)), *images.shape[1:3])
    traces = {name: trace[:, :, i] for i, name in enumerate(TRACES)}
    if config.stop is not None:
        traces["running"] = jnp.asarray(np.arange(config.steps) < taken[:, None], jnp.float32)
    return Attribution(heatmap=maps.pop("joint"), maps=maps, traces=traces)


def _passes(config: FidoConfig, height: int, width: int, channels: int) -> Passes:
    # Margins are counted from the scores of the image as it is and of its infill.
    margin = config.kept_margin is not None or config.deleted_margin is not None
    return Passes(2 * int(margin), config.steps * 2 * config.batch_size)


FIDO = Method(
    fido,
    FidoConfig,
    passes=_passes,
    presets=FIDO_PRESETS,
    needs=("descent",),
    order=10,
    variants=lambda maps: {name: maps[name] for name in ("ssr", "sdr")},
)
