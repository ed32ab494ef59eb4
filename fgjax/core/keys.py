"""Randomness that belongs to an image, not to its place in a batch."""

import zlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key


def image_keys(key: Array | None, images: int) -> Key[Array, "n"]:
    """Return one key per image: those given, or, of a single one, `fold_in(key, i)` for image i.

    Raises:
      ValueError: no key, one of the old kind, or neither one key nor one for each image.
    """
    if key is None:
        raise ValueError("this method draws at random: give it a key, jax.random.key(seed)")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError("key must be a typed key: jax.random.key(seed), not PRNGKey(seed)")
    if key.ndim == 0:
        return jax.vmap(partial(jax.random.fold_in, key))(np.arange(images))
    if key.shape != (images,):
        raise ValueError(f"{key.shape[0]} keys for {images} images: one key, or one for each")
    return key


def image_key(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """Return an image's own key: a function of the seed and its name, so no neighbour changes
    it."""
    return jax.random.fold_in(key, zlib.crc32(name.encode("utf-8", "surrogateescape")))
