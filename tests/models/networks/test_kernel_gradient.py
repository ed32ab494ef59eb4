"""The gradient by a kernel, as products of matrices, is that of double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from strides import CASES, LIMIT, edges_of

from fgjax.models.networks.dense import flat_product
from fgjax.models.networks.kernel_gradient import kernel_gradient


@pytest.mark.slow
def test_it_is_that_of_double_precision():
    """Many sides, kernels, strides and paddings; the reference sums in float64."""
    rng = np.random.default_rng(0)
    for kernel, stride, side, padding in CASES[2::5]:  # each kernel, stride, side and padding
        edges = edges_of(side, kernel, stride, padding)
        x = rng.normal(size=(2, side, side + 3, 3)).astype(np.float32)
        rows, columns = ((n + sum(e) - kernel) // stride + 1 for n, e in zip(x.shape[1:3], edges))
        grad = rng.normal(size=(2, rows, columns, 8)).astype(np.float32)
        wide = np.pad(x.astype(float), ((0, 0), *edges, (0, 0)))
        expected = np.zeros((kernel, kernel, 3, 8))
        for a in range(rows):
            for b in range(columns):
                seen = wide[:, a * stride : a * stride + kernel, b * stride : b * stride + kernel]
                expected += np.einsum("nklc,nd->klcd", seen, grad[:, a, b].astype(float))
        found = kernel_gradient(jnp.asarray(x), jnp.asarray(grad), (kernel,) * 2, stride, edges)
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < 2 * LIMIT, (kernel, stride, side, padding)


def test_a_dense_layer_of_many_axes_copies_nothing_for_its_gradient():
    x, kernel = jnp.ones((2, 3, 5, 4)), jnp.arange(24.0).reshape(4, 6)
    np.testing.assert_allclose(flat_product(x, kernel, None), x @ kernel)
    total = lambda kernel: (flat_product(x, kernel, None) ** 2).sum()
    program = jax.make_jaxpr(jax.grad(total))(kernel)
    products = [e for e in program.eqns if e.primitive.name == "dot_general"]
    assert products and all(v.aval.ndim == 2 for e in products for v in e.invars)
