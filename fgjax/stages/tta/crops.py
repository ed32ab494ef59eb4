"""Where the crops of test-time augmentation lie."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.fido.method import FidoConfig, fido, fido_preset
from fgjax.attribution.glas import GlasConfig, glas
from fgjax.attribution.gradients import GradientConfig, gradient
from fgjax.evaluation.crops import (
    SPECK,
    center_boxes,
    gradient_boxes,
    map_boxes,
    random_boxes,
    square_boxes,
)
from fgjax.options.schema import Config

DETAIL = 2
"""Crops are cut from images with so many times the pixels along each side."""
MAPS = ("gradient", "fido_original", "fido_simplified", "glas")
"""The crops that come from a map."""
MISSING = {"box": "no annotated box in what the model sees",
           "detector": "no detected box in what the model sees"}  # fmt: skip


def heat_map(
    method: str,
    config: Config,
    model: Any,
    images: Float[Array, "n h w 3"],
    predicted: Int[np.ndarray, "n"],
    keys: Key[Array, "n"],
) -> Float[Array, "n h w"]:
    """Return the map of one of `MAPS`, explaining the output with the highest logit of each
    image."""
    if method == "gradient":
        return gradient(model, images, predicted, config=GradientConfig()).heatmap
    if method == "glas":
        return glas(model, images, predicted, config=GlasConfig()).heatmap
    settings = replace(fido_settings(config, method), images_per_step=len(images))
    return fido(model, images, predicted, key=keys, config=settings).heatmap


def crop_boxes(
    crop: str,
    config: Config,
    shape: tuple[int, ...],
    *,
    keys: Key[Array, "n"],
    heat: Float[Array, "n h w"] | None = None,
    given: Float[np.ndarray, "n 4"] | None = None,
) -> Float[Array, "n 4"]:
    """Return where the crop of this name lies in each image: x0, y0, x1, y1 in its pixels.

    Args:
      crop: a name of `CROPS`.
      config: the run's, for its tta.*.
      shape: of the images, n h w c.
      keys: each image's own.
      heat: the map, for a crop that comes from one.
      given: the boxes, for `box` and `detector`; one with a NaN in it: the whole image.
    """
    tta, (n, height, width) = config.tta, shape[:3]
    if given is not None:
        return square_boxes(jnp.asarray(given), height, width)
    if crop == "random":
        return random_boxes(keys, height, width, share=tta.share)
    if crop == "center":
        return center_boxes(n, height, width, share=tta.share)
    if crop == "gradient":
        return gradient_boxes(heat, padding=tta.padding)
    speck = SPECK if crop.endswith("_cleaned") else 0
    return map_boxes(heat, threshold=tta.threshold, padding=tta.padding, speck=speck)


def fido_settings(config: Config, crop: str) -> FidoConfig:
    """Return FIDO as Chang et al. have it, in whole, or ours: explain.* where its method is fido,
    else FIDO's defaults. (The two samplers alone are the same function of the same noise.)"""
    if crop.startswith("fido_original"):
        steps = config.tta.original_steps
        return fido_preset("chang-2019", **({} if steps is None else {"steps": steps}))
    return config.explain.settings if config.explain.method == "fido" else FidoConfig()
