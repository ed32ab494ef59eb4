"""RISE: its masks against scikit-image's enlargement, its maps against NumPy over the same
masks, its expectation on a linear model, and when it stops."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.special import expit, softmax

from fgjax.attribution.rise import (
    RISE_PRESETS,
    RiseConfig,
    _step,
    enlarging,
    rise,
    rise_masks,
    rise_preset,
)
from toys import linear

HEIGHT, WIDTH = 10, 14
CONFIG = RiseConfig(masks=37, cells=3, chunk_size=8)
TARGETS = np.array([0, 2, 1])


drawn = jax.jit(partial(rise_masks, height=HEIGHT, width=WIDTH, cells=3))
"""Masks of 40 indices, one program for all tests."""


@pytest.fixture
def weights():
    return np.random.default_rng(1).normal(size=(HEIGHT, WIDTH, 3)).astype(np.float32) / 3


@pytest.fixture
def images():
    return np.random.default_rng(0).random((3, HEIGHT, WIDTH, 3), np.float32)


# Masks.


@pytest.mark.parametrize(("size", "cells"), [(224, 7), (224, 8), (10, 3), (5, 5), (7, 1)])
def test_cells_are_enlarged_as_scikit_image_does(size, cells):
    from skimage.transform import resize

    room = (cells + 1) * -(-size // cells)
    grid = np.random.default_rng(0).random((cells, cells))
    matrix = enlarging(size, cells)
    assert matrix.shape == (room, cells)
    expected = resize(grid, (room, room), order=1, mode="reflect", anti_aliasing=False)
    np.testing.assert_allclose(matrix @ grid @ matrix.T, expected, atol=1e-6)


def test_masks_are_cut_from_the_enlarged_cells_at_a_random_shift(key):
    """Every mask is found in the enlargement of its own binary cells, at a shift in a cell."""
    masks = np.asarray(
        jax.jit(partial(rise_masks, height=HEIGHT, width=WIDTH, cells=2))(key, np.arange(40))
    )
    assert masks.shape == (40, HEIGHT, WIDTH) and masks.min() >= 0 and masks.max() <= 1
    down, across = enlarging(HEIGHT, 2), enlarging(WIDTH, 2)
    shifts = set()
    for mask in masks:
        found = [
            (y, x)
            for cells in np.ndindex(2, 2, 2, 2)
            for y in range(5)
            for x in range(7)
            if np.allclose(
                down[y : y + HEIGHT] @ np.reshape(cells, (2, 2)) @ across[x : x + WIDTH].T,
                mask,
                atol=1e-5,
            )
        ]
        assert found
        if len(found) == 1:
            shifts.add(found[0])
    assert len(shifts) > 10


def test_masks_are_open_with_the_given_probability(key):
    draw = jax.jit(partial(rise_masks, height=12, width=12, cells=4))
    for keep in (0.1, 0.5):
        masks = np.asarray(draw(key, np.arange(3000), keep=keep))
        np.testing.assert_allclose(masks.mean(0), keep, atol=0.04)


def test_a_mask_is_a_function_of_key_and_index(key):
    some = np.asarray(drawn(key, np.arange(5, 45)[::-1]))
    np.testing.assert_array_equal(some[-1], np.asarray(drawn(key, np.arange(40)))[5])
    assert (np.asarray(drawn(jax.random.key(1), np.arange(40))) != some[::-1]).any((1, 2)).all()


# Maps.


def numpy_rise(weights, image, target, masks, config):
    total = np.zeros(masks.shape[1:])
    for mask in np.float64(masks):
        logits = np.einsum("hwc,hwk->k", image * mask[..., None], np.float64(weights)) / 3
        score = expit(logits) if config.score == "sigmoid" else softmax(logits)
        total += score[target] * mask
    divisor = {"keep": config.keep, "none": 1.0, "masks": masks.mean(0, dtype=np.float64)}
    return total / len(masks) / divisor[config.normalise]


@pytest.mark.parametrize("normalise", ["keep", "none", "masks"])
@pytest.mark.parametrize("score", ["probability", "sigmoid"])
def test_the_method_in_numpy(key, weights, images, normalise, score):
    config = replace(CONFIG, normalise=normalise, score=score, keep=0.4)
    result = rise(Partial(linear, jnp.asarray(weights)), images, TARGETS, key=key, config=config)
    masks = np.asarray(drawn(key, np.arange(40), keep=0.4))[:37]
    for i, target in enumerate(TARGETS):
        raw = numpy_rise(weights, np.float64(images[i]), target, masks, config)
        np.testing.assert_allclose(result.maps["raw"][i], raw, rtol=1e-4)
        unit = (raw - raw.min()) / (raw.max() - raw.min())
        np.testing.assert_allclose(result.heatmap[i], unit, atol=1e-4)
    np.testing.assert_array_equal(result.traces["masks"], [[37]] * 3)


def test_the_expectation_on_a_linear_model(key):
    """For the logit of a linear model S(x) → Σ_y a(y) E[M(x) M(y)] / p, whose second moments
    follow from the cells and the shifts by hand."""
    side, cells, keep = 6, 2, 0.4
    a = np.random.default_rng(5).normal(size=(side, side))
    matrix, step = enlarging(side, cells), 3
    second = 0
    for y in range(step):
        for x in range(step):
            # M(u) = Σ_ij w_ij(u) cell_ij, cells independent with E = p, Var = p (1 - p).
            share = np.einsum("yi,xj->yxij", matrix[y : y + side], matrix[x : x + side])
            share = share.reshape(side * side, -1)
            ones = share.sum(1)
            moment = keep**2 * np.outer(ones, ones) + keep * (1 - keep) * share @ share.T
            second = second + moment / step**2
    expected = (second @ a.ravel()).reshape(side, side) / keep
    weights = jnp.asarray(np.stack([a, -a], axis=-1), jnp.float32)
    config = RiseConfig(masks=20000, cells=cells, keep=keep, score="logit", chunk_size=1000)
    model, image = Partial(linear, weights), np.ones((1, side, side, 3), np.float32)
    raw = rise(model, image, np.zeros(1, int), key=key, config=config).maps["raw"][0]
    assert np.corrcoef(np.ravel(raw), expected.ravel())[0, 1] > 0.99
    np.testing.assert_allclose(raw, expected, atol=0.1 * np.abs(expected).max())


def test_what_is_hidden_is_filled_in(key, weights, images):
    """With the image itself for an infill every mask shows the same: a map without contrast."""
    config = replace(CONFIG, infill="original", normalise="masks")
    result = rise(Partial(linear, jnp.asarray(weights)), images, TARGETS, key=key, config=config)
    np.testing.assert_allclose(np.ptp(np.asarray(result.maps["raw"]), (1, 2)), 0, atol=1e-5)


def seen(outputs, targets):
    return outputs["brightness"] * targets["gain"]


def test_a_score_function(key, images):
    """The brightness of the left half: maps are high there."""
    model = lambda x: {"brightness": x[:, :, : WIDTH // 2].mean((1, 2, 3))}
    config = replace(CONFIG, masks=400, score=seen)
    result = rise(model, images, {"gain": np.float32([1, 2, 1])}, key=key, config=config)
    heatmap = np.asarray(result.heatmap)
    left, right = heatmap[:, :, :5].mean((1, 2)), heatmap[:, :, 9:].mean((1, 2))
    assert (left > 2 * right).all()


# Chunks, neighbours and keys.


@pytest.mark.parametrize("chunk_size", [1, 10, 500, None])
def test_the_chunk_changes_nothing(key, weights, images, chunk_size):
    run = partial(rise, Partial(linear, jnp.asarray(weights)), images, TARGETS, key=key)
    expected = run(config=CONFIG)
    result = run(config=replace(CONFIG, chunk_size=chunk_size))
    np.testing.assert_allclose(result.maps["raw"], expected.maps["raw"], rtol=1e-4)


def test_images_share_the_masks_of_one_key(key, weights, images):
    run = partial(rise, Partial(linear, jnp.asarray(weights)), config=CONFIG)
    together = run(images, TARGETS, key=key)
    alone = run(images[2:], TARGETS[2:], key=key)
    np.testing.assert_allclose(alone.maps["raw"][0], together.maps["raw"][2], rtol=1e-4)
    twins = np.asarray(run(images[[0, 0, 1]], TARGETS[[0, 0, 1]], key=key).heatmap)
    np.testing.assert_array_equal(twins[0], twins[1])


def test_a_key_per_image(key, weights, images):
    run = partial(rise, Partial(linear, jnp.asarray(weights)), config=CONFIG)
    keys = jax.random.split(key, 3)
    together = run(images, TARGETS, key=keys)
    for i in range(3):
        alone = run(images[[i]], TARGETS[[i]], key=keys[i])
        np.testing.assert_allclose(alone.maps["raw"][0], together.maps["raw"][i], rtol=1e-5)


@pytest.mark.parametrize("chunk_size", [8, 200])
def test_a_nan_spoils_its_own_image_only(key, weights, images, chunk_size):
    def model(x):
        return jnp.where(x[:, 0, 0, :1] > 0.6, jnp.nan, linear(weights, x))

    images[:, 0, 0] = np.array([0.5, 1.0, 0.5])[:, None]
    result = rise(model, images, TARGETS, key=key, config=replace(CONFIG, chunk_size=chunk_size))
    for map_ in map(np.asarray, (result.heatmap, result.maps["raw"])):
        assert np.isnan(map_[1]).all() and np.isfinite(map_[np.array([0, 2])]).all()


def test_one_program_for_all_weights_images_keys_and_numbers_of_masks(key, weights, images):
    run = partial(rise, images=images, targets=TARGETS)
    run(Partial(linear, jnp.asarray(weights)), key=key, config=replace(CONFIG, masks=40))
    so_far = _step._cache_size()
    other = Partial(linear, jnp.asarray(weights[::-1].copy()))
    config = replace(CONFIG, masks=80, keep=0.3, normalise="none")
    run(other, key=jax.random.key(4), config=config)
    assert _step._cache_size() == so_far


# Early stop.


@pytest.mark.slow
def test_it_stops_when_the_map_is_as_near_its_limit_as_wished(key, weights, images):
    """Over several keys the error against a long run's map is what was asked for."""
    model, config = Partial(linear, jnp.asarray(weights)), replace(CONFIG, chunk_size=100)
    long = replace(config, masks=20000, chunk_size=1000)
    limit = np.asarray(rise(model, images[:1], TARGETS[:1], key=key, config=long).heatmap)
    keys, eight = jax.random.split(jax.random.key(1), 8), np.zeros(8, int)
    used = {}
    for tolerance in (0.1, 0.05):
        stopping = replace(config, masks=5000, check_every=100, tolerance=tolerance)
        result = rise(model, images[eight], TARGETS[eight], key=keys, config=stopping)
        used[tolerance] = np.asarray(result.traces["masks"])[:, 0]
        error = np.abs(np.asarray(result.heatmap) - limit).mean()
        assert 0.5 * tolerance < error < 1.4 * tolerance
    assert used[0.1].mean() < 0.7 * used[0.05].mean() and used[0.05].max() < 5000
    assert (used[0.1] % 100 == 0).all() and used[0.1].min() >= 400


@pytest.mark.slow
def test_stopping_depends_on_neither_chunk_nor_neighbours(key, weights, images):
    config = replace(CONFIG, masks=1000, check_every=100, tolerance=0.05)
    run = partial(rise, Partial(linear, jnp.asarray(weights)), key=key)
    expected = run(images, TARGETS, config=config)
    for chunk_size in (7, 300):
        alone = run(images[1:2], TARGETS[1:2], config=replace(config, chunk_size=chunk_size))
        np.testing.assert_array_equal(alone.traces["masks"][0], expected.traces["masks"][1])
        np.testing.assert_allclose(alone.maps["raw"][0], expected.maps["raw"][1], rtol=1e-4)


# What is refused.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(masks=0), "masks=0: must be at least 1"),
        (dict(cells=0), "cells=0"),
        (dict(check_every=0), "check_every=0"),
        (dict(chunk_size=0), "chunk_size=0"),
        (dict(keep=1.0), "keep=1.0: a probability strictly between 0 and 1"),
        (dict(tolerance=-0.1), "tolerance=-0.1: must not be negative"),
        (dict(normalise="mask"), "normalise='mask': .*Did you mean masks"),
        (dict(score="logits"), "score='logits': .*Did you mean logit"),
        (dict(infill="zero"), "infill='zero': .*Did you mean zeros"),
    ],
)
def test_settings_that_make_no_sense(change, words, untyped):
    with pytest.raises(ValueError, match=words):
        RiseConfig(**change)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (None, "give it a key"),
        (np.zeros(2, np.uint32), "a typed key"),
        (jax.random.split(jax.random.key(0), 2), "2 keys for 3 images"),
    ],
)
def test_keys_that_make_no_sense(weights, images, key, words, untyped):
    with pytest.raises(ValueError, match=words):
        rise(Partial(linear, jnp.asarray(weights)), images, TARGETS, key=key, config=CONFIG)


def test_presets():
    assert rise_preset("default") == RiseConfig()
    authors = rise_preset("rise-eclique")
    assert (authors.masks, authors.cells, authors.keep) == (6000, 8, 0.1)
    torchray = rise_preset("rise-torchray", masks=10)
    assert (torchray.masks, torchray.cells, torchray.keep) == (10, 7, 0.5)
    assert (torchray.score, torchray.normalise) == ("sigmoid", "none")
    for name in RISE_PRESETS:
        rise_preset(name)
    with pytest.raises(ValueError, match="Did you mean rise-torchray"):
        rise_preset("torchray-rise")
