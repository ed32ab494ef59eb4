"""A network whose normalisation is folded into its convolutions is the same function."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import fgjax
from fgjax.models.classifier import Classifier
from fgjax.models.folding import fold_batch_norm
from fgjax.models.networks.inception import Unit
from fgjax.models.networks.layers import Conv, Norm
from fgjax.models.networks.mobilenet import InvertedResidual
from fgjax.models.networks.resnet import Block

WHOLE = ("resnet50", "mobilenet_v2", "vgg16_bn", "inception_v3")


class EveryBlock(nn.Module):
    """A block of every network's: of other ε, depthwise, with a bias, around a shortcut."""

    @nn.compact
    def __call__(self, x, train=False):
        x = Unit(8, 3, 2, name="inception")(x, train)
        x = InvertedResidual(8, 2, 1, "symmetric", jnp.float32, name="mobilenet")(x, train)
        x = Block(4, 2, True, "symmetric", jnp.float32, name="resnet")(x, train)
        x = nn.relu(Norm(name="vgg_norm")(Conv(8, 3, bias=True, name="vgg")(x), train))
        return nn.Dense(5)(x.mean((1, 2)))


def random_statistics(model, seed):
    """Every scale, bias, mean and variance drawn, so that a mix-up shows."""
    rng = np.random.default_rng(seed)
    flat = traverse_util.flatten_dict(model.variables, sep="/")
    for path, value in sorted(flat.items()):
        drawn = jnp.asarray(rng.random(value.shape, np.float32))
        if path.endswith(("scale", "var")):
            flat[path] = 0.5 + drawn
        elif path.endswith(("bias", "mean")):
            flat[path] = drawn - 0.5
    return model.replace(variables=traverse_util.unflatten_dict(flat, sep="/"))


call = jax.jit(lambda m, x: m(x))


@pytest.fixture(scope="module", params=["toys:MICRO", "every block"])
def pair(request):
    if request.param == "every block":
        variables = jax.jit(EveryBlock().init)(jax.random.key(0), jnp.zeros((1, 37, 37, 3)))
        model = Classifier(variables, EveryBlock(), size=37)
    else:
        model = fgjax.create_model("toys:MICRO", 5, size=37)
    model = random_statistics(model, 1)
    return model, fold_batch_norm(model)


def test_the_logits_stay(pair):
    model, folded = pair
    images = np.random.default_rng(0).random((2, model.size, model.size, 3), np.float32)
    expected = call(model, images)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(call(folded, images), expected, atol=1e-5 * np.abs(expected).max())


def test_nothing_is_left_to_normalise_and_the_model_itself_is_left_alone(pair):
    model, folded = pair
    assert not jax.tree.leaves(folded.variables.get("batch_stats", {}))
    assert fold_batch_norm(folded).variables.keys() == folded.variables.keys()
    before, after = (len(jax.tree.leaves(m.variables)) for m in (model, folded))
    assert after < before


@pytest.mark.parametrize("name", WHOLE)
def test_every_normalisation_of_a_network_is_folded(name):
    """By shapes alone: of each only the bias is left, and everything else stays."""
    model = jax.eval_shape(lambda: fgjax.create_model(name, 5, size=96))
    before = traverse_util.flatten_dict(model.variables, sep="/")
    folded = jax.eval_shape(fold_batch_norm, model)
    after = traverse_util.flatten_dict(folded.variables, sep="/")
    assert not any(path.startswith("batch_stats/") for path in after)
    gone = {path for path in before if path.endswith(("/norm/scale", "/norm/mean", "/norm/var"))}
    assert set(after) == set(before) - gone and len(gone) % 3 == 0 and gone
    assert all(after[path].shape == before[path].shape for path in after)


@pytest.mark.slow
def test_a_norm_after_something_else_stays():
    """That of region grouping's pooled parts has no convolution before it."""
    model = fgjax.create_model(
        "region_grouping", 3, size=32, backbone="toys:MICRO", num_parts=2, key=jax.random.key(3)
    )
    model = random_statistics(model, 2)
    folded = fold_batch_norm(model)
    left = {path[0] for path in traverse_util.flatten_dict(folded.variables["batch_stats"])}
    assert left == {"norm"}
    images = jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 3), np.float32))
    np.testing.assert_allclose(call(folded, images), call(model, images), rtol=2e-5, atol=1e-5)
