"""Dense layers as products of two matrices."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float


def flat_product(
    x: Float[Array, "... d"], kernel: Float[Array, "d e"], contracted: Any, *args: Any, **how: Any
) -> Float[Array, "... e"]:
    """Return the product over the last axis, all others taken as one.

    So the gradient by the kernel is a product of two matrices, too, which XLA's CPU backend takes
    as it is; of three axes it copies the activations into another order first, a fifth of a
    transformer's training step.
    """
    rows = x.reshape(-1, x.shape[-1])
    product = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), *args, **how)
    return product.reshape(*x.shape[:-1], kernel.shape[-1])


Dense = partial(nn.Dense, dot_general=flat_product)
"""A dense layer of tokens or pixels."""
