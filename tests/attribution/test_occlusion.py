"""Occlusion against NumPy with a loop over windows, and on a model whose answer is known."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.special import softmax

from fgjax.attribution.common.perturbation import _scores
from fgjax.attribution.occlusion import (
    OCCLUSION_PRESETS,
    OcclusionConfig,
    occlusion,
    occlusion_preset,
    windows,
)
from toys import linear

HEIGHT, WIDTH = 28, 36  # 28 px: an eighth of 224
CONFIG = OcclusionConfig(window=48, stride=24, infill="zeros", chunk_size=16)  # 6 and 3 px
TARGETS = np.array([0, 2, 1])


@pytest.fixture
def weights():
    return np.random.default_rng(1).normal(size=(HEIGHT, WIDTH, 3)).astype(np.float32) / 9


@pytest.fixture
def images():
    return np.random.default_rng(0).random((3, HEIGHT, WIDTH, 3), np.float32)


def numpy_occlusion(score, image, infill, window, stride):
    sums, counts = np.zeros(image.shape[:2]), np.zeros(image.shape[:2])
    whole = score(image)
    tops, lefts = (range(0, max(1, size - window + stride), stride) for size in image.shape[:2])
    for top in tops:
        for left in lefts:
            place = (slice(top, top + window), slice(left, left + window))
            covered = image.copy()
            covered[place] = infill[place]
            sums[place] += whole - score(covered)
            counts[place] += 1
    return sums / counts


@pytest.mark.parametrize(
    ("window", "stride"), [(6, 3), (5, 5), (7, 2), (4, 3), (28, 28), (100, 9), (1, 1)]
)
@pytest.mark.parametrize("infill", ["zeros", "mean"])
def test_the_method_in_numpy(weights, images, window, stride, infill):
    config = OcclusionConfig(window=8 * window, stride=8 * stride, infill=infill)
    model = Partial(linear, jnp.asarray(weights))
    result = occlusion(model, images[:1], TARGETS[1:2], config=config)
    image = np.float64(images[0])
    score = lambda x: softmax(np.einsum("hwc,hwk->k", x, np.float64(weights)) / 3)[2]
    cover = image * 0 if infill == "zeros" else image * 0 + image.mean((0, 1))
    expected = numpy_occlusion(score, image, cover, window, stride)
    np.testing.assert_allclose(result.maps["signed"][0], expected, atol=2e-6)
    positive = np.maximum(expected, 0) / max(expected.max(), 1e-12)
    np.testing.assert_allclose(result.heatmap[0], positive, atol=2e-3)


@pytest.mark.parametrize(
    ("size", "window", "stride", "starts", "last"),
    [(10, 4, 3, [0, 3, 6], 4), (10, 4, 4, [0, 4, 8], 2), (3, 5, 2, [0], 3), (5, 5, 1, [0], 5)],
)
def test_windows_reach_the_border_and_are_cut_there(size, window, stride, starts, last):
    made = windows(size, window, stride)
    np.testing.assert_array_equal(made.argmax(1), starts)
    assert made[-1].sum() == last and (made.sum(0) > 0).all() and made.shape[1] == size


def test_lengths_mean_the_same_at_another_resolution(weights, images):
    """Twice the image, the same setting: the same map in larger pixels."""
    config = replace(CONFIG, score="logit")
    large = np.repeat(np.repeat(images, 2, 1), 2, 2)
    spread = np.repeat(np.repeat(weights, 2, 0), 2, 1) / 4
    small = occlusion(Partial(linear, jnp.asarray(weights)), images, TARGETS, config=config)
    result = occlusion(Partial(linear, jnp.asarray(spread)), large, TARGETS, config=config)
    np.testing.assert_allclose(result.maps["signed"][:, ::2, 1::2], small.maps["signed"], atol=1e-4)


def test_the_region_that_the_class_is_read_from():
    weights = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    weights[6:12, 18:24, 0], weights[6:12, 18:24, 1] = 0.1, -0.1
    image = np.ones((2, HEIGHT, WIDTH, 3), np.float32)
    result = occlusion(
        Partial(linear, jnp.asarray(weights)), image, np.array([0, 1]), config=CONFIG
    )
    assert result.heatmap[0, 6:12, 18:24].min() > 0.5
    assert (result.heatmap[0, :, :12] == 0).all()
    # Evidence against is no importance; the signed map has it.
    assert (result.heatmap[1] == 0).all() and result.maps["signed"][1].min() < -0.1


def test_a_random_infill_needs_a_key_and_others_do_not(key, weights, images):
    run = partial(occlusion, Partial(linear, jnp.asarray(weights)), images, TARGETS)
    with pytest.raises(ValueError, match="give key="):
        run(config=replace(CONFIG, infill="uniform"))
    keys = jax.random.split(key, 3)
    config = replace(CONFIG, infill="uniform")
    together = run(key=keys, config=config)
    alone = occlusion(
        Partial(linear, jnp.asarray(weights)), images[2:], TARGETS[2:], key=keys[2:], config=config
    )
    np.testing.assert_allclose(alone.maps["signed"][0], together.maps["signed"][2], atol=1e-5)
    array = run(config=replace(CONFIG, infill=np.zeros(3, np.float32)))
    np.testing.assert_allclose(array.maps["signed"], run(config=CONFIG).maps["signed"], atol=1e-6)


def brightness(outputs, targets):
    return outputs["region"][jnp.arange(len(targets)), targets]


def test_a_score_function(images):
    def model(x):
        return {"region": jnp.stack([x[:, :9].mean((1, 2, 3)), x[:, 18:].mean((1, 2, 3))], axis=1)}

    config = replace(CONFIG, score=brightness)
    result = occlusion(model, images, np.array([0, 1, 1]), config=config)
    assert result.heatmap[0, :9].mean() > 0.3 and (result.heatmap[0, 20:] < 1e-4).all()
    assert result.heatmap[1, 20:].mean() > 0.3 and (result.heatmap[1, :9] < 1e-4).all()


@pytest.mark.parametrize("chunk_size", [1, 7, 500, None])
def test_chunk_and_neighbours_change_nothing(weights, images, chunk_size):
    run = partial(occlusion, Partial(linear, jnp.asarray(weights)))
    expected = run(images, TARGETS, config=CONFIG)
    config = replace(CONFIG, chunk_size=chunk_size)
    np.testing.assert_allclose(
        run(images, TARGETS, config=config).maps["signed"], expected.maps["signed"], atol=2e-6
    )
    alone = run(images[1:2], TARGETS[1:2], config=config)
    np.testing.assert_allclose(alone.maps["signed"][0], expected.maps["signed"][1], atol=2e-6)


def test_a_nan_spoils_its_own_image_only(weights, images):
    def model(x):
        return jnp.where(x[:, -1, -1, :1] > 0.9, jnp.nan, linear(weights, x))

    images[:, -1, -1] = np.array([0.5, 1.0, 0.5])[:, None]
    for chunk_size in (16, 500):
        result = occlusion(model, images, TARGETS, config=replace(CONFIG, chunk_size=chunk_size))
        for map_ in (result.heatmap, result.maps["signed"]):
            assert np.isnan(map_[1]).all() and np.isfinite(map_[np.array([0, 2])]).all()


def test_one_program_for_all_weights_and_images(weights, images):
    occlusion(Partial(linear, jnp.asarray(weights)), images, TARGETS, config=CONFIG)
    so_far = _scores._cache_size()
    other = Partial(linear, jnp.asarray(weights[::-1].copy()))
    occlusion(other, images[:2], TARGETS[1:], config=replace(CONFIG, infill="mean"))
    assert _scores._cache_size() == so_far


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(window=0), "window=0: must be at least 1"),
        (dict(stride=0), "stride=0"),
        (dict(stride=60), "stride=60 exceeds window=48: pixels .*never be covered"),
        (dict(chunk_size=-1), "chunk_size=-1"),
        (dict(blur_sigma=0.0), "blur_sigma=0.0: must be above 0"),
        (dict(infill="gray"), "infill='gray': must be one of"),
        (dict(score="probabilty"), "Did you mean probability"),
    ],
)
def test_settings_that_make_no_sense(change, words, untyped):
    with pytest.raises(ValueError, match=words):
        OcclusionConfig(**change)


def test_presets():
    assert occlusion_preset("default") == OcclusionConfig()
    captum = occlusion_preset("captum", window=20, stride=10)
    assert (captum.window, captum.stride, captum.infill, captum.score) == (20, 10, "zeros", "logit")
    for name in OCCLUSION_PRESETS:
        occlusion_preset(name)
