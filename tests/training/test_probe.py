"""The linear classifier is the optimum; neighbours vote as written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.training.probe import fit_linear, neighbour_votes


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    scale = np.array([1.0, 50.0, 0.01, 1.0])
    features = (rng.normal(size=(60, 4)) + np.eye(4)[labels]) * scale + 3
    features[:, 3] = 7  # one that never changes
    return features.astype(np.float32), labels


@pytest.mark.parametrize("penalty", [0.1, 1e-3])
def test_no_direction_makes_the_loss_smaller(data, penalty):
    """The loss is convex: where its gradient, by JAX, is zero is its minimum."""
    features, labels = data
    found = fit_linear(features, labels, 3, penalty)
    mean, std = features.mean(0), features.std(0)
    std[3] = 1

    def loss(kernel, bias):
        logits = jnp.asarray((features - mean) / std) @ kernel + bias[None]
        fit = -jax.nn.log_softmax(logits)[jnp.arange(60), jnp.asarray(labels)].mean()
        return fit + penalty / 2 * (kernel**2).sum()

    inner = (found.kernel * std[:, None], found.bias + mean @ found.kernel)
    slopes = jax.jit(jax.grad(loss, argnums=(0, 1)))(*map(jnp.asarray, inner))
    assert max(float(np.abs(s).max()) for s in slopes) < 1e-3
    assert np.abs(inner[0]).max() > 0.1
    again = fit_linear(features, labels, 3, penalty, start=fit_linear(features, labels, 3, 1.0))
    np.testing.assert_allclose(again(features), found(features), atol=0.02)


def test_a_large_penalty_leaves_the_classes_shares(data):
    features, labels = data
    found = fit_linear(features[:45], np.minimum(labels[:45], 1), 2, 1e6)
    p = np.exp(found(features[:1]))
    np.testing.assert_allclose((p / p.sum())[0], [1 / 3, 2 / 3], atol=1e-3)


def test_votes_by_hand():
    known = np.array([[1, 0], [0, 2], [3, 3], [-1, 0]], np.float32)
    votes = neighbour_votes(
        np.array([[5, 0]], np.float32), known, np.array([0, 1, 1, 0]), 3, 3, 0.5
    )
    expected = [[np.exp(1 / 0.5), np.exp(0.5**0.5 / 0.5) + 1, 0]]
    np.testing.assert_allclose(votes, expected, rtol=1e-5)
    few = neighbour_votes(known[:1], known[:2], np.array([2, 1]), 3, 20, 0.5)
    assert few.argmax() == 2  # fewer are known than may vote
