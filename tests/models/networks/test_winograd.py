"""The gradient by a 3x3 kernel in Winograd's form is that of double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.models.networks import kernel_gradient, winograd
from fgjax.models.networks.convolution import convolve
from fgjax.models.networks.cpu_convolution import convolve_on_cpu

ERRORS = {2: 1e-6, 3: 3e-6, 4: 6e-6}
"""Of the gradient's norm, by the side of the squares: half as much again as the module tells."""


@pytest.mark.parametrize("tile", winograd.TILES)
def test_the_matrices_give_correlations_in_fewer_products(tile):
    rng = np.random.default_rng(tile)
    pixels, grads = rng.normal(size=tile + 2), rng.normal(size=tile)
    b, g, a = winograd.matrices(tile)
    assert len(b) == len(g) == tile + 2  # products, of 3 * tile
    expected = np.correlate(pixels, grads, "valid")
    np.testing.assert_allclose(a @ ((g @ grads) * (b @ pixels)), expected, atol=1e-12)


def test_two_gradients_take_the_matrices_of_lavin_and_gray():
    """The paper's F(3x3, 2x2), but for signs, which cancel: the test above is of these."""
    b, g, a = winograd.matrices(2)
    np.testing.assert_allclose(np.abs(g), [[1, 0], [0.5, 0.5], [0.5, 0.5], [0, 1]])
    np.testing.assert_allclose(np.abs(b), [[1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 0, 1]])
    np.testing.assert_allclose(a, [[1, 1, 1, 0], [0, 1, -1, 0], [0, 1, 1, 1]])


@pytest.mark.parametrize("tile", winograd.TILES)
@pytest.mark.parametrize("edges", [((1, 1), (1, 1)), ((0, 2), (1, 0)), ((0, 0), (0, 0))])
def test_it_is_that_of_double_precision(tile, edges):
    """A height and a width that squares do not fill; the reference sums in float64."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 11, 14, 5)).astype(np.float32)
    wide = np.pad(x.astype(float), ((0, 0), *edges, (0, 0)))
    height, width = wide.shape[1] - 2, wide.shape[2] - 2
    grad = rng.normal(size=(3, height, width, 6)).astype(np.float32)
    expected = np.array([
        [
            np.einsum("nabc,nabd->cd", wide[:, i : i + height, j : j + width], grad.astype(float))
            for j in range(3)
        ]
        for i in range(3)
    ])  # fmt: skip
    gradient = jax.jit(winograd.kernel_gradient, static_argnums=(2, 3))
    found = gradient(jnp.asarray(x), jnp.asarray(grad), edges, tile)
    assert found.shape == (3, 3, 5, 6)
    assert np.linalg.norm(found - expected) < ERRORS[tile] * np.linalg.norm(expected)


def test_the_squares_are_as_large_as_the_image_is_worth():
    """Of many pixels the largest; of few the matrices put together at the end cost more."""
    assert winograd.best_tile(8, 56, 56) == 4
    assert winograd.best_tile(8, 7, 7) == 2
    assert winograd.best_tile(32, 3, 3) == 3  # one square an image, none of it wasted
    assert winograd.best_tile(1, 2, 2) is None


def test_a_convolution_on_a_cpu_takes_it(monkeypatch):
    """Gradients are XLA's own, and the products are those of squares."""
    monkeypatch.setattr(kernel_gradient, "pays", lambda shape: True)
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(4, 12, 12, 6)).astype(np.float32))
    kernel = jnp.asarray(rng.normal(size=(3, 3, 6, 8)).astype(np.float32))

    def of(function):
        total = lambda kernel: (function(x, kernel, 1, ((1, 1), (1, 1))) ** 2).sum()
        return jax.jit(jax.grad(total))

    found, expected = of(convolve_on_cpu)(kernel), of(convolve)(kernel)
    assert np.linalg.norm(found - expected) < ERRORS[4] * np.linalg.norm(expected)
    tile = winograd.best_tile(4, 12, 12)
    assert tile is not None
    text = str(jax.make_jaxpr(of(convolve_on_cpu))(kernel))
    assert text.count("dot_general[") == tile + 2  # one for each row of products; without, nine


def test_half_precision_takes_nine_products(monkeypatch):
    monkeypatch.setattr(winograd, "kernel_gradient", None)  # not called
    x = jnp.ones((4, 12, 12, 6), jnp.bfloat16)
    found = kernel_gradient.kernel_gradient(x, x, (3, 3), 1, ((1, 1), (1, 1)))
    assert found.dtype == jnp.bfloat16 and found.shape == (3, 3, 6, 6)
