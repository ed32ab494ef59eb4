"""Parts as the non-negative factors of a network's features: deep feature factorisation.

Reference: Collins, Achanta, Süsstrunk, Deep Feature Factorization for Concept Discovery, ECCV
2018. The baseline "DFF" of Huang and Li, CVPR 2020, Tables 2 and 4.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

FLOOR = 1e-10
"""No weight falls below it: a factor that reached 0 everywhere would never come back."""


@partial(jax.jit, static_argnames=("num_parts", "sweeps"))
def factorise(
    features: Float[Array, "n d"],
    num_parts: int,
    *,
    key: Key[Array, ""],
    sweeps: int = 100,
) -> tuple[Float[Array, "n k"], Float[Array, "k d"]]:
    """Return W and H, not negative, that make ‖V − W H‖² small: NMF by coordinate descent.

    V are the cells of all images together, negative values set to 0; the columns of W are the
    parts' maps, and the rows of H, of length 1, what each part looks like. Both are moved in turn,
    a part at a time, to where the error is least (HALS), from random beginnings. The error never
    grows; what is found is a local minimum, another one for another key.

    Args:
      features: V, a cell a row.
      num_parts: k.
      key: of the beginnings.
      sweeps: how often both are moved.

    References:
      Cichocki and Phan, Fast Local Algorithms for Large Scale Nonnegative Matrix and Tensor
      Factorizations, IEICE Transactions, 2009.
    """
    v = jnp.maximum(features.astype(jnp.float32), 0)
    keys = jax.random.split(key)
    scale = jnp.sqrt(v.mean() / num_parts)
    w = scale * jax.random.uniform(keys[0], (len(v), num_parts)) + FLOOR
    h = scale * jax.random.uniform(keys[1], (num_parts, v.shape[1])) + FLOOR

    def sweep(_, held):
        w, h = held
        w = _move(w, _product(v, h.T), _product(h, h.T))
        return w, _move(h.T, _product(v.T, w), _product(w.T, w)).T

    w, h = jax.lax.fori_loop(0, sweeps, sweep, (w, h))
    length = jnp.linalg.norm(h, axis=1)
    return w * length[None], h / length[:, None]


@partial(jax.jit, static_argnames="sweeps")
def factor_maps(
    features: Float[Array, "n h w d"], parts: Float[Array, "k d"], *, sweeps: int = 50
) -> Float[Array, "n h w k"]:
    """Return the weights W, 0 or more, with which given factors make up each cell: non-negative
    least squares, so that images that were not factorised get maps of the same parts.

    Args:
      parts: H of `factorise`.
      sweeps: of coordinate descent.
    """
    v = jnp.maximum(features.astype(jnp.float32), 0).reshape(-1, features.shape[-1])
    products, gram = _product(v, parts.T), _product(parts, parts.T)
    begin = jnp.maximum(products, 0) / len(parts)
    w = jax.lax.fori_loop(0, sweeps, lambda _, w: _move(w, products, gram), begin)
    return w.reshape(*features.shape[:-1], len(parts))


def _product(a, b):
    return jnp.matmul(a, b, precision="highest")


def _move(w: Float[Array, "n k"], products: Float[Array, "n k"], gram: Float[Array, "k k"]):
    """Move each column of W to where ‖V − W H‖² is least; `products` is V Hᵀ, `gram` H Hᵀ."""

    def one(j, w):
        step = (products[:, j] - _product(w, gram[:, j])) / jnp.maximum(gram[j, j], FLOOR)
        return w.at[:, j].set(jnp.maximum(w[:, j] + step, FLOOR))

    return jax.lax.fori_loop(0, w.shape[1], one, w)
