"""Proxy attention: images that were misclassified are trained on with what misled dimmed.

At a proxy step the training images are classified as they are; of those that come out wrong,
some are replaced, for the epochs to come, by their proxies: the image with the pixels that
the classifier looked at weighed down. An image or its proxy is in the set, never both; a
proxy is always made of the image itself; every few steps all proxies are taken back.

Reference: Mukherjee, Proxy Attention: Comparing and Combining Augmentation with Attention,
  2023 (a draft). Its Algorithm 1 is `proxy_images`; Algorithm 2 and the schedule, which it
  leaves open, are `proxy_step` and `fgjax.training.proxies.keep`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution import CONFIGS, METHODS
from fgjax.core.batching import filled_places
from fgjax.core.filters import gaussian_blur
from fgjax.devices.jit import program
from fgjax.training.augment.geometry_and_light import center_crop
from fgjax.training.proxies.keep import NONE, Proxies, chosen

Rule = Literal["attention", "mean", "max", "min", "black", "white"]


@partial(jax.jit, static_argnames="rule")
def proxy_images(
    images: Float[Array | np.ndarray, "n h w c"],
    cam: Float[Array | np.ndarray, "n h w"],
    threshold: float | Float[Array, ""],
    weight: float | Float[Array, ""],
    rule: str = "attention",
) -> Float[Array, "n h w c"]:
    """Return the images with their most attended pixels replaced (Algorithm 1).

      x' = (1 - w) · cam · x   where cam ≥ τ,   x elsewhere

    Args:
      images: x, in [0, 1]: pixels, not normalised ones.
      cam: attention in [0, 1]. Where it is NaN the pixel stays.
      threshold: τ, from 0 (every pixel) to 1 (the maximum alone).
      weight: w in [0, 1]: 0 leaves cam · x, 1 leaves black. Of "attention" only.
      rule: what stands where cam ≥ τ: "attention" is the above; "mean", "max" and "min" are those
        of the image's pixels, for each channel; "black" is 0 and "white" 1 (section 4.4.1).

    Raises:
      ValueError: no such rule.

    Example:
      >>> images, cam = jnp.ones((1, 1, 2, 3)), jnp.array([[[1.0, 0.0]]])
      >>> proxy_images(images, cam, 0.5, 0.75)[0, 0, :, 0].tolist()
      [0.25, 1.0]
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule={rule!r}: one of {', '.join(get_args(Rule))}")
    images, cam = jnp.asarray(images), jnp.asarray(cam)[..., None]
    if rule == "attention":
        instead = (1 - weight) * cam * images
    elif rule in ("mean", "max", "min"):
        instead = getattr(jnp, rule)(images, axis=(1, 2), keepdims=True)
    else:
        instead = jnp.full((1, 1, 1, 1), float(rule == "white"), images.dtype)
    return jnp.where(cam >= threshold, instead, images)


@program("explain", static_argnames="size")
def _predict(model, images, size):
    return model(center_crop(images, size).astype(jnp.float32) / 255).argmax(1)


Batches = Callable[[np.ndarray], Iterable[tuple[Any, np.ndarray]]]
"""Places in the set -> batches of their images (uint8, as they are) and labels."""
Maps = Callable[[np.ndarray], Float[Array | np.ndarray, "n h w"]]
"""Places in the set -> a map in [0, 1] of what the model is shown of each image."""


def predictions(
    model: Any, batches: Batches, places: Int[np.ndarray, "n"], batch_size: int
) -> Int[np.ndarray, "n"]:
    """Return the class of each image as it is: its middle square, nothing at random."""
    found = []
    for images, labels in batches(places):
        index = filled_places(len(labels), batch_size)  # one compiled shape
        size = min(model.size, images.shape[1])
        found.append(np.asarray(_predict(model, images[index], size))[: len(labels)])
    return np.concatenate(found) if found else np.zeros(0, np.int32)


@dataclass(frozen=True)
class ProxySettings:
    """How proxies are made.

    Attributes:
      method: one that reads feature maps or gradients, see `fgjax.attribution.registry.that_need`.
      target: whose evidence is dimmed: that of the "predicted", or of the "true" class.
      threshold, weight, rule: see `proxy_images`.
      smooth: σ of a Gaussian blur of the map, in pixels of a 224 px image; 0: none.
      subset: share of the misclassified images that is replaced.
      place: "heat": what the map shows; "random": a control, the same map moved to a random place.
    """

    method: str = "grad_cam"
    target: Literal["predicted", "true"] = "predicted"
    threshold: float = 0.5
    weight: float = 0.8
    rule: Rule = "attention"
    smooth: float = 0.0
    subset: float = 1.0
    place: Literal["heat", "random"] = "heat"


def moved(key: Key[Array, ""], maps: Float[Array, "n h w"]) -> Float[Array, "n h w"]:
    """Return each map moved to a random place; what leaves at an edge comes in at the other.

    So its values, and how many there are of each, stay.
    """
    n, height, width = maps.shape
    by = jax.random.randint(key, (n, 2), 0, jnp.asarray([[height, width]]))
    return jax.vmap(lambda one, by: jnp.roll(one, by, (0, 1)))(maps, by)


def attention(
    model: Any,
    images: Float[Array, "n h w 3"],
    targets: Int[Array | np.ndarray, "n"],
    key: Key[Array, ""],
    settings: ProxySettings,
) -> Float[Array, "n h w"]:
    """Return the method's heat map in [0, 1] with a maximum of 1, smoothed and moved if asked.

    A map without any evidence is 0 everywhere.
    """
    method, config = METHODS[settings.method], CONFIGS[settings.method]()
    heat = method(model, images, targets, key=key, config=config).heatmap
    if settings.smooth:
        heat = gaussian_blur(heat[..., None], settings.smooth)[..., 0]
        most = heat.max((1, 2), keepdims=True)
        heat = heat / jnp.where(most > 0, most, 1)
    if settings.place == "random":
        heat = moved(jax.random.fold_in(key, 1), heat)
    return heat


@partial(jax.jit, static_argnames="rule")
def _paste(images, cam, threshold, weight, rule):
    """Return proxies of whole uint8 images, of which `cam` covers the middle; the margin stays."""
    height, width = cam.shape[1:]
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    middle = images[:, top : top + height, left : left + width]
    proxies = proxy_images(middle.astype(jnp.float32) / 255, cam, threshold, weight, rule)
    # A pixel below the threshold is the one that was there, to the bit.
    rounded = jnp.where(
        (cam >= threshold)[..., None],
        jnp.round(jnp.clip(proxies, 0, 1) * 255).astype(jnp.uint8),
        middle,
    )
    return images.at[:, top : top + height, left : left + width].set(rounded)


def proxy_step(
    model: Any,
    batches: Batches,
    places: Int[np.ndarray, "n"],
    labels: Int[np.ndarray, "n"],
    *,
    batch_size: int,
    settings: ProxySettings,
    seed: int,
    epoch: int,
    key: Key[Array, ""],
    before: Proxies = NONE,
    maps: Maps | None = None,
) -> tuple[Proxies, int]:
    """Return the proxies after a step: a pure function of its arguments.

    One forward pass over the images, and the method's passes over those that are replaced.

    Args:
      model: the classifier as it is now.
      batches: of the images themselves, never of their proxies.
      places: of the training images in their set.
      labels: their classes.
      batch_size: images per pass.
      seed, epoch: choose the subset; with `key` they make the randomness of the method.
      before: proxies that stay (`NONE` when they are taken back).
      maps: of what is dimmed, where that is known; None: the method's heat maps say.

    Returns:
      the proxies, and how many images were misclassified.
    """
    predicted = predictions(model, batches, places, batch_size)
    wrong = np.flatnonzero(predicted != labels)
    picked = chosen(wrong, settings.subset, seed, epoch)
    if len(picked) == 0:
        return before, len(wrong)
    targets = (predicted if settings.target == "predicted" else labels)[picked].astype(np.int32)
    key = jax.random.fold_in(key, epoch)
    pixels, done = [], 0
    for images, _ in batches(places[picked]):
        count = len(images)
        index = filled_places(count, batch_size)
        images = jnp.asarray(images)[index]
        size = min(model.size, images.shape[1])
        seen = center_crop(images, size).astype(jnp.float32) / 255
        own = slice(done, done + count)
        if maps is None:
            part = jnp.asarray(targets[own])[index]
            cam = attention(model, seen, part, jax.random.fold_in(key, done), settings)
        else:
            cam = jnp.asarray(maps(places[picked][own]), seen.dtype)[index]
        made = _paste(images, cam, settings.threshold, settings.weight, settings.rule)
        pixels.append(made[:count])
        done += count
    return before.replace(places[picked], jnp.concatenate(pixels)), len(wrong)
