"""Scores against SciPy, and where probabilities round to 0 and 1."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from fgjax.attribution.common.scores import leaking_log_odds, log_odds


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 5)) * 3, rng.integers(0, 5, 6)


def test_log_odds_is_the_log_of_the_odds(case):
    logits, targets = case
    p = softmax(logits, axis=1)[np.arange(6), targets]
    result = log_odds(jnp.asarray(logits, jnp.float32), jnp.asarray(targets, jnp.int32))
    np.testing.assert_allclose(result, np.log(p / (1 - p)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", [0, 1, 2])
def test_log_odds_stays_exact_when_p_rounds_to_one(target):
    logits = np.array([[80.0, -70.0, 3.0]])
    others = np.delete(logits[0], target)
    result = log_odds(jnp.asarray(logits, jnp.float32), jnp.asarray([target]))
    np.testing.assert_allclose(result, [logits[0, target] - logsumexp(others)], rtol=1e-6)
    assert np.abs(result[0]) > 70  # softmax in float32 is exactly 1 or 0 here


def test_log_odds_of_two_classes_is_the_difference_of_logits():
    result = log_odds(jnp.asarray([[3.0, 1.5], [0.0, -40.0]]), jnp.asarray([0, 1]))
    np.testing.assert_allclose(result, [1.5, -40.0])


def test_leaking_score_is_its_formula_and_saturates(case):
    logits, targets = case
    p = softmax(logits, axis=1)[np.arange(6), targets]
    result = leaking_log_odds(jnp.asarray(logits, jnp.float32), jnp.asarray(targets, jnp.int32))
    np.testing.assert_allclose(result, np.log(p) - np.log(2 - p), rtol=1e-4, atol=1e-5)
    sure = leaking_log_odds(jnp.asarray([[50.0, 0.0], [60.0, 0.0]]), jnp.asarray([0, 0]))
    np.testing.assert_allclose(sure, 0, atol=1e-6)


def test_leaking_score_is_the_sum_with_the_target_multiplied_by_zero(case):
    """Where the formula comes from: exp(0 · log p(c)) = 1 stays in the sum over classes."""
    logits, targets = case
    log_p = np.log(softmax(logits, axis=1))
    keep = 1 - np.eye(5)[targets]
    rows = np.arange(6)
    by_hand = log_p[rows, targets] - logsumexp(log_p * keep, axis=1)
    result = leaking_log_odds(jnp.asarray(logits, jnp.float32), jnp.asarray(targets, jnp.int32))
    np.testing.assert_allclose(result, by_hand, rtol=1e-4, atol=1e-5)


def test_one_class_has_no_odds():
    with pytest.raises(ValueError, match="at least two classes"):
        log_odds(jnp.zeros((3, 1)), jnp.zeros(3, jnp.int32))
