"""RandAugment: a few operations, drawn anew for each image, all of one strength.

Batched, a pure function of the key; images are in [0, 1] and square. Pixel values are those of
8-bit images, as in Pillow, whose operations the paper uses.

Reference: Cubuk et al., RandAugment: Practical Automated Data Augmentation with a Reduced Search
  Space, 2020.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from fgjax.training.augment.augmix import (
    Image,
    autocontrast,
    equalize,
    posterize,
    solarize,
    warp,
    warp_matrix,
)

OPERATIONS = ("identity", "autocontrast", "equalize", "posterize", "solarize", "color", "contrast",
              "brightness", "sharpness", "rotate", "shear_x", "shear_y", "translate_x",
              "translate_y")  # fmt: skip
FIRST_WARP = OPERATIONS.index("rotate")
LUMA = (0.299, 0.587, 0.114)
"""Rec. 601."""


def grey(image: Image) -> Image:
    """Return the luma of each pixel, in all channels."""
    luma = (image * jnp.asarray(LUMA, image.dtype)[None, None]).sum(2, keepdims=True)
    return jnp.broadcast_to(luma, image.shape)


def smoothed(image: Image) -> Image:
    """Return the mean of 3x3 pixels, the middle one five times; the border as it is."""
    rows = image[:-2] + image[1:-1] + image[2:]
    box = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    inner = (box + 4 * image[1:-1, 1:-1]) / 13
    return image.at[1:-1, 1:-1].set(inner)


def towards(image: Image, plain: Image, factor: Float[Array, ""]) -> Image:
    """Return plain + factor · (image - plain), clipped: 0 is the plain one, 1 the image."""
    return jnp.clip(plain + factor * (image - plain), 0, 1)


def change(name: str, image: Image, strength: Float[Array, ""], sign: Float[Array, ""]) -> Image:
    """Return one operation on an image.

    Args:
      name: one of `OPERATIONS`.
      strength: in [0, 10]. At 10: a factor of 0.1 or 1.9 for color, contrast, brightness and
        sharpness, 4 bits, solarize from 0 on, 30°, a shear of 0.3, a third of the side.
        autocontrast and equalize have none.
      sign: 1 or -1: which way.
    """
    factor = 1 + sign * 0.9 * strength / 10
    if name in OPERATIONS[FIRST_WARP:]:
        place = jnp.int32(OPERATIONS.index(name) - FIRST_WARP)
        return warp(image, warp_matrix(place, strength, sign, image.shape[0]))
    changes = {
        "identity": lambda: image,
        "autocontrast": lambda: autocontrast(image),
        "equalize": lambda: equalize(image),
        "posterize": lambda: posterize(image, 8 - jnp.floor(strength * 0.4).astype(jnp.int32)),
        "solarize": lambda: solarize(image, jnp.where(strength > 0, 1 - strength / 10, 2)),
        "color": lambda: towards(image, grey(image), factor),
        "contrast": lambda: towards(image, jnp.full_like(image, grey(image).mean()), factor),
        "brightness": lambda: towards(image, jnp.zeros_like(image), factor),
        "sharpness": lambda: towards(image, smoothed(image), factor),
    }
    return changes[name]()


def _any_change(key: Key[Array, ""], image: Image, strength: Float[Array, ""]) -> Image:
    """Return one operation, drawn with its direction."""
    keys = jax.random.split(key)
    operation = jax.random.randint(keys[0], (), 0, len(OPERATIONS))
    sign = jnp.where(jax.random.bernoulli(keys[1]), 1.0, -1.0)
    matrix = warp_matrix(operation - FIRST_WARP, strength, sign, image.shape[0])
    plain = [change(name, image, strength, sign) for name in OPERATIONS[:FIRST_WARP]]
    return jnp.stack([*plain, warp(image, matrix)])[jnp.minimum(operation, FIRST_WARP)]


def randaugment(
    key: Key[Array, ""],
    images: Float[Array, "n h w c"],
    strength: float,
    operations: int = 2,
) -> Float[Array, "n h w c"]:
    """Return each image after `operations` of `OPERATIONS`, one upon the other.

    Args:
      images: square ones.
      strength: of 10; 0 returns the images as they are, without autocontrast and equalize, too.
    """
    if strength == 0:
        return images
    for own in jax.random.split(key, operations):
        keys = jax.random.split(own, len(images))
        images = jax.vmap(_any_change, (0, 0, None))(keys, images, jnp.float32(strength))
    return images
