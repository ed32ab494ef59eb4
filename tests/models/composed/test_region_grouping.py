"""The network of regions: its parts against the equations, its options, its checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import fgjax
from fgjax.models.composed.grouping import group_pixels
from fgjax.training.checkpoints import save_classifier


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((2, 16, 16, 3), np.float32))


def tiny(**options):
    """The shapes of a network."""
    options = {"backbone": "toys:MICRO", "num_parts": 3, "size": 16, **options}
    classes = options.pop("classes", 4)
    return jax.eval_shape(lambda: fgjax.create_model("region_grouping", classes, **options))


def drawn(**options):
    """Weights and statistics that are neither 0 nor 1, so that nothing hides behind them."""
    rng, model = np.random.default_rng(1), tiny(**options)

    def draw(path, leaf):
        kind, shape = path[-1].key, leaf.shape
        if kind == "kernel":
            return jnp.asarray(rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape), jnp.float32)
        if kind in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.8, 1.3, shape), jnp.float32)
        return jnp.asarray(rng.normal(0, 0.2, shape), jnp.float32)

    return model.replace(variables=jax.tree_util.tree_map_with_path(draw, model.variables))


@pytest.fixture(scope="module")
def model():
    return drawn()


regions_of = jax.jit(lambda m, x: m.regions(x))


@pytest.fixture(scope="module")
def everything(model, images):
    """Regions, features, logits and the head of the features."""
    parts = lambda m, x: (m.regions(x), features := m.features(x), m(x), m.head(features))
    return jax.jit(parts)(model, images)


def test_what_it_gives(everything):
    found, _, logits, head = everything
    assert found.logits.shape == (2, 4) and found.assignment.shape == (2, 8, 8, 3)
    np.testing.assert_allclose(found.assignment.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(found.attention.sum(-1), 1, atol=1e-5)
    assert float(jnp.ptp(found.attention)) > 1e-3 and float(jnp.ptp(found.assignment)) > 0.01
    wanted = np.einsum("nhwk,nk->nhw", found.assignment, found.attention)
    np.testing.assert_allclose(found.attribution, wanted, atol=1e-5)
    np.testing.assert_allclose(logits, found.logits, atol=1e-5)
    np.testing.assert_allclose(head, found.logits, atol=1e-5)


def test_the_head_is_equation_4(model, everything):
    """Every layer again in NumPy, from the feature map on."""
    found, features, *_ = everything
    params, stats = (flatten_dict(model.variables[c], sep="/") for c in ("params", "batch_stats"))

    def conv(x, name):
        return x @ np.asarray(params[f"{name}/kernel"])[0, 0]

    def norm(x, name):
        at = f"{name}/norm"
        mean, var = (np.asarray(stats[f"{at}/{name}"]) for name in ("mean", "var"))
        scale, bias = (np.asarray(params[f"{at}/{name}"]) for name in ("scale", "bias"))
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    g = {k: jnp.asarray(params[f"grouping/{k}"]) for k in ("dictionary", "smoothing")}
    sigma = 1 / (1 + np.exp(-g["smoothing"]))
    q, z = map(np.asarray, group_pixels(features, g["dictionary"], jnp.asarray(sigma)))
    np.testing.assert_allclose(found.assignment, q, atol=1e-5)

    a = z
    for i in (1, 2, 3):
        a = np.maximum(norm(conv(a, f"part_attention/conv{i}"), f"part_attention/norm{i}"), 0)
    a = np.exp(a[..., 0]) / np.exp(a[..., 0]).sum(1, keepdims=True)
    np.testing.assert_allclose(found.attention, a, atol=1e-5)

    f = z
    for block in (f"post/block{i}" for i in (1, 2, 3, 4)):
        y = f
        for i in (1, 2, 3):
            y = norm(conv(y, f"{block}/conv{i}"), f"{block}/norm{i}")
            y = np.maximum(y, 0) if i < 3 else y
        if f"{block}/shortcut/kernel" in params:
            f = norm(conv(f, f"{block}/shortcut"), f"{block}/shortcut_norm")
        f = np.maximum(f + y, 0)
    pooled = norm((f * a[..., None]).sum(1), "norm")
    logits = pooled @ np.asarray(params["classifier/kernel"]) + np.asarray(
        params["classifier/bias"]
    )
    np.testing.assert_allclose(found.logits, logits, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_without_attention_every_part_counts_alike(images):
    plain = drawn(attention=False)
    found = regions_of(plain, images)
    np.testing.assert_allclose(found.attention, 1 / 3, atol=1e-6)
    np.testing.assert_allclose(found.attribution, 1 / 3, atol=1e-5)
    assert "part_attention" not in plain.variables["params"]


@pytest.mark.slow
@pytest.mark.parametrize("attention", [True, False])
def test_every_attribute_has_a_head_of_its_own(images, attention):
    many = drawn(attributes=True, attention=attention)
    found = regions_of(many, images)
    assert found.logits.shape == (2, 4)
    assert found.attention.shape == (2, 4, 3) and found.attribution.shape == (2, 4, 8, 8)
    wanted = np.einsum("nhwk,nak->nahw", found.assignment, found.attention)
    np.testing.assert_allclose(found.attribution, wanted, atol=1e-5)
    # Another head's weights change nothing but its own output.
    heads = jax.tree.map(lambda leaf: leaf.at[2].add(0.5), many.variables["params"]["classifier"])
    params = {**many.variables["params"], "classifier": heads}
    other = regions_of(many.replace(variables={**many.variables, "params": params}), images)
    moved = np.abs(other.logits - found.logits).max(0)
    assert moved[2] > 1e-3 and moved[[0, 1, 3]].max() == 0


@pytest.mark.parametrize("backbone, cells, channels", [
    ("resnet_tiny", 12, 64), ("resnet18", 6, 256), ("resnet50", 6, 1024), ("mobilenet_v2", 6, 320),
])  # fmt: skip
def test_backbones_are_cut_off_at_their_stage(backbone, cells, channels):
    shapes = tiny(backbone=backbone)
    x = jnp.zeros((1, 96, 96, 3))
    assert jax.eval_shape(lambda m: m.features(x), shapes).shape == (1, cells, cells, channels)
    whole = jax.eval_shape(lambda: fgjax.create_model(backbone, 4))
    trunk = flatten_dict(shapes.variables["params"]["trunk"], sep="/")
    names = flatten_dict(whole.variables["params"], sep="/")
    # What comes after the stage has no weights at all.
    assert set(trunk) < set(names) and "classifier/kernel" not in trunk
    after = "last" if backbone == "mobilenet_v2" else "blocks_3_"
    assert not any(path.startswith(after) for path in trunk)


@pytest.mark.parametrize("options", [{}, {"attributes": True, "attention": False}])
def test_it_comes_back_from_its_checkpoint(tmp_path, options):
    model = drawn(padding="same", **options)
    save_classifier(tmp_path / "checkpoint", model)
    back = fgjax.load_classifier(tmp_path / "checkpoint")
    assert back.network == model.network and dict(back.options) == dict(model.options)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_bfloat16_and_one_image_and_one_part(images):
    model = drawn(num_parts=1)
    model = model.replace(network=model.network.clone(dtype=jnp.bfloat16))

    def loss(params):
        variables = {**model.variables, "params": params}
        x = model.normalise(images[:1])
        found, _ = model.network.apply(
            variables, x, train=True, mutable=["batch_stats"], method="regions"
        )
        occurrence = fgjax.part_occurrence_loss(found.assignment, 1.0, 1e-3)
        return found.logits.sum() + occurrence, found

    # Flax' BatchNorm mixes bfloat16 with its float32 sums.
    with jax.numpy_dtype_promotion("standard"):
        (_, found), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
            model.variables["params"]
        )
    assert found.logits.dtype == found.assignment.dtype == jnp.float32
    for leaf in jax.tree.leaves((found, grads)):
        assert np.isfinite(leaf).all()


def test_other_networks_say_that_they_have_no_parts(images):
    with pytest.raises(ValueError, match="groups pixels into parts.*toys:MICRO has none"):
        plain = jax.eval_shape(lambda: fgjax.create_model("toys:MICRO", 2))
        fgjax.region_attention(plain, images, np.zeros(len(images), np.int32))


def test_wrong_options_are_told():
    with pytest.raises(ValueError, match=r"no backbone 'resnet10'.*Did you mean resnet101"):
        tiny(backbone="resnet10")
    with pytest.raises(ValueError, match="num_parts=0: at least 1"):
        tiny(num_parts=0)
