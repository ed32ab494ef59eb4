"""LRP: the rules in closed form, and what goes in comes out."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.attribution.lrp import LrpConfig, lrp, relevance
from fgjax.models.classifier import Classifier, create_model
from fgjax.models.networks.convnext import ConvNext
from fgjax.models.networks.efficientnet import MbConv
from fgjax.models.networks.layers import Conv
from fgjax.models.networks.tokens import Mlp

RULES = {
    "epsilon": LrpConfig("epsilon"),
    "gamma": LrpConfig("gamma"),
    "composite": LrpConfig("composite", gamma=2.0),
}
TARGETS = jnp.asarray([1, 0])


class Gated(nn.Module):
    """Squeeze and excitation, a gated perceptron, a mean and a linear layer."""

    num_classes: int
    padding: str = "symmetric"

    @nn.compact
    def __call__(self, x, train=False):
        x = Conv(8, 3)(x)
        x = MbConv(8, 2, 1, 3, 0.0, "symmetric", 1e-5, jnp.float32)(x, train)
        x = Mlp(5, gate="split")(x)
        return nn.Dense(self.num_classes, use_bias=False)(x.mean((1, 2)))


def classifier(network):
    variables = network.init(jax.random.key(1), jnp.zeros((1, 32, 32, 3)))
    # No bias takes relevance; everything else is drawn.
    rng = np.random.default_rng(0)

    def stir(path, leaf):
        if path[-1].key in ("bias", "mean"):
            return jnp.zeros_like(leaf)
        scale = 0.3 if leaf.ndim > 1 else 0.1
        return jnp.asarray(leaf + rng.normal(size=leaf.shape) * scale, jnp.float32)

    return Classifier(jax.tree_util.tree_map_with_path(stir, variables), network, size=32)


MODELS = {
    "convnextv2": partial(ConvNext, 3, (1, 1), (4, 6), response_norm=True, layer_scale=None),
    "gated": partial(Gated, 3),
}


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 3), np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["composite", "epsilon", "gamma"])
def test_what_goes_in_comes_out_of_a_residual_network(images, rule):
    model = create_model("resnet_tiny", 3, size=32)  # fresh: no bias takes a share
    logits = model(images)[jnp.arange(2), TARGETS]
    found = relevance(model, images, TARGETS, config=RULES[rule])
    np.testing.assert_allclose(found.sum((1, 2, 3)), logits, rtol=1e-2, atol=1e-4)
    result = lrp(model, images, TARGETS, config=RULES[rule])
    np.testing.assert_allclose(result.maps["signed"], found.sum(-1), rtol=1e-4, atol=1e-6)
    assert float(result.heatmap.min()) == 0 and float(result.heatmap.max()) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_gates_activations_and_norms_pass_relevance_on(images, name):
    model = classifier(MODELS[name]())
    logits = jax.jit(lambda m, x: m(x))(model, images)
    found = relevance(model, images, TARGETS, config=RULES["epsilon"])
    expected = logits[jnp.arange(2), TARGETS]
    np.testing.assert_allclose(found.sum((1, 2, 3)), expected, rtol=1e-2, atol=1e-4)
    ruled = model.with_rules(conv_gamma=0.5)
    np.testing.assert_allclose(jax.jit(lambda m, x: m(x))(ruled, images), logits, atol=1e-4)


class Linear(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))


@pytest.mark.parametrize("gamma, epsilon", [(0.0, 0.5), (0.7, 0.0), (0.7, 0.3)])
def test_the_rules_of_a_linear_layer(gamma, epsilon):
    """The sums of contributions by NumPy, as Montavon et al. write them, for inputs of any sign."""
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(12, 4)), rng.normal(size=4)
    images = rng.random((5, 2, 2, 3))
    mean = (0.5, 0.4, 0.6)
    params = {"Dense_0": {"kernel": jnp.asarray(kernel, jnp.float32),
                          "bias": jnp.asarray(bias, jnp.float32)}}  # fmt: skip
    model = Classifier({"params": params}, Linear(4), mean, (1.0, 1.0, 1.0), size=2)
    targets = np.array([0, 1, 2, 3, 0])
    config = LrpConfig("gamma" if gamma else "epsilon", gamma=gamma, epsilon=epsilon)
    found = relevance(model, jnp.asarray(images, jnp.float32), jnp.asarray(targets), config=config)
    x = (images - mean).reshape(5, 12)
    z = x @ kernel + bias
    for i, j in enumerate(targets):
        parts = np.append(x[i] * kernel[:, j], bias[j])
        favours = parts * np.sign(z[i, j]) > 0
        parts = parts * (1 + gamma * favours)
        total = parts.sum()
        share = parts[:-1] / (total + epsilon * np.sign(total)) * z[i, j]
        np.testing.assert_allclose(np.asarray(found)[i].ravel(), share, rtol=1e-3, atol=1e-5)


def test_batch_normalisation_is_folded(images):
    model = create_model("resnet_tiny", 3, size=32)
    assert not [
        path
        for path, _ in jax.tree_util.tree_leaves_with_path(model.with_rules().model.variables)
        if path[-1].key in ("mean", "var")
    ]


def test_a_model_without_rules_is_told_so(images):
    with pytest.raises(ValueError, match="lrp needs layers with rules"):
        lrp(lambda x: x.mean((1, 2)), images, TARGETS)
    with pytest.raises(ValueError, match="gamma=-1"):
        LrpConfig(gamma=-1.0)
