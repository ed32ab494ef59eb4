"""The gradient of a convolution by its kernel, as a CPU computes it fast.

Each tap (i, j) of the kernel sees the image moved by that much, so its gradient is one product of
matrices over all pixels of all images,

  dk[i, j] = Σ_n,a,b x[n, s a + i, s b + j]ᵀ g[n, a, b]

As JAX has it, it is a convolution with a kernel as large as the image. With oneDNN the products are
faster, and by a 3x3 kernel that moves by single pixels fewer do (`winograd`): they bring a training
step of ResNet-18 at 224² from .84 of PyTorch's speed to .97 (`benchmarks/cpu.py --only training`).
Without oneDNN (jax 0.10) the products are slower.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fgjax.devices.compiler import compiler_options
from fgjax.models.networks import winograd
from fgjax.models.networks.convolution import Edges

FEW = 4
"""Channels up to which the products are too thin to be faster: those of images."""


def pays(shape: tuple[int, ...]) -> bool:
    """Return whether the gradient by a kernel of this shape, `k l c d`, is faster so.

    Where training has oneDNN it is, but for the kernel that sees the image itself.
    """
    return shape[2] > FEW and bool(compiler_options("train"))


def kernel_gradient(
    x: Float[Array, "n h w c"],
    grad: Float[Array, "n H W d"],
    sides: tuple[int, int],
    stride: int,
    edges: Edges,
) -> Float[Array, "k l c d"]:
    """Return the gradient by a kernel of these sides, `grad` being that by what it gives."""
    height, width = grad.shape[1:3]
    if sides == (winograd.SIDE,) * 2 and stride == 1 and grad.dtype == jnp.float32:
        tile = winograd.best_tile(len(grad), height, width)
        if tile is not None:
            return winograd.kernel_gradient(x, grad, edges, tile)
    down, across = (height - 1) * stride + 1, (width - 1) * stride + 1
    x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *edges, (0, 0))))
    grad = grad.reshape(-1, grad.shape[-1])
    taps = []
    for i in range(sides[0]):
        for j in range(sides[1]):
            seen = x[:, i : i + down : stride, j : j + across : stride].reshape(-1, x.shape[-1])
            tap = jnp.matmul(jax.lax.optimization_barrier(seen).T, grad)
            # One after the other: nine copies of the image at once are slower than the products.
            x, tap = jax.lax.optimization_barrier((x, tap))
            taps.append(tap)
    return jnp.stack(taps).reshape(*sides, x.shape[-1], -1)
