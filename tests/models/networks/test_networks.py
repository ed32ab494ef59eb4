"""Networks: shapes, parts that make up the whole, training mode, normalisation, names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.models.classifier import create_model, make_network
from fgjax.models.networks import mobilenet

SHAPES = {  # of a 64 px image
    "resnet_tiny": {
        "stem": (32, 16),
        "stage_0": (32, 16),
        "stage_1": (16, 32),
        "stage_2": (8, 64),
        "stage_3": (4, 128),
        "features": (4, 128),
    },
    "resnet18": {
        "stem": (16, 64),
        "stage_0": (16, 64),
        "stage_1": (8, 128),
        "stage_2": (4, 256),
        "stage_3": (2, 512),
        "features": (2, 512),
    },
    "resnet50": {
        "stem": (16, 64),
        "stage_0": (16, 256),
        "stage_1": (8, 512),
        "stage_2": (4, 1024),
        "stage_3": (2, 2048),
        "features": (2, 2048),
    },
    "mobilenet_v2": {
        "stem": (32, 32),
        "stage_0": (32, 16),
        "stage_1": (16, 24),
        "stage_2": (8, 32),
        "stage_3": (4, 64),
        "stage_4": (4, 96),
        "stage_5": (2, 160),
        "stage_6": (2, 320),
        "features": (2, 1280),
    },
}
# What torchvision's models count, with 1000 classes.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "mobilenet_v2": 3_504_872,
}


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((2, 64, 64, 3), np.float32))


@pytest.fixture(scope="module")
def tiny():
    return create_model("toys:MICRO", 3)


call = jax.jit(lambda m, x: m(x))


def shapes_only(name, classes=5, **options):
    return jax.eval_shape(lambda: create_model(name, classes, **options))


def drawn(name, classes, **options):
    """Weights, biases and statistics, drawn."""
    model, rng = shapes_only(name, classes, **options), np.random.default_rng(0)

    def draw(path, leaf):
        kind, shape = path[-1].key, leaf.shape
        if kind in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.8, 1.2, shape), jnp.float32)
        spread = np.prod(shape[:-1]) ** -0.5 if kind == "kernel" else 0.1
        return jnp.asarray(rng.normal(0, spread, shape), jnp.float32)

    return model.replace(variables=jax.tree_util.tree_map_with_path(draw, model.variables))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_intermediates(images, name, padding):
    model = shapes_only(name, padding=padding)
    stages = jax.eval_shape(lambda m, x: m.intermediates(x), model, images)
    assert {k: (v.shape[1], v.shape[3]) for k, v in stages.items()} == SHAPES[name]
    assert all(v.shape[1] == v.shape[2] for v in stages.values())
    assert jax.eval_shape(lambda m, x: m(x), model, images).shape == (2, 5)


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    params = shapes_only(name, 1000).variables["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS[name]


@pytest.fixture
def short(monkeypatch):
    """MobileNetV2 with a block of few channels in each stage, of every kind that it has."""
    stages = ((1, 8, 1, 1), (2, 8, 1, 2), (2, 8, 1, 2), (2, 8, 1, 2), (2, 8, 1, 1), (2, 12, 2, 2),
              (2, 16, 1, 1))  # fmt: skip
    monkeypatch.setattr(mobilenet, "STAGES", stages)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toys:MICRO", "mobilenet_v2"])
def test_head_of_features_is_the_whole(images, name, short):
    model = drawn(name, 5)
    logits, features = jax.jit(lambda m, x: (m(x), m.features(x)))(model, images)
    assert logits.dtype == jnp.float32 and logits.shape == (2, 5)
    head = jax.jit(lambda m, x: m.head(x))
    np.testing.assert_allclose(head(model, features), logits, atol=1e-5)
    dense = model.variables["params"]["classifier"]
    by_hand = np.asarray(features).mean((1, 2)) @ dense["kernel"] + dense["bias"][None]
    np.testing.assert_allclose(by_hand, logits, atol=1e-4)


def test_normalisation_belongs_to_the_model(images, tiny):
    ours = tiny.replace(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    plain = ours.replace(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    by_hand = (np.asarray(images) - np.float32([0.1, 0.2, 0.3])) / np.float32([0.5, 0.6, 0.7])
    np.testing.assert_allclose(ours.normalise(images), by_hand, rtol=1e-5)
    expected = call(plain, jnp.asarray(by_hand))
    np.testing.assert_allclose(call(ours, images), expected, atol=1e-4)


def test_training_updates_the_statistics_and_is_else_the_same_network(images, tiny):
    logits, changed = jax.jit(
        lambda v, x: tiny.network.apply(v, x, train=True, mutable=["batch_stats"])
    )(tiny.variables, images)
    before, after = tiny.variables["batch_stats"], changed["batch_stats"]
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert all(
        (a != b).all() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    )
    assert logits.shape == (2, 3)


def test_dropout_of_mobilenet_works_in_training_alone():
    network = make_network("mobilenet_v2", 3)
    features = jnp.ones((1, 2, 2, 1280))
    head = {"params": {"classifier": {"kernel": jnp.ones((1280, 3)), "bias": jnp.zeros(3)}}}
    run = lambda key, train: network.apply(
        head, features, train, method="head", rngs={"dropout": jax.random.key(key)}
    )
    np.testing.assert_allclose(run(0, False), 1280)
    assert np.abs(run(0, True) - run(1, True)).max() > 1
    np.testing.assert_allclose(run(0, True), 1280, rtol=0.1)  # kept values are scaled up


@pytest.mark.slow
def test_bfloat16_computes_logits_in_float32(images, tiny):
    # Flax's BatchNorm mixes bfloat16 and float32 on purpose.
    with jax.numpy_dtype_promotion("standard"):
        half = shapes_only("toys:MICRO", 3, dtype=jnp.bfloat16)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half.variables))
        half = half.replace(variables=tiny.variables)
        features = jax.eval_shape(lambda m, x: m.features(x), half, images)
        assert features.dtype == jnp.bfloat16
        logits = call(half, images)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, call(tiny, images), atol=0.1)


def test_the_key_decides_the_weights(tiny):
    one = jax.tree.leaves(tiny.variables)  # no key: key 0
    same, other = (
        jax.tree.leaves(create_model("toys:MICRO", 3, key=jax.random.key(k)).variables)
        for k in (0, 1)
    )
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_unknown_name():
    with pytest.raises(ValueError, match="'resnet81'.*Did you mean resnet18"):
        create_model("resnet81", 3)
    with pytest.raises(ValueError, match="one of .*mobilenet_v2"):
        create_model("xyz", 3)


@pytest.mark.slow
@pytest.mark.parametrize("padding, side", [("symmetric", 80), ("same", 64)])
def test_a_dense_mobilenet_has_the_plain_one_s_cells_among_its_own(padding, side, short):
    """Its every second cell is computed by the same weights from the same pixels."""
    plain = drawn("mobilenet_v2", 3, padding=padding)
    dense = plain.replace(network=plain.network.clone(dense=True))
    x = jnp.asarray(np.random.default_rng(1).random((2, side, side, 3), np.float32))
    stages = [jax.jit(lambda m, x: m.intermediates(x))(model, x) for model in (plain, dense)]
    cells, first = side // 16, int(padding == "same" and side // 16 % 2 == 0)
    for name in ("stage_5", "stage_6", "features"):
        found = stages[1][name]
        assert found.shape[1:3] == (cells, cells)
        np.testing.assert_allclose(
            found[:, first::2, first::2], stages[0][name], rtol=1e-3, atol=1e-4
        )
    for name in ("stem", "stage_4"):
        np.testing.assert_allclose(stages[1][name], stages[0][name], rtol=1e-4, atol=1e-5)
