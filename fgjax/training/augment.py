"""Random changes to training images, batched, on the device. Images are RGB in [0, 1]."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Images = Float[Array, "n h w c"]


def random_flip(key: Key[Array, ""], images: Images) -> Images:
    """Left and right swapped in half of the images."""
    flip = jax.random.bernoulli(key, 0.5, (len(images),))
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def random_shift(key: Key[Array, ""], images: Images, share: float) -> Images:
    """Each image moved by up to `share` of its side both ways; the edge is mirrored in."""
    height, width = images.shape[1:3]
    down, across = round(share * height), round(share * width)
    if down == 0 and across == 0:
        return images
    padded = jnp.pad(images, ((0, 0), (down, down), (across, across), (0, 0)), mode="symmetric")
    most = jnp.asarray([2 * down + 1, 2 * across + 1])
    starts = jax.random.randint(key, (len(images), 2), 0, most[None])

    def crop(image, start):
        return jax.lax.dynamic_slice(
            image, (start[0], start[1], 0), (height, width, image.shape[-1])
        )

    return jax.vmap(crop)(padded, starts)


def random_light(key: Key[Array, ""], images: Images, strength: float) -> Images:
    """Contrast about each image's mean, and brightness, both times 1 ± `strength`; clipped."""
    factors = jax.random.uniform(
        key, (2, len(images), 1, 1, 1), images.dtype, 1 - strength, 1 + strength
    )
    mean = images.mean((1, 2, 3), keepdims=True)
    return jnp.clip(((images - mean) * factors[0] + mean) * factors[1], 0, 1)
