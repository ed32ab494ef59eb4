"""A network whose normalisation is folded into its convolutions is the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import fgjax
from fgjax.models.folding import fold_batch_norm

SIZES = {"resnet_tiny": 37}
SLOW = {"mobilenet_v2": 64, "resnet50": 64, "vgg16_bn": 64, "inception_v3": 96}
NETWORKS = [*SIZES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


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


@pytest.fixture(params=NETWORKS, scope="module")
def pair(request):
    size = (SIZES | SLOW)[request.param]
    model = fgjax.create_model(request.param, 5, size=size)
    model = random_statistics(model, 1)
    return model, fold_batch_norm(model)


def test_the_logits_stay(pair):
    model, folded = pair
    images = np.random.default_rng(0).random((2, model.size, model.size, 3), np.float32)
    expected = call(model, images)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(call(folded, images), expected, atol=1e-5 * np.abs(expected).max())


def test_nothing_is_left_to_normalise(pair):
    model, folded = pair
    assert not jax.tree.leaves(folded.variables.get("batch_stats", {}))
    assert fold_batch_norm(folded).variables.keys() == folded.variables.keys()


def test_the_model_itself_is_left_alone(pair):
    model, folded = pair
    before, after = (len(jax.tree.leaves(m.variables)) for m in (model, folded))
    assert after < before


@pytest.mark.slow
def test_a_norm_after_something_else_stays():
    """That of region grouping's pooled parts has no convolution before it."""
    model = fgjax.create_model(
        "region_grouping", 3, size=32, backbone="resnet_tiny", num_parts=2, key=jax.random.key(3)
    )
    model = random_statistics(model, 2)
    folded = fold_batch_norm(model)
    left = {path[0] for path in traverse_util.flatten_dict(folded.variables["batch_stats"])}
    assert left == {"norm"}
    images = jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 3), np.float32))
    np.testing.assert_allclose(call(folded, images), call(model, images), rtol=2e-5, atol=1e-5)
