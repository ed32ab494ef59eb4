"""How many calls are on their way, by results that note when they are waited for."""

from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from fgjax.attribution import CONFIGS
from fgjax.attribution.common import perturbation
from fgjax.attribution.common.perturbation import ask, perturbed_scores
from fgjax.devices import in_flight
from fgjax.devices.in_flight import InFlight, calls_at_a_time
from toys import linear


class Result:
    """What a call returns: notes in a list that it was waited for."""

    def __init__(self, number, waited):
        self.number, self.waited = number, waited

    def block_until_ready(self):
        self.waited.append(self.number)
        return self


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_more_are_on_their_way_than_may_be(most):
    waited, sent = [], InFlight(most)
    for number in range(6):
        sent.add((Result(number, waited),))
        assert waited == list(range(number + 2 - most))  # the oldest first, and none too early


def test_one_at_a_time_on_a_cpu(monkeypatch):
    assert calls_at_a_time(jnp.zeros(1)) == 1
    monkeypatch.setattr(in_flight, "on_cpu", lambda *trees: False)
    assert calls_at_a_time(jnp.zeros(1)) == 2


class Featured:
    """A linear model with a grid of features, for Score-CAM."""

    def features(self, images):
        return images[:, ::2, ::2] * jnp.arange(1.0, 4).reshape(1, 1, 1, 3)

    def head(self, features):
        return features.mean((1, 2)) * 3

    def __call__(self, images):
        return self.head(self.features(images))


@pytest.mark.parametrize(
    ("file", "method", "changes"),
    [
        ("gradients", "smooth_gradient", {"samples": 5}),
        ("path_integral", "integrated_gradients", {"steps": 5}),
        ("score_cam", "score_cam", {}),
    ],
)
def test_two_on_their_way_change_nothing(monkeypatch, file, method, changes):
    module = import_module(f"fgjax.attribution.{file}")
    rng = np.random.default_rng(0)
    images, targets = rng.random((2, 8, 8, 3), np.float32), np.array([0, 2])
    explain = getattr(module, method)
    config = CONFIGS[method](chunk_size=2, **changes)
    options = dict(key=jax.random.key(0), config=config)
    one = explain(Featured(), images, targets, **options)
    counted = []
    monkeypatch.setattr(module, "InFlight", lambda most: counted.append(most) or InFlight(most))
    monkeypatch.setattr(module, "calls_at_a_time", lambda *trees: 2)
    two = explain(Featured(), images, targets, **options)
    assert counted == [2]
    for ours, theirs in zip(jax.tree.leaves(two), jax.tree.leaves(one), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def _shaded(images, own, shared, index):
    return images[:, None] * jnp.linspace(0.0, 1.0, 7)[index][None, :, None, None, None]


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 7, 16])
def test_scores_are_joined_without_the_host(chunk_size):
    """Traced, no value is there that Python could look at. A linear model's scores are known."""
    rng = np.random.default_rng(1)
    images, weights = rng.random((3, 4, 4, 3), np.float32), rng.random((4, 4, 2), np.float32)
    question = ask(Partial(linear, jnp.asarray(weights)), images, np.array([0, 1, 1]), "logit")

    @jax.jit
    def traced(images):
        asked = perturbation.Question(
            question.arrays, question.static, images, question.targets, question.score
        )
        return perturbed_scores(asked, _shaded, 7, chunk_size=chunk_size)

    whole = np.einsum("nhwc,hwk->nk", images, weights) / 3
    expected = whole[np.arange(3), [0, 1, 1]][:, None] * np.linspace(0, 1, 7)[None]
    found = perturbed_scores(question, _shaded, 7, chunk_size=chunk_size)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(traced(images), expected, rtol=1e-4)
