"""The occurrence loss against SciPy: convolution, Beta quantiles, Wasserstein distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import signal, stats

import fgjax
from fgjax.training.objectives.part_occurrence import (
    part_occurrence,
    part_occurrence_loss,
    prior_quantiles,
    wasserstein_distance,
)

PRIORS = [(1.0, 1e-3), (2e-3, 1e-3), (1.0, 1.0), (0.5, 0.5)]


def assignments(n=6, h=7, w=8, k=4, seed=0, sharpness=3.0):
    rng = np.random.default_rng(seed)
    q = np.exp(sharpness * rng.normal(size=(n, h, w, k)))
    return (q / q.sum(-1, keepdims=True)).astype(np.float32)


def scipy_occurrence(q, radius=2, std=0.4):
    axis = np.arange(-radius, radius + 1)
    kernel = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * std**2))
    kernel /= kernel.sum()
    q = q.astype(np.float64)
    blurred = [
        [signal.convolve2d(q[i, ..., k], kernel, "valid").max() for k in range(q.shape[-1])]
        for i in range(len(q))
    ]
    return np.array(blurred)


def scipy_loss(q, alpha, beta, eps=1e-5, **window):
    t = np.sort(scipy_occurrence(q, **window), axis=0)
    n = len(t)
    places = (2 * np.arange(1, n + 1) - 1) / (2 * n)
    prior = stats.beta.ppf(places, alpha, beta)
    return np.abs(np.log(t + eps) - np.log(prior + eps)[:, None]).mean()


@pytest.mark.parametrize("window", [{}, {"radius": 1, "std": 1.0}])
def test_occurrence_is_scipy_s_convolution(window):
    q = assignments()
    wanted = scipy_occurrence(q, **window)
    np.testing.assert_allclose(part_occurrence(jnp.asarray(q), **window), wanted, atol=1e-6)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("window", [{}, {"radius": 1, "std": 1.0}])
def test_the_loss_is_equation_2(prior, window):
    q = assignments()
    found = fgjax.part_occurrence_loss(jnp.asarray(q), *prior, **window)
    np.testing.assert_allclose(found, scipy_loss(q, *prior, **window), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prior", PRIORS)
def test_without_the_logarithm_it_is_scipy_s_wasserstein_distance(prior):
    """And with it that of the logarithms: they keep the order."""
    t = part_occurrence(jnp.asarray(assignments()))
    prior = prior_quantiles(len(t), *prior)
    for values, quantiles in ((t, prior), (jnp.log(t + 1e-5), np.log(prior + np.float32(1e-5)))):
        wanted = [stats.wasserstein_distance(column, quantiles) for column in np.asarray(values).T]
        found = wasserstein_distance(values, quantiles)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prior", PRIORS[:2])
def test_gradients_are_finite_differences(prior):
    logits = jnp.asarray(np.random.default_rng(3).normal(size=(3, 5, 6, 2)), jnp.float32)

    def loss(logits):
        return part_occurrence_loss(jax.nn.softmax(logits), *prior)

    # Nothing is at a tie here, so the loss is smooth.
    check_grads(jax.jit(loss), (logits,), 1, ["rev"], atol=1e-3, rtol=1e-2, eps=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("prior", [*PRIORS, (1e-3, 1e-3), (1e-3, 1.0)])
@pytest.mark.parametrize("case", ["one image", "one part", "all equal", "never there"])
def test_extremes_are_finite(dtype, prior, case):
    q = jnp.asarray(assignments(k=2), dtype)
    if case == "one image":
        q = q[:1]
    elif case == "one part":
        q = jnp.ones_like(q[..., :1])
    elif case == "all equal":
        q = jnp.full_like(q, 0.5)
    elif case == "never there":
        q = jnp.zeros_like(q).at[..., 1].set(1)
    value, grad = jax.value_and_grad(lambda q: part_occurrence_loss(q, *prior))(q)
    assert np.isfinite(value) and value >= 0
    assert np.isfinite(grad.astype(jnp.float32)).all()


def test_a_part_that_is_always_there_costs_nothing_with_the_birds_prior():
    seen = jnp.zeros((8, 6, 6, 2)).at[..., 0].set(1)
    always = part_occurrence_loss(seen[..., :1], 1.0, 1e-3)
    never = part_occurrence_loss(seen[..., 1:], 1.0, 1e-3)
    assert float(always) < 1e-3 and float(never) > 10
    # A part that is never there still feels a pull: what the logarithm is for.
    grad = jax.grad(lambda q: part_occurrence_loss(q, 1.0, 1e-3))(seen[..., 1:])
    assert float(grad.min()) < -1e3


def test_wrong_settings_are_told():
    q = jnp.asarray(assignments())
    with pytest.raises(ValueError, match=r"alpha=0.*both above 0"):
        part_occurrence_loss(q, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"4x8 are smaller than the window of 5x5 \(radius 2\)"):
        part_occurrence_loss(q[:, :4], 1.0, 1.0)
