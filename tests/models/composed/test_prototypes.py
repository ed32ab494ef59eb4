"""Prototypes: distances, similarity and projection against loops; the network's parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
from fgjax.devices.forward import compiled
from fgjax.models.composed.prototypes import (
    log_similarity,
    project,
    prototype_classes,
    squared_distances,
)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((6, 16, 16, 3), np.float32))


activations_of = jax.jit(lambda m, x: m.activations(x))
features_of = jax.jit(lambda m, x: m.features(x))


@pytest.fixture(scope="module")
def model():
    return fgjax.create_model("prototypes", 3, backbone="toys:MICRO", per_class=2, channels=4)


def test_squared_distances_are_differences_squared():
    rng = np.random.default_rng(1)
    z, p = (rng.normal(size=s).astype(np.float32) for s in [(2, 3, 4, 5), (6, 5)])
    expected = np.square(z[..., None, :] - p).sum(-1)
    np.testing.assert_allclose(squared_distances(z, p), expected, atol=1e-4)


def test_log_similarity_is_high_when_near():
    near, far = log_similarity(jnp.asarray([0.0, 1e6]))
    assert float(near) == pytest.approx(np.log(1e4), rel=1e-5) and float(far) < 1e-5
    assert float(log_similarity(jnp.asarray(1.0))) == pytest.approx(np.log(2 / 1.0001), rel=1e-5)


def test_logits_are_the_best_similarities_weighed(model, images):
    activations = np.asarray(activations_of(model, images))
    assert activations.shape == (6, 8, 8, 6)
    weights = np.full((6, 3), -0.5)
    weights[np.arange(6), prototype_classes(3, 2)] = 1
    expected = activations.max((1, 2)) @ weights
    np.testing.assert_allclose(compiled(model)(images), expected, atol=1e-3)
    head = jax.jit(lambda m, x: m.head(x))
    np.testing.assert_allclose(head(model, features_of(model, images)), expected, atol=1e-3)
    stages = jax.eval_shape(lambda m, x: m.intermediates(x), model, images)
    assert stages["stem"].shape[0] == 6 and stages["features"].shape == (6, 8, 8, 4)


def test_the_cost_of_the_last_layer_is_of_other_classes_weights(model, images):
    kernel = np.arange(18, dtype=np.float32).reshape(6, 3) - 9
    params = {**model.variables["params"], "classifier": {"kernel": jnp.asarray(kernel)}}
    x = model.normalise(images[:1])
    given = {**model.variables, "params": params}
    found = jax.jit(lambda v, x: model.network.apply(v, x, method="compare").others)(given, x)
    own = prototype_classes(3, 2)[:, None] == np.arange(3)[None]
    assert float(found) == pytest.approx(np.abs(kernel[~own]).sum())


def test_projection_moves_each_prototype_onto_the_nearest_patch_of_its_class(model, images):
    labels = np.array([0, 1, 1, 0, 1, 1])  # no image of class 2
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    moved = np.asarray(project(model, batches).variables["params"]["prototypes"])
    features = np.asarray(features_of(model, images))
    before = np.asarray(model.variables["params"]["prototypes"])
    for j, c in enumerate(prototype_classes(3, 2)):
        if c == 2:
            np.testing.assert_array_equal(moved[j], before[j])
            continue
        places = features[labels == c].reshape(-1, 4)
        nearest = places[np.square(places - before[j]).sum(1).argmin()]
        np.testing.assert_allclose(moved[j], nearest, atol=1e-6)


def test_patches_are_where_the_most_active_prototypes_are(model, images):
    found = fgjax.extract_patches(model, images, 2)
    activations = np.asarray(activations_of(model, images))
    best = np.sort(activations.max((1, 2)), axis=1)[:, ::-1][:, :2]
    np.testing.assert_allclose(found.scores, best, rtol=1e-4)
    which = activations.max((1, 2)).argmax(1)
    for i, j in enumerate(which):
        large = np.asarray(jax.image.resize(activations[i, ..., j], (16, 16), "linear"))
        y, x = np.unravel_index(large.argmax(), large.shape)
        x0, y0, x1, y1 = np.asarray(found.boxes[i, 0])
        assert x0 <= x < x1 and y0 <= y < y1
