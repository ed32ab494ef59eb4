"""A convolution with gradients rewritten for a CPU is XLA's own, and so are its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.models.networks import kernel_gradient
from fgjax.models.networks.convolution import convolve
from fgjax.models.networks.cpu_convolution import convolve_on_cpu
from fgjax.models.networks.layers import pads


@pytest.mark.parametrize("channels", [3, 6])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_it_and_its_gradients_are_as_they_were(padding, channels, monkeypatch):
    """Three channels: the gradient by the image is rewritten. Six: that by the kernel."""
    monkeypatch.setattr(kernel_gradient, "pays", lambda shape: shape[2] > kernel_gradient.FEW)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 20, 21, channels)).astype(np.float32)
    kernel = rng.normal(size=(7, 7, channels, 8)).astype(np.float32)
    edges = (pads(20, 7, 2, padding), pads(21, 7, 2, padding))

    def of(function):
        total = lambda x, kernel: (function(x, kernel, 2, edges) ** 2).sum()
        return jax.jit(lambda x, k: (function(x, k, 2, edges), jax.grad(total, (0, 1))(x, k)))

    found, gradients = of(convolve_on_cpu)(x, kernel)
    expected, wanted = of(convolve)(x, kernel)
    assert (np.asarray(found) == np.asarray(expected)).all()
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert np.linalg.norm(ours - theirs) < 1e-6 * np.linalg.norm(theirs)


@pytest.mark.slow
def test_a_batch_in_bfloat16_keeps_its_type(monkeypatch):
    monkeypatch.setattr(kernel_gradient, "pays", lambda shape: True)
    x = jnp.ones((1, 16, 16, 3), jnp.bfloat16)
    kernel = jnp.ones((7, 7, 3, 4), jnp.bfloat16)
    total = lambda *given: convolve_on_cpu(*given, 2, ((3, 3), (3, 3))).astype(jnp.float32).sum()
    for grad, of in zip(jax.grad(total, (0, 1))(x, kernel), (x, kernel), strict=True):
        assert grad.dtype == jnp.bfloat16 and grad.shape == of.shape
