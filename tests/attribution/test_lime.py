"""LIME on a model that is linear in superpixels, where the answer is the coefficients; its
regression against scikit-learn's formula by hand."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.optimize import minimize

from fgjax.attribution.common.perturbation import _scores
from fgjax.attribution.common.superpixels import segment_means, superpixels
from fgjax.attribution.lime import (
    LIME_PRESETS,
    LimeConfig,
    draw_shown,
    fit,
    lime,
    lime_preset,
)
from toys import linear

SIDE = 24
CONFIG = LimeConfig(samples=200, segments=9, ridge=1e-4, infill="zeros", chunk_size=32)
TARGETS = np.array([0, 1, 0])


@pytest.fixture
def weights():
    return np.random.default_rng(1).normal(size=(SIDE, SIDE, 2)).astype(np.float32) / 50


@pytest.fixture
def images():
    """Nine squares of one colour each, other ones in every image."""
    colours = np.random.default_rng(0).random((3, 3, 3, 3)).astype(np.float32)
    return np.repeat(np.repeat(colours, SIDE // 3, 1), SIDE // 3, 2)


def test_superpixels_cover_the_image_and_follow_its_colours(images):
    labels = superpixels(images[0], 9)
    assert labels.shape == (SIDE, SIDE) and labels.dtype == np.int32
    assert set(np.unique(labels)) == set(range(labels.max() + 1)) and 4 <= labels.max() + 1 <= 18
    grey = superpixels(images[0, :, :, :1], 9)  # one channel: no Lab colours
    assert grey.max() > 0


def test_segment_means(images):
    labels = np.zeros((SIDE, SIDE), np.int32)
    labels[:, 12:] = 1
    means = segment_means(images[0], labels)
    np.testing.assert_allclose(means[:, :12], means[:1, :1] + np.zeros((SIDE, 12, 1)), atol=1e-6)
    np.testing.assert_allclose(means[0, 0], images[0, :, :12].mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(means[5, 20], images[0, :, 12:].mean((0, 1)), atol=1e-5)


def test_a_model_linear_in_superpixels_gets_its_coefficients_back(key, weights, images):
    """Of the logit, with a black infill: Σ over the superpixel of weight times brightness."""
    config = replace(CONFIG, score="logit")
    model = Partial(linear, jnp.asarray(weights))
    result = lime(model, images, TARGETS, key=key, config=config)
    for i, target in enumerate(TARGETS):
        labels = np.asarray(result.maps["segments"][i]).astype(int)
        np.testing.assert_array_equal(labels, superpixels(images[i], 9))
        product = (weights[..., target] * images[i].mean(-1)).ravel()
        expected = np.bincount(labels.ravel(), weights=product)[labels]
        np.testing.assert_allclose(result.maps["signed"][i], expected, atol=1e-3)
        positive = np.maximum(expected, 0) / expected.max()
        np.testing.assert_allclose(result.heatmap[i], positive, atol=1e-2)


def test_the_regression_is_the_minimum_of_its_objective():
    rng = np.random.default_rng(2)
    shown, scores = rng.random((30, 4)) < 0.5, rng.random(30)
    z = shown.astype(float)
    distance = 1 - z.sum(1) / (np.sqrt(z.sum(1)) * 2 + 1e-300)  # cosine, to (1, 1, 1, 1)
    weight = np.sqrt(np.exp(-(distance**2) / 0.25**2))

    def objective(x):
        return (weight * (scores - x[4] - z @ x[:4]) ** 2).sum() + 0.7 * (x[:4] ** 2).sum()

    expected = minimize(objective, np.zeros(5), tol=1e-12).x[:4]
    found = fit(shown, scores, kernel_width=0.25, ridge=0.7)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    scores[3] = np.nan
    assert np.isnan(fit(shown, scores, kernel_width=0.25, ridge=0.7)).all()


def test_samples_show_half_of_the_superpixels_and_the_first_all(key):
    shown = np.asarray(draw_shown(key, jnp.arange(1000), jnp.arange(6)))
    assert shown[0].all()
    np.testing.assert_allclose(shown[1:].mean(0), 0.5, atol=0.06)
    more = draw_shown(key, jnp.asarray([7, 3]), jnp.arange(20))
    np.testing.assert_array_equal(more[:, :6], shown[[7, 3]])


@pytest.mark.parametrize("infill", ["segment_mean", "mean", "blur"])
def test_infills(key, weights, images, infill):
    """Each superpixel of one colour has that for its mean: hiding it changes nothing."""
    config = replace(CONFIG, infill=infill, score="logit", segments=40, compactness=0.01)
    model = Partial(linear, jnp.asarray(weights))
    result = lime(model, images[:1], TARGETS[:1], key=key, config=config)
    labels = np.asarray(result.maps["segments"][0]).astype(int)
    pure = np.abs(segment_means(images[0], labels) - images[0]).max() < 1e-3
    if infill == "segment_mean" and pure:
        np.testing.assert_allclose(result.maps["signed"], 0, atol=1e-4)
    else:
        assert np.ptp(result.maps["signed"]) > 0


def brightness(outputs, targets):
    return outputs["left"] * targets


def test_a_score_function(key, images):
    model = lambda x: {"left": x[:, :, :8].mean((1, 2, 3))}
    config = replace(CONFIG, score=brightness)
    result = lime(model, images, np.float32([1, 1, 1]), key=key, config=config)
    assert (result.heatmap[:, :, :6].mean((1, 2)) > 0.3).all()
    assert (np.abs(result.heatmap[:, :, 18:]) < 0.1).all()


@pytest.mark.parametrize("chunk_size", [1, 150, 1000, None])
def test_chunk_and_neighbours_change_nothing(key, weights, images, chunk_size):
    run = partial(lime, Partial(linear, jnp.asarray(weights)))
    small = replace(CONFIG, samples=40)
    expected = run(images, TARGETS, key=key, config=small)
    config = replace(small, chunk_size=chunk_size)
    result = run(images, TARGETS, key=key, config=config)
    np.testing.assert_allclose(result.maps["signed"], expected.maps["signed"], atol=1e-4)
    mine = jax.random.fold_in(key, 2)[None]
    alone = run(images[2:], TARGETS[2:], key=mine, config=config)
    np.testing.assert_allclose(alone.maps["signed"][0], expected.maps["signed"][2], atol=1e-4)


def test_a_nan_spoils_its_own_image_only(key, weights, images):
    def model(x):
        return jnp.where(x[:, 0, 0, :1] > 0.9, jnp.nan, linear(weights, x))

    images[:, 0, 0] = np.array([0.5, 1.0, 0.5])[:, None]
    for chunk_size in (32, 1000):
        result = lime(
            model, images, TARGETS, key=key, config=replace(CONFIG, chunk_size=chunk_size)
        )
        for map_ in (result.heatmap, result.maps["signed"]):
            assert np.isnan(map_[1]).all() and np.isfinite(map_[np.array([0, 2])]).all()


def test_one_program_for_all_weights_images_and_keys(key, weights, images):
    run = partial(lime, targets=TARGETS, config=CONFIG)
    run(Partial(linear, jnp.asarray(weights)), images, key=key)
    so_far = _scores._cache_size()
    run(Partial(linear, jnp.asarray(weights / 2)), images[:, ::-1], key=jax.random.key(3))
    assert _scores._cache_size() == so_far


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(samples=0), "samples=0: must be at least 1"),
        (dict(segments=0), "segments=0"),
        (dict(chunk_size=0), "chunk_size=0"),
        (dict(kernel_width=0.0), "kernel_width=0.0: must be above 0"),
        (dict(ridge=0.0), "ridge=0.0"),
        (dict(compactness=-1.0), "compactness=-1.0"),
        (dict(infill="means"), "Did you mean mean"),
        (dict(score="logits"), "Did you mean logit"),
    ],
)
def test_settings_that_make_no_sense(change, words, untyped):
    with pytest.raises(ValueError, match=words):
        LimeConfig(**change)


def test_presets():
    assert lime_preset("default") == LimeConfig()
    for name in LIME_PRESETS:
        lime_preset(name)
    assert lime_preset("lime-image", segments=30).segments == 30
