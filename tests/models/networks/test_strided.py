"""The rewritten gradients by the image of a convolution are that of double precision."""

import jax.numpy as jnp
import numpy as np
import pytest
from strides import CASES, LIMIT, edges_of

from fgjax.models.networks.cpu_convolution import turn, turned_gradient
from fgjax.models.networks.strided import input_gradient


@pytest.mark.slow
def test_the_gradient_by_the_image_is_that_of_double_precision():
    """Many sides, kernels, strides and paddings; the reference sums in float64."""
    rng = np.random.default_rng(0)
    for case, (kernel, stride, side, padding) in enumerate(CASES):
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
        where = ((side, side + 3), stride, edges)
        ways = [input_gradient(*map(jnp.asarray, (grad, weights)), *where)]
        if case % 4 == 0:
            ways.append(turned_gradient(jnp.asarray(grad), turn(jnp.asarray(weights)), *where))
        for found in ways:
            error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            assert error < LIMIT, (kernel, stride, side, padding)
