"""The rewritten gradient of a strided convolution is JAX's own; the rest is untouched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.models.networks.layers import pads
from fgjax.models.networks.strided import convolve, input_gradient, strided_convolve

CASES = [
    (kernel, stride, side, padding)
    for kernel in (1, 2, 3, 5, 7)
    for stride in (2, 3)
    for side in (13, 14)
    for padding in ("symmetric", "same", 0)
]
LIMIT = 3e-7


def edges_of(side, kernel, stride, padding):
    return tuple(pads(s, kernel, stride, padding) for s in (side, side + 3))


def test_the_gradient_by_the_image_is_that_of_double_precision():
    """Many sides, kernels, strides and paddings; the reference sums in float64."""
    rng = np.random.default_rng(0)
    for kernel, stride, side, padding in CASES:
        edges = edges_of(side, kernel, stride, padding)
        weights = rng.normal(size=(kernel, kernel, 3, 8)).astype(np.float32)
        shape = [(n + sum(e) - kernel) // stride + 1 for n, e in zip((side, side + 3), edges)]
        grad = rng.normal(size=(2, *shape, 8)).astype(np.float32)
        whole = np.zeros((2, side + sum(edges[0]), side + 3 + sum(edges[1]), 3))
        for i in range(kernel):
            for j in range(kernel):
                rows = slice(i, i + stride * (shape[0] - 1) + 1, stride)
                columns = slice(j, j + stride * (shape[1] - 1) + 1, stride)
                whole[:, rows, columns] += grad.astype(float) @ weights[i, j].astype(float).T
        (top, _), (left, _) = edges
        expected = whole[:, top : top + side, left : left + side + 3]
        found = input_gradient(*map(jnp.asarray, (grad, weights)), (side, side + 3), stride, edges)
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < LIMIT, (kernel, stride, side, padding)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_the_convolution_and_its_gradient_by_the_kernel_are_as_they_were(padding):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 20, 21, 3)).astype(np.float32)
    kernel = rng.normal(size=(7, 7, 3, 8)).astype(np.float32)
    edges = (pads(20, 7, 2, padding), pads(21, 7, 2, padding))

    def of(function):
        total = lambda x, kernel: (function(x, kernel, 2, edges) ** 2).sum()
        return jax.jit(lambda x, k: (function(x, k, 2, edges), jax.grad(total, (0, 1))(x, k)))

    found, (by_x, by_kernel) = of(strided_convolve)(x, kernel)
    expected, (x_expected, kernel_expected) = of(convolve)(x, kernel)
    assert (np.asarray(found) == np.asarray(expected)).all()
    assert (np.asarray(by_kernel) == np.asarray(kernel_expected)).all()
    assert np.linalg.norm(by_x - x_expected) < 1e-6 * np.linalg.norm(x_expected)


def test_a_batch_in_bfloat16_keeps_its_type():
    x = jnp.ones((1, 16, 16, 3), jnp.bfloat16)
    kernel = jnp.ones((7, 7, 3, 4), jnp.bfloat16)
    edges = ((3, 3), (3, 3))
    grad = jax.grad(lambda x: strided_convolve(x, kernel, 2, edges).astype(jnp.float32).sum())(x)
    assert grad.dtype == jnp.bfloat16 and grad.shape == x.shape
