"""Layers that the networks share."""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fgjax.models.networks.convolution import convolve
from fgjax.models.networks.cpu_convolution import convolve_on_cpu

Padding = Literal["symmetric", "same"]
"""How a convolution pads: "symmetric" as PyTorch does, k // 2 on both sides; "same" as
TensorFlow does, so that with stride 2 the odd pixel goes to the right and below."""


def pads(size: int, kernel: int, stride: int, padding: Padding | int) -> tuple[int, int]:
    """Return pixels to add before and after a line of `size` pixels; a number is taken as it is."""
    if isinstance(padding, int):
        return padding, padding
    if padding == "symmetric":
        return kernel // 2, kernel // 2
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


TURNED = "turned"
"""The collection of turned kernels, where they are known: see `fgjax.models.turned`."""


class Conv(nn.Module):
    """A convolution, NHWC, with PyTorch's or TensorFlow's padding, or none (`padding=0`).

    A 1x1 convolution is written as the matrix product it is: XLA's CPU backend runs
    that several times faster, and accelerators do not care.

    Attributes:
      groups: of channels that do not mix.
    """

    features: int
    kernel: int | tuple[int, int] = 3
    stride: int = 1
    padding: Padding | int = "symmetric"
    dtype: Any = jnp.float32
    bias: bool = False
    groups: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n H W d"]:
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        sides = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        shape = (*sides, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", init, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if sides == (1, 1):
            x = x[:, :: self.stride, :: self.stride]
            # Two axes, not four: so the gradient is a plain matrix product too.
            y = (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:3], self.features)
        else:
            edges = tuple(
                pads(size, side, self.stride, self.padding)
                for size, side in zip(x.shape[1:3], sides, strict=True)
            )
            if self.groups > 1 or jax.default_backend() != "cpu":
                y = convolve(x, kernel, self.stride, edges, self.groups)
            else:
                turned = self.get_variable(TURNED, "kernel")
                if turned is not None:
                    turned = turned.astype(self.dtype)
                y = convolve_on_cpu(x, kernel, self.stride, edges, turned)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)[None, None, None]
        return y


def _windows(x, kernel: int, height: int, width: int, stride: int):
    """Yield the k² views of a padded map that a depthwise kernel multiplies, row by row."""
    down, across = (height - 1) * stride + 1, (width - 1) * stride + 1
    for i in range(kernel):
        for j in range(kernel):
            yield i, j, x[:, i : i + down : stride, j : j + across : stride]


def _sum_of_products(x, kernel, height, width, stride):
    total = 0
    for i, j, window in _windows(x, kernel.shape[0], height, width, stride):
        total = total + window * kernel[i, j][None, None, None]
    return total


CACHE = 8 * 2**20
"""Bytes of a map above which images are taken one by one, so that each stays in the cache while
its k² products are summed."""


def _image_by_image(function, x):
    """Return `function` of a batch, computed for one image at a time when the batch is large."""
    if x.size * x.dtype.itemsize <= CACHE:
        return function(x)
    x = jax.lax.optimization_barrier(x)
    return jax.lax.map(lambda image: function(image[None])[0], x)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted_depthwise(x, kernel, stride, edge):
    size = kernel.shape[0]
    height, width = (
        (s + sum(e) - size) // stride + 1 for s, e in zip(x.shape[1:3], edge, strict=True)
    )

    def slide(x):
        # Without the barriers XLA fuses what comes before into each of the k² products, and
        # computes it k² times.
        x = jax.lax.optimization_barrier(jnp.pad(x, [(0, 0), *edge, (0, 0)]))
        return _sum_of_products(x, kernel, height, width, stride)

    return _image_by_image(slide, x)


def _shifted_forward(x, kernel, stride, edge):
    return _shifted_depthwise(x, kernel, stride, edge), (x, kernel)


def _shifted_backward(stride, edge, saved, grad):
    x, kernel = saved
    grad = jax.lax.optimization_barrier(grad)
    d_kernel = _kernel_gradient(x, grad, kernel.shape[0], stride, edge).reshape(kernel.shape)
    return _input_gradient(x, grad, kernel, stride, edge), d_kernel


def _kernel_gradient(x, grad, size, stride, edge):
    def one_image(total, pair):
        image, grad = jnp.pad(pair[0], [*edge, (0, 0)])[None], pair[1]
        sums = [
            (window[0] * grad).sum((0, 1))
            for *_, window in _windows(image, size, *grad.shape[:2], stride)
        ]
        return total + jnp.stack(sums), None

    zeros = jnp.zeros((size * size, x.shape[-1]), grad.dtype)
    return jax.lax.scan(one_image, zeros, (x, grad))[0]


def _input_gradient(x, grad, kernel, stride, edge):
    """Return the transposed convolution: the gradient is spread to the stride, and the flipped
    kernel slid over it."""
    size, spread = kernel.shape[0], []
    for length, out, (before, _) in zip(x.shape[1:3], grad.shape[1:3], edge, strict=True):
        low = size - 1 - before
        spread.append((low, length + size - 1 - low - ((out - 1) * stride + 1), stride - 1))
    zero = jnp.zeros((), grad.dtype)

    def slide(grad):
        wide = jax.lax.pad(grad, zero, [(0, 0, 0), *spread, (0, 0, 0)])
        wide = jax.lax.optimization_barrier(wide)
        return _sum_of_products(wide, kernel[::-1, ::-1], *x.shape[1:3], 1)

    return _image_by_image(slide, grad)


_shifted_depthwise.defvjp(_shifted_forward, _shifted_backward)


class DepthwiseConv(nn.Module):
    """A convolution of each channel by itself.

    On a CPU it is computed as the sum of shifted products: there XLA's grouped
    convolution is several times slower than that.
    """

    kernel: int = 3
    stride: int = 1
    padding: Padding = "symmetric"
    dtype: Any = jnp.float32
    shifted: bool | None = None
    bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n H W c"]:
        channels = x.shape[-1]
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal", in_axis=(), out_axis=-1)
        kernel = self.param("kernel", init, (self.kernel, self.kernel, 1, channels), jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        edge = [pads(s, self.kernel, self.stride, self.padding) for s in x.shape[1:3]]
        shifted = jax.default_backend() == "cpu" if self.shifted is None else self.shifted
        if shifted:
            y = _shifted_depthwise(x, kernel[:, :, 0], self.stride, tuple(edge))
        else:
            y = convolve(x, kernel, self.stride, tuple(edge), channels)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
            y = y + bias.astype(self.dtype)[None, None, None]
        return y


def max_pool(
    x: Float[Array, "n h w c"], window: int, stride: int, padding: Padding | int = 0
) -> Float[Array, "n H W c"]:
    """Return the maximum over windows; its gradient goes to the first of equal maxima.

    Written as pairwise maxima of shifted slices, rows first: the gradient of XLA's own
    window operation is some twenty times slower on a CPU.
    """
    edges = [pads(size, window, stride, padding) for size in x.shape[1:3]]
    x = jnp.pad(x, [(0, 0), *edges, (0, 0)], constant_values=-jnp.inf)
    for axis in (1, 2):
        last = (x.shape[axis] - window) // stride * stride + 1
        best: Any = None
        for start in range(window):
            part = jax.lax.slice_in_dim(x, start, start + last, stride, axis)
            best = part if best is None else jnp.where(best >= part, best, part)
        x = best
    return x


class Norm(nn.Module):
    """Batch normalisation with float32 statistics; ε and momentum as in PyTorch.

    Where its variables hold a bias and nothing else (see `fold_batch_norm`), it adds that.
    """

    dtype: Any = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n h w c"]:
        own = self.variables.get("params", {}).get("norm", {})
        if own and "scale" not in own:
            return x + own["bias"].astype(x.dtype)[None, None, None]
        norm = nn.BatchNorm(momentum=0.9, epsilon=self.epsilon, dtype=self.dtype, name="norm")
        return norm(x, use_running_average=not train)


def computed_again(block: type[nn.Module], on: bool, static: tuple[int, ...] = (2,)) -> Any:
    """Return the kind of block, or where `on` one whose insides are computed again on the way
    back instead of kept.

    Args:
      static: places of the arguments that are no arrays, the module itself being 0.

    Reference: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.
    """
    return nn.remat(block, static_argnums=static) if on else block
