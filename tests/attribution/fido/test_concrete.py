"""Masks against Eqs. 5 and 8 in NumPy, their mean, their gradient and their extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

try:
    from jax import enable_x64
except ImportError:  # before jax 0.8
    from jax.experimental import enable_x64

from fgjax.attribution.fido.concrete import concrete_dropout, simplified_concrete_dropout

TEMPERATURES = [0.05, 0.1, 0.5, 1.0, 5.0]


def original(key, logits, *args, **options):
    return concrete_dropout(key, jax.nn.sigmoid(logits), *args, **options)


SAMPLERS = [simplified_concrete_dropout, original]


@pytest.fixture
def logits():
    return jnp.linspace(-5, 5, 60, dtype=jnp.float32).reshape(10, 6)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_samplers_agree_for_the_same_key(key, logits, temperature):
    simple = simplified_concrete_dropout(key, logits, temperature, 8)
    detour = concrete_dropout(key, jax.nn.sigmoid(logits), temperature, 8)
    # θ near 1 is rounded to 6e-8; log(θ / (1 - θ)) and 1/t magnify that.
    np.testing.assert_allclose(simple, detour, atol=1e-5 / temperature)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_equation_5_in_float64(key, logits, temperature):
    z = concrete_dropout(key, jax.nn.sigmoid(logits), temperature, 4)
    noise = np.asarray(jax.random.logistic(key, (4, 10, 6)), np.float64)
    eta = 1 / (1 + np.exp(-noise))  # a logistic draw is log(η / (1 - η)) of a uniform η
    theta = expit(np.asarray(logits, np.float64))[None]
    inner = np.log(theta) - np.log(1 - theta) + np.log(eta) - np.log(1 - eta)
    np.testing.assert_allclose(z, expit(inner / temperature), atol=1e-5 / temperature)


def test_noise_is_uniform_before_the_logit(key):
    """With ϑ = 0 and t = 1 the mask is η itself."""
    eta = np.sort(np.ravel(simplified_concrete_dropout(key, jnp.zeros(20_000), 1.0, 1)))
    np.testing.assert_allclose(eta, (np.arange(20_000) + 0.5) / 20_000, atol=0.015)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_hard_masks_have_the_rate_theta(key, sampler):
    """z > 1/2 exactly when the logit plus logistic noise is positive: probability θ."""
    theta = np.array([0.02, 0.3, 0.5, 0.9])
    logits = jnp.asarray(np.log(theta / (1 - theta)), jnp.float32)
    rate = (sampler(key, logits, 0.1, 20_000) > 0.5).mean(0)
    np.testing.assert_allclose(rate, theta, atol=0.012)  # over three standard errors


def test_gradient_is_z_one_minus_z_over_t(key):
    with enable_x64(True):
        logits = jnp.linspace(-3.0, 3.0, 7, dtype=jnp.float64)
        for t in (0.1, 1.0, 3.0):
            total = lambda v, t=t: simplified_concrete_dropout(key, v, t, 5).sum()
            z = simplified_concrete_dropout(key, logits, t, 5)
            gradient = jax.grad(total)(logits)
            np.testing.assert_allclose(gradient, (z * (1 - z) / t).sum(0), rtol=1e-9)
            h = 1e-6
            for i in range(7):
                up, down = logits.at[i].add(h), logits.at[i].add(-h)
                difference = (total(up) - total(down)) / (2 * h)
                np.testing.assert_allclose(gradient[i], difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_extreme_logits_give_hard_masks_and_finite_gradients(key, sampler, temperature):
    logits = jnp.asarray([-200, -100, -50, 50, 100, 200], jnp.float32)
    z, gradient = jax.value_and_grad(lambda v: sampler(key, v, temperature, 16).mean())(logits)
    assert np.isfinite(z) and np.isfinite(gradient).all()
    masks = sampler(key, logits, temperature, 16)
    np.testing.assert_allclose(masks[:, :3], 0, atol=1e-3)
    np.testing.assert_allclose(masks[:, 3:], 1, atol=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_antithetic_pairs_sum_to_one_at_even_odds(key, sampler):
    z = sampler(key, jnp.zeros((3, 5)), 0.7, 6, antithetic=True)
    np.testing.assert_allclose(z[:3] + z[3:], 1, atol=1e-6)
    assert np.abs(z[:3] - 0.5).min() > 1e-4  # they are draws, not all one half
    np.testing.assert_array_equal(z[:3], sampler(key, jnp.zeros((3, 5)), 0.7, 3))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_antithetic_needs_pairs(key, sampler):
    with pytest.raises(ValueError, match="even, got 3"):
        sampler(key, jnp.zeros(4), 1.0, 3, antithetic=True)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 5)])
def test_shape_and_determinism(key, sampler, shape):
    z = sampler(key, jnp.zeros(shape), 1.0, 7)
    assert z.shape == (7, *shape) and z.dtype == jnp.float32
    np.testing.assert_array_equal(z, sampler(key, jnp.zeros(shape), 1.0, 7))
    other = sampler(jax.random.key(1), jnp.zeros(shape), 1.0, 7)
    assert np.abs(z - other).max() > 0.01
