"""Convolutions against SciPy's correlation and XLA's own, values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from fgjax.models.networks.layers import Conv, DepthwiseConv, Norm, max_pool, pads

SIZES = [(5, 6), (3, 2)]  # odd and even; smaller than some kernels


def padded(image, kernel, stride, padding):
    """NumPy: PyTorch pads k // 2 on both sides; TensorFlow so that ceil(size / stride) come out,
    the odd pixel after."""
    edges = []
    for size in image.shape[:2]:
        if padding == "symmetric":
            edges.append((kernel // 2, kernel // 2))
        else:
            out = int(np.ceil(size / stride))
            total = max((out - 1) * stride + kernel - size, 0)
            edges.append((total // 2, total - total // 2))
    return np.pad(image, (*edges, (0, 0)))


def numpy_conv(x, kernel, stride, padding):
    side = kernel.shape[0]
    out = []
    for image in padded_all(x, side, stride, padding):
        maps = [
            sum(
                correlate2d(image[..., c], kernel[..., c, d], "valid")
                for c in range(image.shape[-1])
            )
            for d in range(kernel.shape[-1])
        ]
        out.append(np.stack(maps, -1)[::stride, ::stride])
    return np.stack(out)


def padded_all(x, *args):
    return [padded(np.asarray(image, np.float64), *args) for image in x]


def random(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("side", "stride"), [(1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_conv(size, stride, padding, side):
    x = random((2, *size, 3))
    layer = Conv(4, side, stride, padding)
    variables = {"params": {"kernel": random((side, side, 3, 4), 1)}}
    expected = numpy_conv(x, np.asarray(variables["params"]["kernel"], np.float64), stride, padding)
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=2e-4)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_conv_in_xlas_words(padding):
    """ "same" is XLA's SAME; its window is off-centre for even sizes and stride 2."""
    x, kernel = random((1, 8, 8, 3)), random((3, 3, 3, 4), 1)
    ours = Conv(4, 3, 2, padding).apply({"params": {"kernel": kernel}}, x)
    edges = "SAME" if padding == "same" else [(1, 1), (1, 1)]
    xla = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), edges, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(ours, xla, atol=1e-5)
    other = Conv(4, 3, 2, "symmetric" if padding == "same" else "same")
    assert np.abs(ours - other.apply({"params": {"kernel": kernel}}, x)).max() > 0.1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (5, 3)])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_shifted_depthwise_is_the_grouped_convolution(size, stride, padding, side):
    """Values, gradient to the input, gradient to the kernel."""
    x, kernel = random((2, *size, 4)), random((side, side, 1, 4), 1)
    edge = [pads(s, side, stride, padding) for s in size]

    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            edge,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )

    def layer(x, kernel, shifted=True):
        module = DepthwiseConv(side, stride, padding, shifted=shifted)
        return module.apply({"params": {"kernel": kernel}}, x)

    shape = jax.eval_shape(grouped, x, kernel).shape
    cotangent = random(shape, 2)  # a different weight on every output

    @jax.jit
    def everything(x, kernel):
        found = [jax.vjp(function, x, kernel) for function in (layer, grouped)]
        return [(value, *pull(cotangent)) for value, pull in found], layer(x, kernel, False)

    (ours, theirs), plain = everything(x, kernel)
    assert ours[0].shape == shape
    for mine, expected, atol in zip(ours, theirs, (1e-5, 1e-4, 1e-4), strict=True):
        np.testing.assert_allclose(mine, expected, atol=atol)
    np.testing.assert_allclose(plain, theirs[0], atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_in_numpy(stride):
    x, kernel = random((1, 7, 6, 3)), random((3, 3, 1, 3), 1)
    result = DepthwiseConv(3, stride).apply({"params": {"kernel": kernel}}, x)
    image = padded_all(x, 3, stride, "symmetric")[0]
    for c in range(3):
        expected = correlate2d(image[..., c], np.asarray(kernel)[:, :, 0, c], "valid")
        np.testing.assert_allclose(result[0, ..., c], expected[::stride, ::stride], atol=1e-5)


def test_depthwise_gradient_by_finite_differences_under_vmap():
    x, kernel, weight = random((3, 1, 5, 5, 2)), random((3, 3, 1, 2), 1), random((1, 3, 3, 2), 2)
    layer = DepthwiseConv(3, 2, shifted=True)
    loss = jax.jit(lambda x: (layer.apply({"params": {"kernel": kernel}}, x) * weight).sum())
    gradient = jax.jit(jax.vmap(jax.grad(loss)))(x)
    h = 0.01  # the layer is linear: differences are exact but for rounding
    for i, at in enumerate([(0, 0, 0, 0), (0, 2, 3, 1), (0, 4, 4, 0)]):
        difference = (loss(x[i].at[at].add(h)) - loss(x[i].at[at].add(-h))) / (2 * h)
        np.testing.assert_allclose(gradient[(i, *at)], difference, atol=1e-3)


def test_norm_in_training_and_after():
    x = random((4, 5, 5, 3)) * 2 + 1
    norm = Norm()
    variables = norm.init(jax.random.key(0), x)
    stats = variables["batch_stats"]["norm"]
    np.testing.assert_array_equal(stats["mean"], 0)
    y, changed = norm.apply(variables, x, True, mutable=["batch_stats"])
    mean, var = np.asarray(x).mean((0, 1, 2)), np.asarray(x).var((0, 1, 2))
    np.testing.assert_allclose(y, (np.asarray(x) - mean) / np.sqrt(var + 1e-5), atol=1e-5)
    stats = jax.tree.map(np.asarray, changed["batch_stats"]["norm"])
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, rtol=1e-5)
    later = norm.apply({**variables, **changed}, x)
    expected = (np.asarray(x) - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    np.testing.assert_allclose(later, expected, atol=1e-5)


@pytest.mark.parametrize(("window", "stride", "edge"), [(2, 2, 0), (3, 2, 0), (3, 2, 1)])
def test_max_pool_and_its_gradient_are_those_of_the_window_operation(window, stride, edge):
    x = random((2, 7, 8, 3))
    pads = ((edge, edge), (edge, edge))

    def expected(x):
        return nn.max_pool(x, (window, window), (stride, stride), pads)

    def ours(x):
        return max_pool(x, window, stride, edge)

    weights = random(jax.eval_shape(expected, x).shape, 1)

    @jax.jit
    def both(x):
        found = [jax.vjp(function, x) for function in (ours, expected)]
        return [(value, *pull(weights)) for value, pull in found]

    mine, theirs = both(x)
    assert np.array_equal(mine[0], theirs[0])
    np.testing.assert_allclose(mine[1], theirs[1], rtol=1e-6, atol=1e-7)
