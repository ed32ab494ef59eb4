"""The gradient family against closed forms and NumPy.

For a linear model the gradient is its weight, whatever the image, the noise and the path; for a
quadratic one every integral and every mean over noise is known too.
"""

from dataclasses import replace
from functools import partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.special import softmax

from fgjax.attribution.common.score_gradient import (
    REDUCTIONS,
    add_at,
    input_gradient,
    score_gradient,
)
from fgjax.attribution.gradients import (
    SMOOTH_GRADIENT_PRESETS,
    GradientConfig,
    SmoothGradientConfig,
    gradient,
    smooth_gradient,
)
from fgjax.attribution.input_x_gradient import InputXGradientConfig, input_x_gradient
from fgjax.attribution.path_integral import (
    INTEGRATED_GRADIENTS_PRESETS,
    IntegratedGradientsConfig,
    integrated_gradients,
    path_integral,
    quadrature,
)
from fgjax.models.classifier import Classifier, create_model

SIDE, CLASSES = 6, 3
RULES = ("gausslegendre", "midpoint", "trapezoid", "left", "right")


def linear(weights, images):
    return jnp.einsum("nhwc,hwck->nk", images, weights)


def cubic(weights, images):
    """s_k = Σ w_k x³: its gradient is 3 w_k x², pixel by pixel."""
    return linear(weights, images**3)


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(1)
    return rng.normal(size=(SIDE, SIDE, 3, CLASSES)).astype(np.float32)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((3, SIDE, SIDE, 3), np.float32))


TARGETS = jnp.asarray([2, 0, 1])
METHODS = {
    "gradient": (gradient, GradientConfig()),
    "input": (input_x_gradient, InputXGradientConfig()),
    "smooth": (smooth_gradient, SmoothGradientConfig(samples=5)),
    "squared": (smooth_gradient, SmoothGradientConfig(samples=5, kind="squared")),
    "variance": (smooth_gradient, SmoothGradientConfig(samples=5, kind="variance")),
    "integrated": (integrated_gradients, IntegratedGradientsConfig(steps=4)),
}
each_method = pytest.mark.parametrize(("method", "config"), METHODS.values(), ids=METHODS)


def of_targets(weights):
    """`n h w c`: the weights of each image's target."""
    return np.moveaxis(weights[..., np.asarray(TARGETS)], -1, 0)


# Closed forms.


def test_the_gradient_of_a_linear_model_is_its_weight(weights, images):
    model = Partial(linear, jnp.asarray(weights))
    expected = of_targets(weights)
    np.testing.assert_allclose(input_gradient(model, images, TARGETS), expected, rtol=1e-6)
    result = gradient(model, images, TARGETS)
    np.testing.assert_allclose(result.maps["signed"], expected.sum(-1), rtol=1e-5, atol=1e-6)
    largest = np.abs(expected).max(-1)
    np.testing.assert_allclose(
        result.heatmap, largest / largest.max((1, 2), keepdims=True), rtol=1e-5
    )


def test_input_times_gradient_of_a_linear_model_is_its_terms(weights, images):
    """They sum to the score; of a cubic one, s = Σ w x³, to three times it."""
    terms = of_targets(weights) * np.asarray(images)
    for power, function in ((1, linear), (3, cubic)):
        model = Partial(function, jnp.asarray(weights))
        expected = power * (of_targets(weights) * np.asarray(images) ** power).sum(-1)
        result = input_x_gradient(model, images, TARGETS)
        np.testing.assert_allclose(result.maps["signed"], expected, rtol=1e-4, atol=1e-5)
        size = np.abs(expected)
        np.testing.assert_allclose(
            result.heatmap, size / size.max((1, 2), keepdims=True), rtol=1e-4, atol=1e-5
        )
    largest = np.abs(terms).max(-1)
    by_channel = input_x_gradient(
        Partial(linear, jnp.asarray(weights)),
        images,
        TARGETS,
        config=InputXGradientConfig(reduce="max_abs"),
    )
    np.testing.assert_allclose(
        by_channel.heatmap, largest / largest.max((1, 2), keepdims=True), rtol=1e-4
    )


def test_input_times_gradient_is_the_images_times_the_gradient(key, images):
    """Of a model that is not linear; and one step of integrated gradients from black."""
    hidden = jax.random.normal(key, (images[0].size, 10)) / 5
    model = Partial(lambda w, x: jnp.tanh(x.reshape(len(x), -1) @ w)[:, :CLASSES], hidden)
    expected = (images * input_gradient(model, images, TARGETS)).sum(-1)
    signed = input_x_gradient(model, images, TARGETS).maps["signed"]
    np.testing.assert_allclose(signed, expected, rtol=1e-6)
    one = IntegratedGradientsConfig(steps=1, rule="right")
    path = integrated_gradients(model, images, TARGETS, config=one).maps["signed"]
    np.testing.assert_allclose(signed, path, rtol=1e-5, atol=1e-6)


def test_scores(weights, images):
    """∂s/∂x = Σ_k ∂s/∂logit_k w_k, with ∂s/∂logit by hand."""
    model = Partial(linear, jnp.asarray(weights) / 10)
    logits = np.asarray(model(images), np.float64)
    p = softmax(logits, axis=1)
    chosen = np.eye(CLASSES)[np.asarray(TARGETS)]
    p_c = (p * chosen).sum(1, keepdims=True)
    by_logits = {
        "logit": chosen,
        "probability": p_c * (chosen - p),
        "log_probability": chosen - p,
        "log_odds": (chosen - p) / (1 - p_c),
        "sigmoid": chosen * np.exp(-logits) / (1 + np.exp(-logits)) ** 2,
    }
    for score, outer in by_logits.items():
        expected = np.einsum("nk,hwck->nhwc", outer, weights / 10)
        result = input_gradient(model, images, TARGETS, score=score)
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6, err_msg=score)
        config = GradientConfig(score=score)
        signed = gradient(model, images, TARGETS, config=config).maps["signed"]
        np.testing.assert_allclose(signed, expected.sum(-1), rtol=1e-4, atol=1e-5)


def test_reductions(weights, images):
    values = of_targets(weights).astype(np.float64)
    expected = {
        "max_abs": np.abs(values).max(-1),
        "sum_abs": np.abs(values).sum(-1),
        "abs_sum": np.abs(values.sum(-1)),
        "norm": np.linalg.norm(values, axis=-1),
    }
    assert set(expected) == set(REDUCTIONS)
    model = Partial(linear, jnp.asarray(weights))
    for name, map_ in expected.items():
        heatmap = gradient(model, images, TARGETS, config=GradientConfig(reduce=name)).heatmap
        np.testing.assert_allclose(heatmap, map_ / map_.max((1, 2), keepdims=True), rtol=1e-5)


def test_noise_does_not_matter_to_a_linear_model(key, weights, images):
    model, expected = Partial(linear, jnp.asarray(weights)), of_targets(weights)
    run = partial(smooth_gradient, model, images, TARGETS, key=key)
    mean = run(config=METHODS["smooth"][1])
    np.testing.assert_allclose(mean.maps["signed"], expected.sum(-1), rtol=1e-4, atol=1e-5)
    squared = run(config=METHODS["squared"][1])
    np.testing.assert_allclose(squared.maps["squared"], (expected**2).sum(-1), rtol=1e-4)
    variance = run(config=METHODS["variance"][1])
    # Exactly: a rounding error, scaled to 1, would look like a map.
    np.testing.assert_array_equal(variance.maps["variance"], 0)
    np.testing.assert_array_equal(variance.heatmap, 0)


@pytest.mark.parametrize("kind", ["mean", "squared", "variance"])
def test_noisy_gradients_in_numpy(key, weights, images, kind):
    """The same noise, drawn here; the gradient of the cubic model by hand."""
    samples, noise = 7, 0.2
    config = SmoothGradientConfig(samples=samples, noise=noise, kind=kind, reduce="sum_abs")
    result = smooth_gradient(
        Partial(cubic, jnp.asarray(weights)), images, TARGETS, key=key, config=config
    )
    for i, (image, weight) in enumerate(zip(images, of_targets(weights), strict=True)):
        own = [jax.random.fold_in(jax.random.fold_in(key, i), s) for s in range(samples)]
        eps = np.stack([np.asarray(jax.random.normal(k, image.shape), np.float64) for k in own])
        image = np.asarray(image, np.float64)
        x = image + noise * np.ptp(image) * eps
        gradients = 3 * weight * x**2
        expected = {
            "mean": gradients.mean(0),
            "squared": (gradients**2).mean(0),
            "variance": gradients.var(0),
        }[kind]
        name = "signed" if kind == "mean" else kind
        np.testing.assert_allclose(
            result.maps[name][i], expected.sum(-1), rtol=1e-3, atol=1e-4 * np.abs(expected).max()
        )
        reduced = np.abs(expected).sum(-1)
        np.testing.assert_allclose(result.heatmap[i], reduced / reduced.max(), atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_a_quadrature_integrates(rule):
    """Each rule by its order: x^d exactly up to the degree it must know, and x² nearly."""
    exact = {"gausslegendre": 9, "midpoint": 1, "trapezoid": 1, "left": 0, "right": 0}[rule]
    nodes, weights = quadrature(rule, 5)
    assert nodes.min() >= 0 and nodes.max() <= 1
    for degree in range(exact + 1):
        assert (weights * nodes**degree).sum() == pytest.approx(1 / (degree + 1), abs=1e-6)
    nodes, weights = quadrature(rule, 200)
    assert (weights * nodes**2).sum() == pytest.approx(1 / 3, abs=3e-3)


def test_the_papers_rule_is_the_right_riemann_sum():
    nodes, weights = quadrature("right", 4)
    np.testing.assert_allclose(nodes, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(weights, 0.25)


def test_integrated_gradients_of_a_cubic_model(weights, images):
    """∫ 3 w (x' + α d)² dα · d = w (x³ - x'³): two Gauss-Legendre nodes are exact."""
    model = Partial(cubic, jnp.asarray(weights))
    baseline = 0.3 * np.asarray(images)[::-1]
    config = IntegratedGradientsConfig(steps=2, baseline=baseline)
    expected = of_targets(weights) * (np.asarray(images) ** 3 - baseline**3)
    values = path_integral(model, images, TARGETS, baseline, steps=2)
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-5)
    result = integrated_gradients(model, images, TARGETS, config=config)
    np.testing.assert_allclose(result.maps["signed"], expected.sum(-1), rtol=1e-3, atol=1e-5)
    size = np.abs(expected.sum(-1))
    np.testing.assert_allclose(result.heatmap, size / size.max((1, 2), keepdims=True), atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_sums_in_numpy(weights, images, rule):
    model = Partial(cubic, jnp.asarray(weights))
    nodes, shares = quadrature(rule, 3)
    x = np.asarray(images, np.float64)
    expected = sum(x * s * 3 * of_targets(weights) * (a * x) ** 2 for a, s in zip(nodes, shares))
    values = path_integral(model, images, TARGETS, jnp.zeros_like(images), steps=3, rule=rule)
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-5)


def test_completeness(key, weights, images):
    """Σ IG = s(x) - s(x') for any smooth model, from any baseline."""
    hidden = jax.random.normal(key, (images[0].size, 10)) / 5
    out = jax.random.normal(jax.random.key(1), (10, CLASSES))
    model = Partial(lambda w, x: jnp.tanh(x.reshape(len(x), -1) @ w[0]) @ w[1], (hidden, out))
    mean = np.broadcast_to(images.mean((1, 2), keepdims=True), images.shape)
    for baseline, start in {"zeros": 0 * images, "mean": mean}.items():
        difference = np.asarray(model(images) - model(start))[np.arange(3), np.asarray(TARGETS)]
        config = IntegratedGradientsConfig(steps=20, baseline=baseline)
        signed = integrated_gradients(model, images, TARGETS, config=config).maps["signed"]
        np.testing.assert_allclose(signed.sum((1, 2)), difference, rtol=1e-3, atol=1e-4)


# Images, keys, chunks.


@each_method
def test_the_chunk_size_does_not_matter(key, weights, images, method, config):
    model = Partial(cubic, jnp.asarray(weights))
    run = partial(method, model, images, TARGETS, key=key)
    expected = run(config=config)
    for size in (1, 2, 4, 100):
        result = run(config=replace(config, chunk_size=size))
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@each_method
def test_an_images_map_is_its_own(key, weights, images, method, config):
    model = Partial(cubic, jnp.asarray(weights))
    config = replace(config, chunk_size=4)
    keys = jnp.stack([jax.random.fold_in(key, i) for i in range(3)])
    one = method(model, images, TARGETS, key=key, config=config)
    np.testing.assert_array_equal(
        one.heatmap, method(model, images, TARGETS, key=keys, config=config).heatmap
    )
    alone = method(model, images[1:2], TARGETS[1:2], key=keys[1:2], config=config)
    np.testing.assert_allclose(alone.heatmap, one.heatmap[1:2], rtol=1e-4, atol=1e-5)
    moved = method(model, images.at[0].set(0.3), TARGETS, key=key, config=config)
    np.testing.assert_allclose(moved.heatmap[1:], one.heatmap[1:], rtol=1e-4, atol=1e-5)
    assert np.abs(moved.heatmap[0] - one.heatmap[0]).max() > 1e-3


@pytest.mark.parametrize(
    "poison",
    [
        lambda bad, logits: logits * jnp.where(bad, jnp.nan, 1),
        lambda bad, logits: jnp.where(bad, jnp.nan, logits),  # its gradient is finite
    ],
)
@each_method
def test_a_nan_spoils_its_own_image_only(key, weights, images, method, config, poison):
    def model(x):
        # Far above what noise reaches, and above what a path from 0 reaches but at its end.
        return poison((x.mean((1, 2, 3)) > 0.8)[:, None], cubic(jnp.asarray(weights), x))

    images = images.at[1].set(1.0)
    if method is smooth_gradient:
        config = replace(config, noise=1e-3)
    result = method(model, images, TARGETS, key=key, config=replace(config, chunk_size=2))
    for map_ in (result.heatmap, *result.maps.values()):
        assert np.isnan(map_[1]).all() or method is smooth_gradient
        assert np.isfinite(map_[np.array([0, 2])]).all()


@each_method
def test_a_model_that_does_not_look_gives_zeros(key, images, method, config):
    model = lambda x: 0 * x.mean((1, 2))
    result = method(model, images, TARGETS, key=key, config=config)
    np.testing.assert_array_equal(result.heatmap, 0)


@each_method
def test_the_heatmap_is_in_0_1(key, weights, images, method, config):
    model = Partial(cubic, jnp.asarray(weights))
    result = method(model, images, TARGETS, key=key, config=config)
    assert result.heatmap.dtype == jnp.float32
    assert (result.heatmap >= 0).all()
    np.testing.assert_allclose(result.heatmap.max((1, 2)), 1)


def test_the_same_key_gives_the_same_map(key, weights, images):
    model = Partial(cubic, jnp.asarray(weights))
    run = partial(smooth_gradient, model, images, TARGETS, config=METHODS["smooth"][1])
    np.testing.assert_array_equal(run(key=key).heatmap, run(key=key).heatmap)
    assert (run(key=key).heatmap != run(key=jax.random.key(1)).heatmap).any()


def test_baselines(key, weights, images):
    """Names, arrays and functions, as infills are given."""
    model = Partial(linear, jnp.asarray(weights))
    mean = np.broadcast_to(images.mean((1, 2), keepdims=True), images.shape)
    colour = np.asarray([0.1, 0.2, 0.3], np.float32)
    baselines = {
        "black": ("zeros", 0 * images),
        "mean": ("mean", mean),
        "array": (colour, np.broadcast_to(colour, images.shape)),
        "function": (lambda image, key: image / 2, images / 2),
    }
    for name, (baseline, start) in baselines.items():
        config = IntegratedGradientsConfig(steps=2, baseline=baseline)
        signed = integrated_gradients(model, images, TARGETS, config=config).maps["signed"]
        expected = (of_targets(weights) * np.asarray(images - start)).sum(-1)
        np.testing.assert_allclose(signed, expected, rtol=1e-3, atol=1e-5, err_msg=name)
    random = IntegratedGradientsConfig(steps=2, baseline="uniform")
    with pytest.raises(ValueError, match="baseline='uniform' is random: give key="):
        integrated_gradients(model, images, TARGETS, config=random)
    integrated_gradients(model, images, TARGETS, key=key, config=random)


# Models.


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


class EquinoxDense(eqx.Module):
    layer: eqx.nn.Linear

    def __call__(self, x):
        return jax.vmap(self.layer)(x.reshape(len(x), -1))


@each_method
def test_every_kind_of_model_compiles_once(key, weights, images, method, config):
    kernel = jnp.asarray(weights.reshape(-1, CLASSES))
    bias = jnp.zeros(CLASSES)
    variables = {"params": {"Dense_0": {"kernel": kernel, "bias": bias}}}
    layer = eqx.nn.Linear(len(kernel), CLASSES, key=key)
    layer = eqx.tree_at(lambda m: (m.weight, m.bias), layer, (kernel.T, bias))
    models = (
        lambda x: x.reshape(len(x), -1) @ kernel,
        Partial(Dense().apply, variables),
        EquinoxDense(layer),
        Classifier(variables, Dense(), mean=(0.0,) * 3, std=(1.0,) * 3),
    )
    expected = None
    for model in models:
        result = method(model, images, TARGETS, key=key, config=config)
        expected = result if expected is None else expected
        np.testing.assert_allclose(result.heatmap, expected.heatmap, atol=1e-5)
        compiled_so_far = score_gradient._cache_size()
        method(model, images[:, ::-1], 2 - TARGETS, key=jax.random.key(4), config=config)
        assert score_gradient._cache_size() == compiled_so_far


def test_parameters_are_arguments_and_the_family_shares_a_program(key, weights, images):
    options = dict(chunk_size=3)
    model = Partial(linear, jnp.asarray(weights))
    gradient(model, images, TARGETS, config=GradientConfig(**options))
    compiled_so_far = score_gradient._cache_size()
    other = Partial(linear, jnp.asarray(weights[::-1].copy()))
    gradient(other, images, TARGETS, config=GradientConfig(**options))
    for steps in (3, 4):
        config = IntegratedGradientsConfig(steps=steps, **options)
        integrated_gradients(other, images, TARGETS, config=config)
        config = SmoothGradientConfig(samples=steps, **options)
        smooth_gradient(other, images, TARGETS, key=key, config=config)
    assert score_gradient._cache_size() == compiled_so_far


@pytest.mark.slow
def test_a_bfloat16_network(key):
    x = jnp.asarray(np.random.default_rng(3).random((2, 32, 32, 3), np.float32))
    with jax.numpy_dtype_promotion("standard"):
        model = create_model("resnet_tiny", CLASSES, dtype=jnp.bfloat16)
        for method, config in (METHODS["gradient"], METHODS["variance"]):
            config = replace(config, chunk_size=2)
            result = method(model, x, TARGETS[:2], key=key, config=config)
            assert result.heatmap.dtype == jnp.float32
            assert np.isfinite(result.heatmap).all() and np.ptp(result.heatmap) > 0.1


# What is refused.


@each_method
def test_inputs_that_do_not_fit(key, weights, images, method, config):
    run = partial(method, Partial(linear, jnp.asarray(weights)), key=key, config=config)
    with pytest.raises(ValueError, match=r"target 3 of image 0 .*3 classes \(0 to 2\)"):
        run(images, TARGETS + 1)
    with pytest.raises(ValueError, match="Normalisation belongs to the model"):
        run(images * 255, TARGETS)
    with pytest.raises(TypeError, match="must be callable .* got dict"):
        method({"w": 1}, images, TARGETS, key=key, config=config)


def test_noise_needs_a_key(key, weights, images):
    run = partial(smooth_gradient, Partial(linear, jnp.asarray(weights)), images, TARGETS)
    with pytest.raises(ValueError, match=r"smooth_gradient draws noise: give key=jax.random.key"):
        run()
    with pytest.raises(ValueError, match="2 keys for 3 images"):
        run(key=jax.random.split(key, 2))


def test_the_old_kind_of_key(weights, images, untyped):
    with pytest.raises(ValueError, match="typed key"):
        smooth_gradient(
            Partial(linear, jnp.asarray(weights)), images, TARGETS, key=jax.random.PRNGKey(0)
        )


@pytest.mark.parametrize(
    ("config", "change", "words"),
    [
        (GradientConfig, dict(score="logits"), "score='logits': one of logit, .*mean logit"),
        (GradientConfig, dict(reduce="max"), "reduce='max': one of max_abs"),
        (GradientConfig, dict(chunk_size=0), "chunk_size=0: must be at least 1"),
        (SmoothGradientConfig, dict(kind="var"), "kind='var': one of mean, squared, variance"),
        (SmoothGradientConfig, dict(samples=0), "samples=0: must be at least 1"),
        (SmoothGradientConfig, dict(noise=0.0), "noise=0.0: must be above 0"),
        (IntegratedGradientsConfig, dict(rule="simpson"), "rule='simpson': one of gausslegendre"),
        (IntegratedGradientsConfig, dict(steps=0), "steps=0: must be at least 1"),
        (IntegratedGradientsConfig, dict(steps=1, rule="trapezoid"), "both ends of the path"),
        (IntegratedGradientsConfig, dict(baseline="black"), "'black': must be one of blur"),
    ],
)
def test_settings_that_make_no_sense(config, change, words, untyped):
    with pytest.raises(ValueError, match=words):
        config(**change)


def test_presets_are_settings():
    kinds = [SmoothGradientConfig(**p).kind for p in SMOOTH_GRADIENT_PRESETS.values()]
    assert kinds == ["mean", "squared", "variance"]
    assert IntegratedGradientsConfig(**INTEGRATED_GRADIENTS_PRESETS["captum"]).steps == 50
    assert (
        IntegratedGradientsConfig(**INTEGRATED_GRADIENTS_PRESETS["sundararajan-2017"]).rule
        == "right"
    )


def test_a_running_sum_is_added_to_in_its_place():
    """It is donated: no second copy of it is held. A place of weight 0 may be NaN."""
    total, values = jnp.ones((3, 2, 2, 1)), jnp.full((3, 2, 2, 1), 5.0).at[2].set(jnp.nan)
    after = add_at(total, np.array([0, 2, 1]), np.array([1, 2, 0], np.float32), values)
    assert total.is_deleted()
    np.testing.assert_array_equal(after[:, 0, 0, 0], [6, 1, 11])
