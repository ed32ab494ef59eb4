"""A convolution whose gradients are written as a CPU computes them fast."""

from functools import partial

import jax
from jaxtyping import Array, Float

from fgjax.models.networks import kernel_gradient as products
from fgjax.models.networks import strided
from fgjax.models.networks.convolution import Edges, convolve


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_on_cpu(
    x: Float[Array, "n h w c"], kernel: Float[Array, "k l c d"], stride: int, edges: Edges
) -> Float[Array, "n H W d"]:
    """Return what `convolve` does. Its gradients are the same numbers, but for rounding."""
    return convolve(x, kernel, stride, edges)


def _forward(x, kernel, stride, edges):
    return convolve(x, kernel, stride, edges), (x, kernel)


def _backward(stride, edges, saved, grad):
    x, kernel = saved
    _, transposed = jax.vjp(partial(convolve, stride=stride, edges=edges), x, kernel)
    by_x, by_kernel = transposed(grad)  # what is replaced below is never computed
    if stride > 1 and strided.pays(kernel.shape):
        by_x = strided.input_gradient(grad, kernel, x.shape[1:3], stride, edges)
    if products.pays(kernel.shape):
        by_kernel = products.kernel_gradient(x, grad, kernel.shape[:2], stride, edges)
    return by_x, by_kernel


convolve_on_cpu.defvjp(_forward, _backward)
