"""Guided backpropagation and DeconvNet against a two-layer network by hand, and every form in
which a model may write its ReLUs."""

from functools import partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from fgjax.attribution.common.score_gradient import input_gradient
from fgjax.attribution.gradients import GradientConfig
from fgjax.attribution.guided import (
    DeconvnetConfig,
    GuidedBackpropConfig,
    _ruled_gradient,
    deconvnet,
    guided_backprop,
    rectified_gradient,
    with_relu_rule,
)
from fgjax.models.networks.layers import Conv, DepthwiseConv

SIDE, HIDDEN, CLASSES = 4, 12, 3
INPUTS = SIDE * SIDE * 3
TARGETS = jnp.asarray([2, 0, 1])
RULES = ("guided", "deconv")
each_rule = pytest.mark.parametrize("rule", RULES)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((3, SIDE, SIDE, 3), np.float32))


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(1)
    shapes = ((INPUTS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, CLASSES))
    return tuple(rng.normal(size=s).astype(np.float32) / np.sqrt(s[0]) for s in shapes)


def network(relu, weights, images):
    """Two hidden layers. `relu` is the model's way of writing it."""
    first, second, last = weights
    x = images.reshape(len(images), -1)
    return relu(relu(x @ first - 0.1) @ second) @ last


def by_hand(weights, images, rule, bound=np.inf):
    """The whole backward pass in NumPy."""
    first, second, last = (np.asarray(w, np.float64) for w in weights)
    clip = lambda x: np.clip(x, 0, bound)
    into_first = np.asarray(images, np.float64).reshape(len(images), -1) @ first - 0.1
    into_second = clip(into_first) @ second

    def back(g, x):
        g = np.where(x < bound, g, 0)
        return np.where((g > 0) & ((x > 0) | (rule == "deconv")), g, 0)

    g = back(last[:, np.asarray(TARGETS)].T, into_second)
    g = back(g @ second.T, into_first)
    return (g @ first.T).reshape(images.shape)


def relu_in_jit(x):
    return jax.jit(lambda x: 1.0 * jax.nn.relu(x))(x)


@jax.custom_vjp
def own_relu(x):
    return jnp.maximum(x, 0)


own_relu.defvjp(lambda x: (own_relu(x), x), lambda x, g: (jnp.where(x > 0, g, 0),))

RELUS = {
    "jax.nn.relu": jax.nn.relu,
    "nn.relu": nn.relu,
    "maximum": lambda x: jnp.maximum(x, 0),
    "maximum, the other way": lambda x: jnp.maximum(0.0, x),
    "maximum with an array of zeros": lambda x: jnp.maximum(x, jnp.zeros_like(x)),
    "clip": lambda x: jnp.clip(x, 0),
    "clip from below": lambda x: jnp.clip(x, min=0.0),
    "in jit": relu_in_jit,
    "in nested jit": jax.jit(jax.jit(jax.nn.relu)),
    "in checkpoint": jax.checkpoint(lambda x: 1.0 * jax.nn.relu(x)),
    "in vmap": jax.vmap(jax.nn.relu),
    "in scan": lambda x: jax.lax.scan(lambda c, row: (c, jax.nn.relu(row) + c), 0.0, x)[1],
    "with its own derivative": own_relu,
    "in fori_loop of known length": lambda x: jax.lax.fori_loop(
        0, 2, lambda i, y: jax.nn.relu(y), x
    ),
}


@each_rule
@pytest.mark.parametrize("name", RELUS)
def test_every_way_to_write_a_relu(weights, images, rule, name):
    model = Partial(partial(network, RELUS[name]), tuple(map(jnp.asarray, weights)))
    expected = by_hand(weights, images, rule)
    result = rectified_gradient(model, images, TARGETS, rule)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)
    plain = input_gradient(model, images, TARGETS)
    assert np.abs(plain - result).max() > 0.01  # the rule changes something


@each_rule
@pytest.mark.parametrize("name", ["relu6", "clip"])
def test_relu6_is_a_relu_clipped_above(weights, images, rule, name):
    weights = (20 * weights[0], *weights[1:])
    relu = {"relu6": jax.nn.relu6, "clip": lambda x: jnp.clip(x, 0, 6)}[name]
    model = Partial(partial(network, relu), tuple(map(jnp.asarray, weights)))
    into_first = np.asarray(images).reshape(3, -1) @ weights[0]
    assert (into_first > 6).any() and (into_first < 0).any()
    expected = by_hand(weights, images, rule, bound=6)
    result = rectified_gradient(model, images, TARGETS, rule)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "method", "config"),
    [
        ("guided", guided_backprop, GuidedBackpropConfig(reduce="norm", chunk_size=2)),
        ("deconv", deconvnet, DeconvnetConfig(reduce="norm", chunk_size=2)),
    ],
)
def test_the_methods(weights, images, rule, method, config):
    assert issubclass(type(config), GradientConfig)
    model = Partial(partial(network, jax.nn.relu), tuple(map(jnp.asarray, weights)))
    expected = by_hand(weights, images, rule)
    result = method(model, images, TARGETS, config=config)
    np.testing.assert_allclose(result.maps["signed"], expected.sum(-1), rtol=1e-3, atol=1e-5)
    size = np.linalg.norm(expected, axis=-1)
    np.testing.assert_allclose(result.heatmap, size / size.max((1, 2), keepdims=True), atol=1e-4)


class Depthwise(nn.Module):
    shifted: bool

    @nn.compact
    def __call__(self, x):
        x = jnp.clip(Conv(8, 3, 2)(x - 0.5), 0, 6)
        x = jnp.clip(DepthwiseConv(3, shifted=self.shifted)(x), 0, 6)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


@each_rule
def test_a_depthwise_convolution_keeps_its_own_derivative(images, rule):
    """The shifted form has a derivative of its own; the other is XLA's. Logits stay too."""
    variables = jax.jit(Depthwise(True).init)(jax.random.key(0), images)
    results = []
    for shifted in (True, False):
        model = Partial(Depthwise(shifted).apply, variables)
        ruled = jax.jit(with_relu_rule(model, rule))
        np.testing.assert_allclose(ruled(images), jax.jit(model)(images), rtol=1e-6)
        results.append(rectified_gradient(model, images, TARGETS, rule))
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-6)
    assert np.abs(results[0] - input_gradient(model, images, TARGETS)).max() > 1e-3


# What is not a ReLU.

GATES = {
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "hard swish": jax.nn.hard_swish,
    "hard sigmoid": jax.nn.hard_sigmoid,
    "leaky relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "tanh": jnp.tanh,
}


@pytest.mark.parametrize("name", GATES)
def test_a_model_without_relus_says_so(weights, images, name):
    model = Partial(partial(network, GATES[name]), tuple(map(jnp.asarray, weights)))
    for method in (guided_backprop, deconvnet):
        with pytest.raises(ValueError, match="the model has no ReLU .* Use `gradient`"):
            method(model, images, TARGETS)


@pytest.mark.parametrize("name", GATES)
def test_other_activations_keep_their_gradient(weights, images, name):
    """Of a network with one ReLU, all else is differentiated as it is."""

    def after(weights, x):
        return GATES[name](x @ weights[1]) @ weights[2]

    def model(images):
        x = images.reshape(len(images), -1)
        return after(weights, jax.nn.relu(x @ weights[0] - 0.1))

    into = images.reshape(3, -1) @ weights[0] - 0.1
    score = lambda x: after(weights, x)[jnp.arange(3), TARGETS].sum()
    g = jax.jit(jax.grad(score))(jax.nn.relu(into))
    expected = (jnp.where((g > 0) & (into > 0), g, 0) @ weights[0].T).reshape(images.shape)
    result = rectified_gradient(model, images, TARGETS, "guided")
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)


class LinenNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.GroupNorm(num_groups=2)(nn.LayerNorm()(x))


class EquinoxNorm(eqx.Module):
    norm: eqx.nn.LayerNorm

    def __call__(self, x):
        return jax.vmap(self.norm)(x)


@pytest.mark.parametrize("library", ["linen", "equinox"])
def test_the_clamped_variance_of_a_normalisation_is_no_relu(weights, images, library):
    """Both libraries write max(variance, 0) for the sake of rounding."""
    if library == "linen":
        norm = LinenNorm()
        variables = jax.jit(norm.init)(jax.random.key(0), jnp.zeros((3, HIDDEN)))
        normalise = lambda x: norm.apply(variables, x)
    else:
        normalise = EquinoxNorm(eqx.nn.LayerNorm(HIDDEN))
    model = lambda x: network(normalise, weights, x)
    with pytest.raises(ValueError, match="no ReLU"):
        guided_backprop(model, images, TARGETS)


def test_a_maximum_of_integers_is_no_relu(images):
    def model(x):
        place = jnp.maximum((x.mean((1, 2, 3)) * 10).astype(jnp.int32), 0)
        return x.mean((1, 2)) * jnp.take(jnp.arange(20.0), place)[:, None]

    with pytest.raises(ValueError, match="no ReLU"):
        guided_backprop(model, images, TARGETS)


# Where none can be replaced.


@jax.custom_vjp
def own_block(x):
    return jax.nn.relu(x) * 2


own_block.defvjp(lambda x: (own_block(x), x), lambda x, g: (g,))


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (lambda x: jax.lax.cond(True, jax.nn.relu, jnp.tanh, x), "inside 'cond'"),
        (lambda x: jax.lax.while_loop(lambda y: y.sum() < 0, jax.nn.relu, x), "inside 'while'"),
        (own_block, "a function with its own derivative"),
    ],
)
def test_a_relu_that_cannot_be_replaced_is_an_error(weights, images, block, words):
    """Even beside one that can: half of a rule is no rule."""
    model = Partial(
        partial(network, lambda x: block(jax.nn.relu(x))), tuple(map(jnp.asarray, weights))
    )
    with pytest.raises(ValueError, match=f"a ReLU sits {words}|a ReLU sits inside .*{words}"):
        guided_backprop(model, images, TARGETS)


def test_a_loop_without_relus_may_stay(weights, images):
    """What needs no rule runs as it is, a cond among it."""

    def model(x):
        x = jax.lax.cond(x.sum() > 0, lambda y: y, jnp.tanh, x)
        return network(jax.nn.relu, weights, x)

    result = rectified_gradient(model, images, TARGETS, "guided")
    np.testing.assert_allclose(result, by_hand(weights, images, "guided"), rtol=1e-4, atol=1e-6)


# Models.


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(HIDDEN, name="a")(x.reshape(len(x), -1)))
        return nn.Dense(CLASSES, name="c")(nn.remat(Inner)(name="b")(x))


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(HIDDEN, use_bias=False)(x))


class Equinox(eqx.Module):
    layers: tuple

    def __call__(self, images):
        first, second, last = self.layers

        @jax.vmap
        def one(x):
            return last(jax.nn.relu(second(jax.nn.relu(first(x.reshape(-1))))))

        return one(images)


def every_kind_of_model(weights):
    first, second, last = map(jnp.asarray, weights)
    bias = jnp.full(HIDDEN, -0.1)
    yield lambda x: network(jax.nn.relu, weights, x)
    params = {
        "a": {"kernel": first, "bias": bias},
        "b": {"Dense_0": {"kernel": second}},
        "c": {"kernel": last, "bias": jnp.zeros(CLASSES)},
    }
    yield Partial(Linen().apply, {"params": params})
    made = []
    for kernel, b in ((first, bias), (second, None), (last, None)):
        layer = eqx.nn.Linear(*kernel.shape, use_bias=b is not None, key=jax.random.key(0))
        layer = eqx.tree_at(lambda m: m.weight, layer, kernel.T)
        made.append(layer if b is None else eqx.tree_at(lambda m: m.bias, layer, b))
    yield Equinox(tuple(made))


@each_rule
def test_every_kind_of_model_compiles_once(weights, images, rule):
    expected = by_hand(weights, images, rule)
    for model in every_kind_of_model(weights):
        result = rectified_gradient(model, images, TARGETS, rule)
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)
        compiled_so_far = _ruled_gradient._cache_size()
        rectified_gradient(model, images[:, ::-1], 2 - TARGETS, rule)
        assert _ruled_gradient._cache_size() == compiled_so_far


def test_other_weights_are_another_argument(weights, images):
    one = Partial(partial(network, jax.nn.relu), tuple(map(jnp.asarray, weights)))
    two = jax.tree.map(lambda w: -w, one)
    rectified_gradient(one, images, TARGETS, "guided")
    compiled_so_far = _ruled_gradient._cache_size()
    flipped = tuple(-w for w in weights)
    np.testing.assert_allclose(
        rectified_gradient(two, images, TARGETS, "guided"),
        by_hand(flipped, images, "guided"),
        rtol=1e-4,
        atol=1e-6,
    )
    assert _ruled_gradient._cache_size() == compiled_so_far


@pytest.mark.parametrize("method", [guided_backprop, deconvnet])
def test_an_images_map_is_its_own(weights, images, method):
    model = Partial(partial(network, jax.nn.relu), tuple(map(jnp.asarray, weights)))
    config = {guided_backprop: GuidedBackpropConfig, deconvnet: DeconvnetConfig}[method]
    whole = method(model, images, TARGETS)
    for size in (1, 2, 7):
        part = method(model, images, TARGETS, config=config(chunk_size=size))
        np.testing.assert_allclose(part.heatmap, whole.heatmap, atol=1e-5)
    moved = method(model, images.at[0].set(0.3), TARGETS)
    np.testing.assert_allclose(moved.heatmap[1:], whole.heatmap[1:], atol=1e-5)


def test_a_nan_spoils_its_own_image_only(weights, images):
    def model(x):
        bad = (x[:, 0, 0, 0] > 2 / 3)[:, None]
        return jnp.where(bad, jnp.nan, network(jax.nn.relu, weights, x))

    images = images.at[:, 0, 0, 0].set(jnp.asarray([0.0, 1.0, 0.0]))
    result = guided_backprop(model, images, TARGETS)
    assert np.isnan(result.heatmap[1]).all() and np.isnan(result.maps["signed"][1]).all()
    assert np.isfinite(result.heatmap[np.array([0, 2])]).all()


@pytest.mark.parametrize("method", [guided_backprop, deconvnet])
def test_shut_everywhere_is_a_map_of_zeros(weights, images, method):
    model = lambda x: -jax.nn.relu(x.mean((1, 2)))
    result = method(model, images, TARGETS)
    np.testing.assert_array_equal(result.heatmap, 0)


def test_settings_that_make_no_sense(untyped):
    for config in (GuidedBackpropConfig, DeconvnetConfig):
        with pytest.raises(ValueError, match="score='odds': one of logit"):
            config(score="odds")
