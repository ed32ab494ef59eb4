"""Maps of another class: what shows the image alone is told from what asks the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from fgjax.evaluation import random_logit

SIDE, CLASSES, COUNT = 12, 4, 40
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(SIDE, SIDE, CLASSES)), jnp.float32)
    images = jnp.asarray(rng.random((COUNT, SIDE, SIDE, 3)), jnp.float32)
    model = jax.tree_util.Partial(lambda w, x: jnp.einsum("nhwc,hwk->nk", x, w), weights)
    return model, weights, images, jnp.arange(COUNT, dtype=jnp.int32) % CLASSES


@pytest.mark.slow
def test_it_is_the_correlation_of_the_two_classes_maps(case):
    model, weights, images, targets = case
    explain = lambda model, images, targets: jnp.moveaxis(weights, -1, 0)[targets]
    found = random_logit(explain, model, images, targets, key=KEY)
    others = np.asarray(found.others)
    assert (others != np.asarray(targets)).all() and set(others) == set(range(CLASSES))
    for i in range(8):
        pair = (np.asarray(weights[..., int(t)]).ravel() for t in (targets[i], others[i]))
        assert found.rank_correlation[i] == pytest.approx(spearmanr(*pair).statistic, abs=1e-5)
    # An image's class is drawn by its own key.
    again = random_logit(explain, model, images[1:2], targets[1:2],
                         key=jax.random.fold_in(KEY, 1)[None])  # fmt: skip
    assert again.others[0] == others[1]


def test_a_map_that_shows_the_image_is_caught(case):
    model, _, images, targets = case
    found = random_logit(lambda m, x, t: x.mean(-1), model, images, targets, key=KEY)
    np.testing.assert_allclose(found.rank_correlation, 1, atol=1e-5)
    np.testing.assert_allclose(found.ssim, 1, atol=1e-5)
    constant = random_logit(lambda m, x, t: 0 * x[..., 0], model, images, targets, key=KEY)
    assert np.isnan(constant.rank_correlation).all()


def test_one_class_has_no_other(case):
    _, _, images, targets = case
    with pytest.raises(ValueError, match="one class only"):
        random_logit(lambda *a: None, lambda x: x.mean((1, 2, 3))[:, None], images, 0 * targets,
                     key=KEY)  # fmt: skip
