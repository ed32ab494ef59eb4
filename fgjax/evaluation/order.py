"""Pixels in the order of their importance."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@jax.jit
def pixel_ranks(maps: Float[Array, "n h w"]) -> Int[Array, "n h w"]:
    """0 for the highest pixel of a map, h·w − 1 for the lowest; ties in row order."""
    order = jnp.argsort(-maps.reshape(maps.shape[0], -1), axis=1, stable=True)
    return jnp.argsort(order, axis=1).reshape(maps.shape)
