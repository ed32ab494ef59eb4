"""Kernels turned once: the same logits and gradients, by fewer operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
from fgjax.models.networks.layers import TURNED


@pytest.fixture(scope="module")
def pair():
    model = fgjax.create_model("resnet_tiny", 3, size=32)
    return model, model.for_gradients()


@jax.jit
def logits_and_gradient(model, images):
    pull = jax.grad(lambda images: model(images)[:, 1].sum())
    return model(images), pull(images)


def test_logits_and_gradients_stay(pair):
    images = jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 3)), jnp.float32)
    (plain, grad), (turned, found) = (logits_and_gradient(model, images) for model in pair)
    np.testing.assert_allclose(turned, plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, grad, rtol=1e-4, atol=1e-6 * float(jnp.abs(grad).max()))


def test_the_gradient_turns_none(pair):
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    programs = (logits_and_gradient.lower(model, images).compile().as_text() for model in pair)
    plain, turned = (program.count(" reverse(") for program in programs)
    kernels = len(jax.tree.leaves(pair[1].variables[TURNED]))
    assert kernels > 0 and turned < plain


def test_weights_stay_as_they_were(pair):
    plain, turned = pair
    assert TURNED not in plain.variables
    for a, b in zip(jax.tree.leaves(plain.variables["params"]),
                    jax.tree.leaves(turned.variables["params"]), strict=True):  # fmt: skip
        np.testing.assert_array_equal(a, b)
