"""How few pixels carry the map?"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

GINI_PROTOCOL = (
    "Gini index of the map's absolute values: 0 all pixels alike, near 1 one pixel alone"
)


@jax.jit
def gini(maps: Float[Array, "n h w"]) -> Float[Array, "n"]:
    """Return the Gini index of a map, in [0, 1 − 1/N]: 0 for a constant one, 1 − 1/N for one pixel.

      G(v) = 1 − 2 Σ_k (v_(k) / ‖v‖₁) · (N − k + ½) / N,   v_(1) ≤ … ≤ v_(N) the |values|

    It does not change when the map is multiplied, or made larger by repeating its pixels.
    NaN for a map of zeros, and for one with a NaN or an infinity. A sparse map is short to
    read, not right: a single wrong pixel has the highest value.

    References:
      Chalasani et al., Concise Explanations of Neural Networks using Adversarial Training,
      ICML 2020. Hurley & Rickard, Comparing Measures of Sparsity, 2009.
    """
    values = jnp.sort(jnp.abs(maps).reshape(maps.shape[0], -1), axis=1)
    n = values.shape[1]
    above = (n - jnp.arange(1, n + 1, dtype=jnp.float32) + 0.5) / n
    return 1 - 2 * jnp.sum(values * above[None], axis=1) / jnp.sum(values, axis=1)
