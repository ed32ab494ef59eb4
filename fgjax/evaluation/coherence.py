"""Is the map one connected region, or noise?"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def total_variation(maps: Float[Array, "n h w"]) -> Float[Array, "n"]:
    """Total variation of a map (seed 000, Eq. 10); lower is more coherent.

      TV(z) = Σ_ij (z_ij − z_i,j+1)² + Σ_ij (z_ij − z_i+1,j)²

    A sum over pixels, of squared differences: it grows with the length of the edges in
    pixels, so compare it at equal resolution only. NaN for a map with a NaN.
    """
    horizontal = jnp.sum(jnp.diff(maps, axis=2) ** 2, axis=(1, 2))
    vertical = jnp.sum(jnp.diff(maps, axis=1) ** 2, axis=(1, 2))
    return horizontal + vertical
