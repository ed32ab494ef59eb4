"""Scores of a class: NaN stays NaN, in programs compiled as a user's are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from fgjax.attribution.common.perturbation import CLASS_SCORES
from fgjax.core.scores import log_odds
from fgjax.evaluation.faithfulness import target_probability

WEIGHTS = np.random.default_rng(1).normal(size=(10, 14, 3)).astype(np.float32) / 3
LOGITS = np.array([[1.0, -2.0, 0.5], [np.nan] * 3, [0.2, np.nan, 1.0]], np.float32)
TARGETS = np.array([0, 1, 2], np.int32)


@pytest.fixture(scope="module", autouse=True)
def polished():
    """XLA's optimisation is what makes finite numbers of NaN."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize("name", ["probability", "log_probability", "log_odds", "target"])
def test_an_image_with_a_nan_has_no_score(name):
    score = {"target": target_probability, "log_odds": log_odds}.get(name) or CLASS_SCORES[name]
    found = np.asarray(jax.jit(score)(jnp.asarray(LOGITS), jnp.asarray(TARGETS)))
    assert np.isnan(found[1:]).all()
    row = LOGITS[0].astype(np.float64)
    p = softmax(row)[0]
    expected = {"log_probability": log_softmax(row)[0], "log_odds": np.log(p / (1 - p))}.get(
        name, p
    )
    assert found[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["probability", "log_probability", "log_odds", "target"])
def test_a_model_that_breaks_on_some_images(name):
    """Fused with its model, a softmax of NaN is finite (jax 0.10.2 on a CPU)."""
    score = {"target": target_probability, "log_odds": log_odds}.get(name) or CLASS_SCORES[name]
    images = np.random.default_rng(0).random((3, 10, 14, 3), np.float32)
    images[:, 0, 0, 0] = [0.5, 1.0, 0.5]

    def scored(images, targets):
        logits = jnp.einsum("nhwc,hwk->nk", images, WEIGHTS)
        return score(jnp.where(images[:, 0, 0, :1] > 0.6, jnp.nan, logits), targets)

    found = np.asarray(jax.jit(scored)(images, TARGETS))
    assert np.isnan(found).tolist() == [False, True, False]
