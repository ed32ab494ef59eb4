"""Mask perturbation against NumPy with every gradient written by hand, and on a model whose
answer is known."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.special import softmax

from fgjax.attribution.mask_perturbation import (
    MASK_PERTURBATION_PRESETS,
    TRACES,
    MaskPerturbationConfig,
    mask_perturbation,
    mask_perturbation_preset,
    mask_perturbation_step,
    smooth_enlarging,
)
from toys import linear

SIDE = 16
PATCH = (slice(3, 8), slice(8, 14))
CONFIG = MaskPerturbationConfig(
    steps=40, mask_size=8, mask_blur=0.0, jitter=0, infill="zeros", chunk_size=2
)
TARGETS = np.array([0, 1, 0])


@pytest.fixture
def weights():
    return np.random.default_rng(1).normal(size=(SIDE, SIDE, 2)).astype(np.float32) / 5


@pytest.fixture
def images():
    return np.random.default_rng(0).random((3, SIDE, SIDE, 3), np.float32)


def numpy_mask(weights, image, infill, target, config):
    """Adam on Eq. 4, without jitter."""
    up = np.float64(smooth_enlarging(SIDE, config.mask_size, config.mask_blur * SIDE / 224))
    weights, scale = np.float64(weights), 28 / config.mask_size
    mask = np.full((config.mask_size,) * 2, 1 - config.initial)
    first, second, traces = np.zeros_like(mask), np.zeros_like(mask), []
    for step in range(config.steps):
        kept = (up @ mask @ up.T)[..., None]
        p = softmax(np.einsum("hwc,hwk->k", kept * image + (1 - kept) * infill, weights) / 3)
        d_logits = p[target] * (np.eye(len(p))[target] - p)
        d_kept = np.einsum("k,hwk->hw", d_logits, weights) * (image - infill).mean(-1)
        gradient = up.T @ d_kept @ up - config.l1 * scale**2
        weight, power = config.tv * scale ** (2 - config.tv_beta), config.tv_beta
        tv = 0
        for axis in (0, 1):
            steps = np.diff(mask, axis=axis)
            tv += (np.abs(steps) ** power).sum()
            slope = weight * power * np.sign(steps) * np.abs(steps) ** (power - 1)
            ahead, behind = [[slice(None)] * 2 for _ in range(2)]
            ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
            gradient[tuple(ahead)] += slope
            gradient[tuple(behind)] -= slope
        traces.append((p[target], (1 - mask).sum() * scale**2, tv * scale ** (2 - power)))
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        moved = first / (1 - 0.9 ** (step + 1))
        mask = mask - config.learning_rate * moved / (
            np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8
        )
        mask = np.clip(mask, 0, 1)
    return 1 - up @ mask @ up.T, np.array(traces)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(mask_blur=20.0, l1=1e-3, tv=0.1),
        dict(tv_beta=2.0, initial=0.2, learning_rate=0.02, tv=0.5),
    ],
)
def test_the_method_in_numpy(key, weights, images, changes):
    config = replace(CONFIG, steps=12, **changes)
    model = Partial(linear, jnp.asarray(weights))
    result = mask_perturbation(model, images, TARGETS, key=key, config=config)
    for i, target in enumerate(TARGETS):
        image = np.float64(images[i])
        expected, traces = numpy_mask(weights, image, 0 * image, target, config)
        np.testing.assert_allclose(result.heatmap[i], expected, atol=2e-3)
        for j, name in enumerate(TRACES):
            np.testing.assert_allclose(
                result.traces[name][i], traces[:, j], rtol=2e-3, atol=1e-4, err_msg=name
            )


@pytest.mark.parametrize("jitter", [0, 40])
def test_the_patch_that_the_class_is_read_from_is_deleted(key, jitter):
    """40 px of 224 are 3 of 16."""
    weights = np.zeros((SIDE, SIDE, 2), np.float32)
    weights[(*PATCH, 0)] = 0.3
    weights[..., 1] = 0.01
    image = np.ones((1, SIDE, SIDE, 3), np.float32)
    config = replace(CONFIG, steps=100, l1=1e-3, jitter=jitter)
    model = Partial(linear, jnp.asarray(weights))
    result = mask_perturbation(model, image, np.array([0]), key=key, config=config)
    heatmap = np.asarray(result.heatmap[0])
    assert 0 <= heatmap.min() and heatmap.max() <= 1
    assert heatmap[PATCH].mean() > 0.6 and heatmap[:, :6].mean() < 0.2
    assert result.traces["score"][0, -1] < 0.6 < result.traces["score"].max()


def test_nothing_is_deleted_when_the_infill_is_the_image_itself(key, weights, images):
    config = replace(CONFIG, infill="original", l1=1e-3)
    model = Partial(linear, jnp.asarray(weights))
    result = mask_perturbation(model, images, TARGETS, key=key, config=config)
    np.testing.assert_allclose(result.heatmap, 0, atol=1e-6)


def test_enlarging_is_linear_between_the_cells_centres():
    matrix = smooth_enlarging(8, 4, 0.0)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    ramp = matrix @ np.arange(4.0)
    np.testing.assert_allclose(ramp, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6)
    blurred = smooth_enlarging(8, 4, 1.0)
    np.testing.assert_allclose(blurred.sum(1), 1, atol=1e-5)
    assert np.ptp(np.diff(blurred @ np.arange(4.0))) > 0


def test_one_setting_means_the_same_for_another_mask_size(key):
    """L1 and TV of the same smooth mask agree."""
    values = []
    for size in (8, 16):
        config = replace(CONFIG, mask_size=size, steps=25, learning_rate=0.01, tv=0.0, tv_beta=3.0)
        weights = np.zeros((32, 32, 2), np.float32)
        weights[..., 0] = np.linspace(-0.02, 0.04, 32)[None]
        image = np.ones((1, 32, 32, 3), np.float32)
        model = Partial(linear, jnp.asarray(weights))
        result = mask_perturbation(model, image, np.array([0]), key=key, config=config)
        values.append([float(result.traces[name][0, -1]) for name in TRACES])
    np.testing.assert_allclose(values[0][:2], values[1][:2], rtol=0.1)


def seen(outputs, targets):
    return outputs["brightness"] * targets


def test_a_score_function(key, images):
    model = lambda x: {"brightness": x[:, :, :8].mean((1, 2, 3))}
    config = replace(CONFIG, score=seen, initial=0.2)
    result = mask_perturbation(model, images, np.float32([1, 1, 1]), key=key, config=config)
    assert (result.heatmap[:, :, :6].mean((1, 2)) > 0.9).all()
    assert (result.heatmap[:, :, 12:].mean((1, 2)) < 0.1).all()


slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize("chunk_size", [1, slow(2), slow(3), None])
def test_chunk_and_neighbours_change_nothing(key, weights, images, chunk_size):
    config = replace(CONFIG, jitter=40, steps=6)
    run = partial(mask_perturbation, Partial(linear, jnp.asarray(weights)))
    expected = run(images, TARGETS, key=key, config=config)
    config = replace(config, chunk_size=chunk_size)
    result = run(images, TARGETS, key=key, config=config)
    np.testing.assert_allclose(result.heatmap, expected.heatmap, atol=1e-3)
    mine = jax.random.fold_in(key, 2)[None]
    alone = run(images[2:], TARGETS[2:], key=mine, config=config)
    np.testing.assert_allclose(alone.heatmap[0], expected.heatmap[2], atol=1e-3)


def test_jitter_comes_from_the_key(key, weights, images):
    run = partial(
        mask_perturbation,
        Partial(linear, jnp.asarray(weights)),
        images,
        TARGETS,
        config=replace(CONFIG, jitter=40, steps=6),
    )
    np.testing.assert_array_equal(run(key=key).heatmap, run(key=key).heatmap)
    assert np.abs(run(key=key).heatmap - run(key=jax.random.key(9)).heatmap).max() > 1e-3


@pytest.mark.parametrize("where", ["gradient too", "value alone"])
def test_a_nan_spoils_its_own_image_only(key, weights, images, where):
    infill = np.zeros_like(images)
    infill[:, 0, 0] = images[:, 0, 0] = np.array([0.0, 1.0, 0.0])[:, None]

    def model(x):
        bad = x[:, 0, 0, :1] > 0.5
        logits = linear(weights, x)
        if where == "value alone":
            return jnp.where(bad, jnp.nan, logits)
        return logits * jnp.where(bad, jnp.nan, 1)

    config = replace(CONFIG, infill=infill, chunk_size=3, steps=3)
    result = mask_perturbation(model, images, TARGETS, key=key, config=config)
    assert np.isnan(result.heatmap[1]).all()
    assert np.isfinite(result.heatmap[np.array([0, 2])]).all()


def test_one_program_for_all_weights_images_and_steps(key, weights, images):
    run = partial(mask_perturbation, key=key)
    run(Partial(linear, jnp.asarray(weights)), images, TARGETS, config=replace(CONFIG, steps=2))
    so_far = mask_perturbation_step._cache_size()
    other = Partial(linear, jnp.asarray(weights[::-1].copy()))
    run(other, images[::-1], TARGETS, config=replace(CONFIG, steps=3, infill="mean", initial=0.5))
    assert mask_perturbation_step._cache_size() == so_far


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(steps=0), "steps=0: must be at least 1"),
        (dict(mask_size=0), "mask_size=0"),
        (dict(chunk_size=0), "chunk_size=0"),
        (dict(learning_rate=0.0), "learning_rate=0.0: must be above 0"),
        (dict(l1=-1.0), "l1=-1.0: must not be negative"),
        (dict(jitter=-1), "jitter=-1"),
        (dict(mask_blur=float("nan")), "mask_blur=nan"),
        (dict(tv_beta=0.5), "tv_beta=0.5: must be at least 1"),
        (dict(initial=1.2), "initial=1.2: must lie in"),
        (dict(infill="blurr"), "Did you mean blur"),
        (dict(score="p"), "score='p'"),
    ],
)
def test_settings_that_make_no_sense(change, words, untyped):
    with pytest.raises(ValueError, match=words):
        MaskPerturbationConfig(**change)


def test_a_key_is_needed(weights, images, untyped):
    with pytest.raises(ValueError, match="give it a key"):
        mask_perturbation(
            Partial(linear, jnp.asarray(weights)), images, TARGETS, key=None, config=CONFIG
        )


def test_presets():
    assert mask_perturbation_preset("default") == MaskPerturbationConfig()
    paper = mask_perturbation_preset("fong-2017", chunk_size=2)
    assert (paper.l1, paper.tv, paper.tv_beta, paper.mask_size) == (1e-4, 1e-2, 3.0, 28)
    for name in MASK_PERTURBATION_PRESETS:
        mask_perturbation_preset(name)
