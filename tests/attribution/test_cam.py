"""CAMs against NumPy on a network whose every map is known, and on a toy with a known answer.

The network: features are a linear mixture of the image's blocks of 4 x 4 pixels; the head takes
their mean and one linear layer, or something less simple.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jax.tree_util import Partial
from scipy.special import softmax

from fgjax.attribution.cam import (
    GradCamConfig,
    GradCamPlusPlusConfig,
    GuidedGradCamConfig,
    _head_gradient,
    enlarge,
    feature_gradient,
    grad_cam,
    grad_cam_plus_plus,
    guided_grad_cam,
    last_features,
)
from fgjax.attribution.guided import rectified_gradient
from fgjax.attribution.score_cam import SCORE_CAM_PRESETS, ScoreCamConfig, _score, score_cam
from fgjax.models.classifier import create_model

SIDE, BLOCK, CHANNELS, CLASSES = 16, 4, 5, 3
GRID = SIDE // BLOCK
TARGETS = jnp.asarray([2, 0, 1])


@struct.dataclass
class Blocks:
    """Block means, mixed and rectified; their mean, perhaps of squares, and a linear layer.

    `bend` also makes it unfit: features that are no map, or no ReLU. (As a subclass of its own
    it would be taken for this one: jax compares pytrees of two classes as equal.)
    """

    mixing: jax.Array
    weights: jax.Array
    bend: str = struct.field(pytree_node=False, default="none")

    def features(self, images):
        n, h, w, c = images.shape
        blocks = images.reshape(n, h // BLOCK, BLOCK, w // BLOCK, BLOCK, c).mean((2, 4))
        if self.bend == "pooled":
            return blocks.mean((1, 2)) @ self.mixing
        return (jnp.tanh if self.bend == "smooth" else jax.nn.relu)(blocks @ self.mixing)

    def head(self, features):
        if self.bend == "pooled":
            return features @ self.weights
        if self.bend == "square":
            features = features**2
        logits = features.mean((1, 2)) @ self.weights
        if self.bend == "poisoned":  # NaN by value alone: every gradient is finite
            logits = jnp.where((features.mean((1, 2, 3)) > 1)[:, None], jnp.nan, logits)
        return logits

    def __call__(self, images):
        return self.head(self.features(images))


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(1)
    mixing = jnp.asarray(rng.normal(size=(3, CHANNELS)), jnp.float32)
    return Blocks(mixing, jnp.asarray(rng.normal(size=(CHANNELS, CLASSES)), jnp.float32))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((3, SIDE, SIDE, 3), np.float32))


METHODS = {
    "grad_cam": (grad_cam, GradCamConfig()),
    "grad_cam_plus_plus": (grad_cam_plus_plus, GradCamPlusPlusConfig()),
    "score_cam": (score_cam, ScoreCamConfig()),
    "guided_grad_cam": (guided_grad_cam, GuidedGradCamConfig()),
}
each_method = pytest.mark.parametrize(("method", "config"), METHODS.values(), ids=METHODS)


# The same in NumPy.


def enlarging(small: int, large: int) -> np.ndarray:
    """The matrix of linear interpolation between pixel centres, constant beyond the last."""
    place = (np.arange(large) + 0.5) * small / large - 0.5
    share = np.maximum(1 - np.abs(place[:, None] - np.arange(small)), 0)
    return share / share.sum(1, keepdims=True)


def numpy_enlarge(maps):
    up = enlarging(GRID, SIDE)
    return np.einsum("yi,xj,nij->nyx", up, up, maps)


def numpy_features(model, images):
    n = len(images)
    blocks = np.asarray(images, np.float64).reshape(n, GRID, BLOCK, GRID, BLOCK, 3).mean((2, 4))
    return np.maximum(blocks @ np.asarray(model.mixing, np.float64), 0)


def numpy_logits(model, images):
    features = numpy_features(model, images)
    features = features**2 if model.bend == "square" else features
    return features.mean((1, 2)) @ np.asarray(model.weights, np.float64)


def numpy_gradient(model, features):
    """`n H W K`: the gradient of the target's logit."""
    of_target = np.asarray(model.weights, np.float64)[:, np.asarray(TARGETS)].T
    gradient = np.broadcast_to(of_target[:, None, None], features.shape) / GRID**2
    return gradient * 2 * features if model.bend == "square" else gradient


def numpy_heatmap(coarse):
    maps = numpy_enlarge(np.maximum(coarse, 0))
    peak = maps.max((1, 2), keepdims=True)
    return maps / np.where(peak == 0, 1, peak)


def assert_cam(result, coarse, tolerance=1e-4):
    assert np.ptp(coarse) > 1e-3
    atol = tolerance * np.abs(coarse).max()
    np.testing.assert_allclose(result.maps["signed"], numpy_enlarge(coarse), atol=atol)
    np.testing.assert_allclose(result.heatmap, numpy_heatmap(coarse), atol=tolerance)


def test_enlarging(images):
    maps = np.random.default_rng(0).normal(size=(2, GRID, GRID)).astype(np.float32)
    expected = numpy_enlarge(maps)
    np.testing.assert_allclose(enlarge(jnp.asarray(maps), SIDE, SIDE), expected, atol=1e-5)


@pytest.mark.parametrize("bend", ["none", "square"])
def test_feature_gradient(model, images, bend):
    model = model.replace(bend=bend)
    features, gradient = feature_gradient(model, images, TARGETS, chunk_size=2)
    expected = numpy_features(model, images)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient, numpy_gradient(model, expected), rtol=1e-4, atol=1e-6)


def test_grad_cam_is_cam_where_pooling_and_one_layer_follow(model, images):
    """CAM: the features weighted by the layer's own weights (up to the number of places)."""
    features = numpy_features(model, images)
    of_target = np.asarray(model.weights)[:, np.asarray(TARGETS)].T
    cam = np.einsum("nhwk,nk->nhw", features, of_target) / GRID**2
    assert_cam(grad_cam(model, images, TARGETS), cam)


def test_grad_cam_of_another_head(model, images):
    model = model.replace(bend="square")
    features = numpy_features(model, images)
    weights = numpy_gradient(model, features).mean((1, 2))
    coarse = np.einsum("nhwk,nk->nhw", features, weights)
    assert_cam(grad_cam(model, images, TARGETS), coarse)


def test_grad_cam_of_another_score(model, images):
    """∂p/∂A = p_c (∂s_c/∂A - Σ_k p_k ∂s_k/∂A); here through the weights of the layer."""
    p = softmax(numpy_logits(model, images), axis=1)
    p_c = p[np.arange(3), np.asarray(TARGETS)][:, None]
    outer = p_c * (np.eye(CLASSES)[np.asarray(TARGETS)] - p)
    weights = outer @ np.asarray(model.weights, np.float64).T / GRID**2
    coarse = np.einsum("nhwk,nk->nhw", numpy_features(model, images), weights)
    config = GradCamConfig(score="probability")
    assert_cam(grad_cam(model, images, TARGETS, config=config), coarse)


@pytest.mark.parametrize("bend", ["none", "square"])
def test_grad_cam_plus_plus(model, images, bend):
    """Eqs. 19 and 5 as they are written, one pixel after the other."""
    model = model.replace(bend=bend)
    features = numpy_features(model, images)
    g = numpy_gradient(model, features)
    weights = np.zeros((3, CHANNELS))
    for n, i, j, k in np.ndindex(g.shape):
        grad = g[n, i, j, k]
        total = sum(features[n, a, b, k] for a in range(GRID) for b in range(GRID))
        bottom = 2 * grad**2 + total * grad**3
        alpha = grad**2 / bottom if bottom != 0 else 0
        weights[n, k] += alpha * max(grad, 0)
    coarse = np.einsum("nhwk,nk->nhw", features, weights)
    assert_cam(grad_cam_plus_plus(model, images, TARGETS), coarse)


def test_grad_cam_plus_plus_of_tiny_gradients(model, images):
    """Cubed, these are 0 in float32; their map is that of gradients of any size."""
    tiny = model.replace(weights=model.weights * 1e-20)
    heatmap = grad_cam_plus_plus(tiny, images, TARGETS).heatmap
    limit = grad_cam_plus_plus(model.replace(weights=model.weights * 1e-5), images, TARGETS)
    np.testing.assert_allclose(heatmap, limit.heatmap, atol=1e-3)
    assert np.ptp(heatmap) > 0.5


def numpy_score_cam(model, images, infill, config, kept=True):
    features = numpy_features(model, images)
    images = np.asarray(images, np.float64)

    def score(images):
        logits = numpy_logits(model, images)
        values = softmax(logits, axis=1) if config.score == "probability" else logits
        return values[np.arange(3), np.asarray(TARGETS)]

    weights = np.full((3, CHANNELS), -np.inf if config.weights == "softmax" else 0.0)
    for k in range(CHANNELS):
        masks = numpy_enlarge(features[..., k])
        low, high = masks.min((1, 2), keepdims=True), masks.max((1, 2), keepdims=True)
        moves = (high > low)[:, 0, 0] & (kept if kept is True else kept[:, k])
        masks = ((masks - low) / np.where(high > low, high - low, 1))[..., None]
        values = score(infill + masks * (images - infill))
        if config.weights == "increase":
            values = values - score(infill)
        weights[moves, k] = values[moves]
    if config.weights == "softmax":
        weights = softmax(weights, axis=1)
    return np.einsum("nhwk,nk->nhw", features, weights)


@pytest.mark.parametrize("infill", ["zeros", "mean"])
@pytest.mark.parametrize("preset", ["wang-2020", "wang-2020-algorithm", "score-cam-pytorch"])
def test_score_cam(model, images, preset, infill):
    model = model.replace(bend="square", mixing=model.mixing.at[:, 3].set(-1.0))  # one is dead
    assert (numpy_features(model, images)[..., 3] == 0).all()
    config = ScoreCamConfig(**SCORE_CAM_PRESETS[preset], infill=infill, chunk_size=4)
    start = np.asarray(images, np.float64)
    start = {"zeros": 0 * start, "mean": start.mean((1, 2), keepdims=True) + 0 * start}[infill]
    coarse = numpy_score_cam(model, images, start, config)
    assert_cam(score_cam(model, images, TARGETS, config=config), coarse, 1e-3)


def test_score_cam_of_the_channels_that_vary_most(model, images):
    features = numpy_features(model, images)
    order = np.argsort(-features.std((1, 2)), axis=1)[:, :2]
    kept = np.zeros((3, CHANNELS), bool)
    np.put_along_axis(kept, order, True, axis=1)
    config = ScoreCamConfig(weights="softmax", score="logit", channels=2)
    coarse = numpy_score_cam(model, images, 0 * np.asarray(images), config, kept)
    assert_cam(score_cam(model, images, TARGETS, config=config), coarse, 1e-3)
    every = replace(config, channels=CHANNELS + 4)
    np.testing.assert_allclose(
        score_cam(model, images, TARGETS, config=every).heatmap,
        score_cam(model, images, TARGETS, config=replace(config, channels=None)).heatmap,
    )


def test_guided_grad_cam_is_a_product(model, images):
    model = model.replace(bend="square")
    features = numpy_features(model, images)
    weights = numpy_gradient(model, features).mean((1, 2))
    cam = numpy_enlarge(np.maximum(np.einsum("nhwk,nk->nhw", features, weights), 0))
    guided = np.asarray(rectified_gradient(model, images, TARGETS, "guided"), np.float64)
    product = cam[..., None] * guided
    config = GuidedGradCamConfig(reduce="sum_abs")
    result = guided_grad_cam(model, images, TARGETS, config=config)
    np.testing.assert_allclose(result.maps["signed"], product.sum(-1), rtol=1e-3, atol=1e-5)
    size = np.abs(product).sum(-1)
    peak = size.max((1, 2), keepdims=True)
    np.testing.assert_allclose(result.heatmap, size / np.where(peak == 0, 1, peak), atol=1e-3)


# A toy with a known answer.


@pytest.mark.parametrize("name", METHODS)
def test_the_map_lies_on_the_classs_own_object(name):
    """Channel k is the colour k, class k its mean: red lies top left, blue bottom right."""
    image = np.zeros((SIDE, SIDE, 3), np.float32)
    image[:8, :8, 0] = 1
    image[-8:, -8:, 2] = 1
    model = Blocks(jnp.eye(3), jnp.eye(3))
    method, config = METHODS[name]
    result = method(model, jnp.asarray([image] * 2), jnp.asarray([0, 2]), config=config)
    heatmap = np.asarray(result.heatmap)
    for i, corner in enumerate((np.s_[:8, :8], np.s_[-8:, -8:])):
        inside = np.zeros((SIDE, SIDE), bool)
        inside[corner] = True
        assert heatmap[i].argmax() in np.flatnonzero(inside)
        assert (heatmap[i] * inside).sum() > 0.7 * heatmap[i].sum()


# Images and chunks.


@each_method
def test_an_images_map_is_its_own_in_chunks_of_any_size(model, images, method, config):
    whole = method(model, images, TARGETS, config=config)
    for size in (1, 2, 4, 100):
        part = method(model, images, TARGETS, config=replace(config, chunk_size=size))
        for a, b in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    alone = method(model, images[1:2], TARGETS[1:2], config=config)
    np.testing.assert_allclose(alone.heatmap, whole.heatmap[1:2], atol=1e-5)
    moved = method(model, images.at[0, :8].set(0.3), TARGETS, config=config)
    np.testing.assert_allclose(moved.heatmap[1:], whole.heatmap[1:], atol=1e-5)
    assert np.abs(moved.heatmap[0] - whole.heatmap[0]).max() > 1e-3


@each_method
def test_a_map_that_is_nowhere_positive_is_zero(images, method, config):
    model = Blocks(jnp.ones((3, 2)), -jnp.ones((2, 3)))
    config = replace(config, weights="score", score="logit") if method is score_cam else config
    result = method(model, images, TARGETS, config=config)
    np.testing.assert_array_equal(result.heatmap, 0)


@each_method
def test_a_nan_spoils_its_own_image_only(images, method, config):
    images = 0.5 * images
    images = images.at[1, :, :8].set(1.0).at[1, :, 8:].set(0.9)
    model = Blocks(2 * jnp.eye(3), jnp.eye(3), "poisoned")
    assert np.isnan(model(images)).all(1).tolist() == [False, True, False]
    if method is score_cam:  # masked images are darker: show what is left out as it is
        config = replace(config, infill=images)
    result = method(model, images, TARGETS, config=config)
    assert np.isnan(result.heatmap[1]).all() and np.isnan(result.maps["signed"][1]).all()
    assert np.isfinite(result.heatmap[np.array([0, 2])]).all()


@each_method
def test_one_program_for_all_weights_and_images(model, images, method, config):
    programs = (last_features, _head_gradient, _score)
    method(model, images, TARGETS, config=config)
    compiled_so_far = [program._cache_size() for program in programs]
    other = model.replace(weights=-model.weights)
    method(other, images[:, ::-1], 2 - TARGETS, config=config)
    assert [program._cache_size() for program in programs] == compiled_so_far


@pytest.fixture(scope="module")
def half_precision():
    with jax.numpy_dtype_promotion("standard"):
        return create_model("resnet_tiny", CLASSES, dtype=jnp.bfloat16)


@pytest.mark.parametrize(
    ("method", "config"),
    [
        pytest.param(*row, id=name, marks=[pytest.mark.slow] * (name != "grad_cam"))
        for name, row in METHODS.items()
    ],
)
def test_a_bfloat16_classifier_of_ours(half_precision, method, config):
    x = jnp.asarray(np.random.default_rng(3).random((1, 32, 48, 3), np.float32))
    if method is score_cam:
        config = replace(config, channels=4, score="logit", weights="softmax")
    with jax.numpy_dtype_promotion("standard"):
        result = method(half_precision, x, TARGETS[:1], config=config)
    assert result.heatmap.shape == (1, 32, 48) and result.heatmap.dtype == jnp.float32
    assert np.isfinite(result.heatmap).all() and np.isfinite(result.maps["signed"]).all()
    assert result.heatmap.min() >= 0 and result.heatmap.max() <= 1


# What is refused.


@each_method
def test_a_model_without_features(model, images, method, config):
    name = method.__name__
    plain = Partial(lambda x: model(x))
    with pytest.raises(ValueError, match=rf"{name} needs .* Partial has no features and no head"):
        method(plain, images, TARGETS, config=config)

    class OnlyFeatures:
        features = staticmethod(model.features)

        def __call__(self, images):
            return model(images)

    with pytest.raises(ValueError, match="OnlyFeatures has no head. fgjax's classifiers have both"):
        method(OnlyFeatures(), images, TARGETS, config=config)


@each_method
def test_features_that_are_no_map(images, method, config):
    model = Blocks(jnp.eye(3), jnp.eye(3), "pooled")
    with pytest.raises(
        ValueError, match=r"features must be a map n H W K, or .*; they are \(3, 3\)"
    ):
        method(model, images, TARGETS, config=config)


@each_method
def test_inputs_that_do_not_fit(model, images, method, config):
    with pytest.raises(ValueError, match=r"target 3 of image 0 .*3 classes"):
        method(model, images, TARGETS + 1, config=config)
    with pytest.raises(ValueError, match="Normalisation belongs to the model"):
        method(model, images * 255, TARGETS, config=config)


def test_a_random_infill_needs_a_key(key, model, images):
    config = ScoreCamConfig(infill="uniform")
    with pytest.raises(ValueError, match="infill='uniform' is random: give key="):
        score_cam(model, images, TARGETS, config=config)
    run = partial(score_cam, model, images, TARGETS, key=key, config=config)
    np.testing.assert_array_equal(run().heatmap, run().heatmap)


def test_guided_grad_cam_needs_relus(images):
    with pytest.raises(ValueError, match="the model has no ReLU"):
        guided_grad_cam(Blocks(jnp.eye(3), jnp.eye(3), "smooth"), images, TARGETS)


@pytest.mark.parametrize(
    ("config", "change", "words"),
    [
        (GradCamConfig, dict(score="odds"), "score='odds': one of logit"),
        (GradCamConfig, dict(chunk_size=0), "chunk_size=0: must be at least 1"),
        (GradCamPlusPlusConfig, dict(score="odds"), "score='odds': one of logit"),
        (GuidedGradCamConfig, dict(reduce="max"), "reduce='max': one of max_abs"),
        (ScoreCamConfig, dict(weights="cic"), "weights='cic': one of increase, score, softmax"),
        (ScoreCamConfig, dict(channels=0), "channels=0: must be at least 1"),
        (ScoreCamConfig, dict(infill="black"), "infill='black': must be one of"),
    ],
)
def test_settings_that_make_no_sense(config, change, words, untyped):
    with pytest.raises(ValueError, match=words):
        config(**change)


def test_presets_are_settings():
    configs = {name: ScoreCamConfig(**p) for name, p in SCORE_CAM_PRESETS.items()}
    assert len(set(configs.values())) == len(configs)
    assert configs["wang-2020"] == ScoreCamConfig()
