"""When values differ by no more than rounding: the one rule by which a map says nothing.

Scaling makes a confident map of anything, also of the last bit of float32. So before anything is
scaled, its spread is held against its size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

FLOOR = 2.0**-19
"""16 ε of float32, about 2e-6: what the rounding of a forward pass makes of equal scores. A spread
of at most this share of the values' size is none."""


@jax.jit
def sizes(values: Float[Array, "n ..."]) -> Float[Array, "n"]:
    """Return the largest absolute value of each row; NaN where there is a NaN."""
    return jnp.abs(values.reshape(len(values), -1)).max(1)


@jax.jit
def is_flat(
    values: Float[Array, "n ..."], size: Float[Array, "n"] | None = None
) -> Bool[Array, "n"]:
    """Return of each row whether its values are equal but for rounding: whether they say nothing.

      max v - min v ≤ FLOOR · max(max |v|, size)

    Args:
      values: scores of one image in a row, or a map.
      size: of what the values were made of, where that is larger: differences of scores round as
        the scores do.

    Returns:
      False for a row with a NaN or an infinity: that is broken, which is another thing.

    Example:
      >>> is_flat(jnp.array([[1.0, 1.0 + 1e-6], [1.0, 1.1], [0.0, 1e-30]])).tolist()
      [True, False, False]
    """
    flat = values.reshape(len(values), -1)
    own = sizes(flat)
    limit = FLOOR * (own if size is None else jnp.maximum(own, size))
    return jnp.isfinite(own) & (flat.max(1) - flat.min(1) <= limit)
