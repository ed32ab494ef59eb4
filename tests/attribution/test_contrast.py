"""A contrast is a model of its own: every method explains the difference of two classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

import fgjax
from fgjax.attribution.contrast import contrast, similar_classes

SIDE, CLASSES = 8, 4


class Features:
    """A linear model with a feature map, as CAM methods want it."""

    def __init__(self, weights, head):
        self.weights, self.matrix = weights, head

    def features(self, images):
        return images @ self.weights

    def head(self, features):
        return features.mean((1, 2)) @ self.matrix

    def __call__(self, images):
        return self.head(self.features(images))


jax.tree_util.register_pytree_node(
    Features, lambda m: ((m.weights, m.matrix), None), lambda _, parts: Features(*parts)
)


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    return Features(
        rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=(5, CLASSES)).astype(np.float32)
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(size=(1, SIDE, SIDE, 3)).astype(np.float32)


def logits(model, images):
    """In NumPy, float64."""
    return (images.astype(np.float64) @ model.weights).mean((1, 2)) @ model.matrix


@pytest.mark.parametrize("others", [(), (2,), (0, 2, 3)])
def test_the_contrast_is_the_log_odds(model, images, others):
    z = logits(model, images)[0]
    expected = z[1] - (z[list(others)].mean() if others else 0)
    out = np.asarray(contrast(model, 1, others)(jnp.asarray(images)))
    np.testing.assert_allclose(out[0], [expected, 0], rtol=1e-5, atol=1e-7)
    p = np.asarray(jax.nn.softmax(out))[0, 0]
    assert p == pytest.approx(expit(expected), rel=1e-5)
    odds = fgjax.log_odds(jnp.asarray(out), jnp.zeros(1, jnp.int32))
    assert float(odds[0]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_gradient_is_that_of_the_difference(model, images):
    """Of a linear model it is known: the same at every pixel."""
    difference = (model.weights @ (model.matrix[:, 1] - model.matrix[:, 2])) / SIDE**2
    both = contrast(model, 1, (2,))
    found = jax.grad(lambda x: both(x)[0, 0])(jnp.asarray(images))
    expected = np.broadcast_to(difference, images.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_a_camera_of_features_sees_the_difference(model, images):
    """Grad-CAM's channel weights are those of the difference of the two classes."""
    zero = jnp.zeros(1, jnp.int32)
    both = contrast(model, 1, (2,))
    features = both.features(jnp.asarray(images))
    np.testing.assert_array_equal(features, model.features(jnp.asarray(images)))
    np.testing.assert_allclose(both.head(features), both(jnp.asarray(images)), rtol=1e-6)
    heat = np.asarray(fgjax.grad_cam(both, jnp.asarray(images), zero).heatmap)[0]
    weights = model.matrix[:, 1] - model.matrix[:, 2]
    raw = np.maximum((images.astype(np.float64) @ model.weights)[0] @ weights, 0)
    assert np.corrcoef(raw.ravel(), heat.ravel())[0, 1] > 0.999


def test_another_pair_is_the_same_program(model, images):
    traced = []

    def counted(x):
        traced.append(1)
        return x.mean((1, 2)) @ model.matrix[:3]

    plain = jax.tree_util.Partial(counted)
    zero = jnp.zeros(1, jnp.int32)
    config = fgjax.OcclusionConfig()
    maps = [
        fgjax.occlusion(contrast(plain, c, (b,)), jnp.asarray(images), zero, config=config).heatmap
        for c, b in ((0, 1), (1, 2))
    ]
    before = len(traced)
    fgjax.occlusion(contrast(plain, 2, (0,)), jnp.asarray(images), zero, config=config)
    assert len(traced) == before and not np.array_equal(maps[0], maps[1])


def test_a_class_is_not_its_own_rival(model):
    with pytest.raises(ValueError, match="cannot be told from itself"):
        contrast(model, 1, (2, 1))


def test_similar_classes_are_those_with_like_weights():
    weights = np.array([[1.0, 2.0, 0.0, 1.0], [0.0, 0.2, 3.0, -1.0]])
    assert similar_classes(weights, 0, 2) == (1, 3)
    assert similar_classes(weights, 0, 9) == (1, 3, 2)
