"""Values in order: pixels by their importance, ranks, and how far two orders agree."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

TIES = "ties in a keyed random order"
"""What protocols say of equally important pixels."""


def pixel_ranks(
    maps: Float[Array | np.ndarray, "n h w"], key: Key[Array, "..."] | None = None
) -> Int[Array, "n h w"]:
    """Return 0 for the highest pixel of a map, h·w − 1 for the lowest; ties in random order.

    In row order a constant map would go through the image from the top, and be judged by where the
    object lies.

    Args:
      key: of that order: one for all maps, or one for each. None: `jax.random.key(0)`, so that
        the order depends neither on the map nor on those beside it.
    """
    key = jax.random.key(0) if key is None else key
    return _ranks(jnp.asarray(maps), jnp.broadcast_to(key, maps.shape[:1]))


@jax.jit
def _ranks(maps, keys):
    def one(values, key):
        shuffled = jax.random.permutation(key, values.size)
        order = shuffled[jnp.argsort(-values[shuffled], stable=True)]
        return jnp.zeros_like(order).at[order].set(jnp.arange(values.size, dtype=order.dtype))

    flat = maps.reshape(len(maps), -1)
    return jax.vmap(one)(flat, keys).reshape(maps.shape)


@jax.jit
def average_ranks(values: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """1 for the lowest value of a row, m for the highest; equal ones share their mean place."""

    def one(row):
        ordered = jnp.sort(row)
        below = jnp.searchsorted(ordered, row, side="left")
        up_to = jnp.searchsorted(ordered, row, side="right")
        return (below + up_to + 1).astype(jnp.float32) / 2

    return jax.vmap(one)(values)


@jax.jit
def rank_correlation(
    a: Float[Array, "n m"], b: Float[Array, "n m"], where: Bool[Array, "n m"] | None = None
) -> Float[Array, "n"]:
    """Spearman's ρ of each pair of rows, in [−1, 1]: Pearson's correlation of their ranks.

      ρ = Σ r_a·r_b / √(Σ r_a² · Σ r_b²),  r = rank − mean rank, equal values sharing theirs.

    `where` says which entries count (all). NaN for fewer than two, for a row whose values
    are all equal, and for one with a NaN or an infinity.

    References:
      Spearman, The Proof and Measurement of Association between Two Things, 1904.
    """
    where = jnp.ones(a.shape, bool) if where is None else where
    count = jnp.sum(where, axis=1, keepdims=True, dtype=jnp.float32)
    # What does not count is ranked behind all that does; the mean rank is then known exactly.
    ranks = [average_ranks(jnp.where(where, values, jnp.inf)) for values in (a, b)]
    a_, b_ = (jnp.where(where, (rank - (count + 1) / 2) / count, 0.0) for rank in ranks)
    across = jnp.sqrt(jnp.sum(a_**2, axis=1) * jnp.sum(b_**2, axis=1))
    finite = jnp.all(~where | (jnp.isfinite(a) & jnp.isfinite(b)), axis=1)
    return jnp.where(finite, jnp.sum(a_ * b_, axis=1) / across, jnp.nan)
