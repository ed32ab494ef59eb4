"""A convolution whose gradients are written as a CPU computes them fast."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fgjax.models.networks import kernel_gradient as products
from fgjax.models.networks import strided
from fgjax.models.networks.convolution import LAYOUT, Edges, convolve


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_on_cpu(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "k l c d"],
    stride: int,
    edges: Edges,
    turned: Float[Array, "k l d c"] | None = None,
) -> Float[Array, "n H W d"]:
    """Return what `convolve` does. Its gradients are the same numbers, but for rounding.

    Args:
      turned: the kernel as `turn` gives it, where it is known: a gradient by the image need not
        turn it anew.
    """
    return convolve(x, kernel, stride, edges)


def turn(kernel: Float[Array, "k l c d"]) -> Float[Array, "k l d c"]:
    """Return the kernel that a convolution of stride 1 has for its gradient by the image."""
    return kernel[::-1, ::-1].transpose(0, 1, 3, 2)


def _forward(x, kernel, stride, edges, turned):
    return convolve(x, kernel, stride, edges), (x, kernel, turned)


def _backward(stride, edges, saved, grad):
    x, kernel, turned = saved
    _, transposed = jax.vjp(partial(convolve, stride=stride, edges=edges), x, kernel)
    by_x, by_kernel = transposed(grad)  # what is replaced below is never computed
    if stride > 1 and strided.pays(kernel.shape):
        by_x = strided.input_gradient(grad, kernel, x.shape[1:3], stride, edges)
    elif turned is not None:
        by_x = turned_gradient(grad, turned, x.shape[1:3], stride, edges)
    if products.pays(kernel.shape):
        by_kernel = products.kernel_gradient(x, grad, kernel.shape[:2], stride, edges)
    return by_x, by_kernel, None if turned is None else jnp.zeros_like(turned)


def turned_gradient(
    grad: Float[Array, "n H W d"],
    turned: Float[Array, "k l d c"],
    sides: tuple[int, int],
    stride: int,
    edges: Edges,
) -> Float[Array, "n h w c"]:
    """Return the gradient by an image of these sides: `grad`, spread to the stride, convolved with
    the turned kernel."""
    around = []
    for side, out, size, (before, _) in zip(sides, grad.shape[1:3], turned.shape, edges):
        low = size - 1 - before
        around.append((low, side - ((out - 1) * stride + 1) - low + size - 1))
    spread = (stride, stride)
    return jax.lax.conv_general_dilated(
        grad, turned, (1, 1), around, lhs_dilation=spread, dimension_numbers=LAYOUT
    )


convolve_on_cpu.defvjp(_forward, _backward)
