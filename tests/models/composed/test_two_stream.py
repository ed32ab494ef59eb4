"""The two-stream network: its parts make up the whole, and it comes back from a checkpoint."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
from fgjax.devices.forward import compiled
from fgjax.models.classifier import make_network
from fgjax.models.composed.patches import crop_patches
from fgjax.training.checkpoints import save_classifier

SMALL = dict(backbone="toys:MICRO", steps=3, hidden=8, last=3, patches=2, patch_size=16)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 3), np.float32))


@pytest.fixture(scope="module")
def model():
    return fgjax.create_model("two_stream", 4, local_weight=0.5, **SMALL)


def call(model, images):
    return np.asarray(compiled(model)(images))


classify = jax.jit(lambda m, x, boxes: m.classify_patches(m.patch_features(x, boxes)))
boxes_of = jax.jit(lambda m, x: m.patch_boxes(x))
global_logits = jax.jit(lambda m, x: m.head(m.features(x)))


@pytest.mark.slow
def test_the_prediction_is_the_weighted_mean_of_both_streams(model, images):
    boxes = boxes_of(model, images)
    assert boxes.shape == (2, 2, 4)
    g = global_logits(model, images)
    local, steps = classify(model, images, boxes)
    assert local.shape == (2, 2, 4) and steps.shape == (2, 2, 3, 4)
    expected = (np.asarray(g) + 0.5 * np.asarray(local).mean(1)) / 1.5
    np.testing.assert_allclose(call(model, images), expected, atol=1e-5)


def test_boxes_found_or_given_are_the_same_to_it_and_others_are_not(model, images):
    found = call(model, images)
    given = call(model.replace(boxes=boxes_of(model, images)), images)
    np.testing.assert_allclose(given, found, atol=1e-6)
    corner = jnp.broadcast_to(jnp.asarray([0.0, 0, 8, 8]), (2, 1, 4))
    assert np.abs(call(model.replace(boxes=corner), images) - found).max() > 1e-4


def test_it_is_deterministic_and_an_image_does_not_depend_on_its_neighbours(model, images):
    again = call(model, images)
    np.testing.assert_array_equal(again, call(model, images))
    alone = call(model, images[:1])
    np.testing.assert_allclose(alone, again[:1], atol=1e-5)


def test_the_same_patches_twice_count_as_once(model, images):
    boxes = boxes_of(model, images)
    twice = jnp.concatenate([boxes, boxes], axis=1)
    np.testing.assert_allclose(
        call(model.replace(boxes=twice), images),
        call(model.replace(boxes=boxes), images),
        atol=1e-5,
    )


def test_found_patches_are_those_of_the_global_streams_cam(model, images):
    """Which for average pooling and one linear layer is Grad-CAM of the predicted class."""
    found = fgjax.extract_patches(model, images, 2, side=0.5)
    np.testing.assert_allclose(boxes_of(model, images), found.boxes, atol=1e-3)


@pytest.mark.slow
def test_in_training_the_patches_are_given(model, images):
    patches = crop_patches(model.normalise(images), boxes_of(model, images), 16)
    x = (model.normalise(images), patches)
    ours = jax.jit(partial(model.network.apply, method="streams"))(model.variables, x)
    np.testing.assert_allclose(
        model.network.apply(model.variables, ours, method="joint"), call(model, images), atol=1e-5
    )
    learn = partial(model.network.apply, train=True, method="streams", mutable=["batch_stats"])
    trained, changed = jax.jit(learn)(model.variables, x)
    assert trained.global_logits.shape == (2, 4)
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), changed["batch_stats"], model.variables["batch_stats"]
    )
    assert all(jax.tree.leaves(moved["local_stream"]))


@pytest.mark.parametrize(
    "readout", ["none", "last", *(pytest.param(r, marks=pytest.mark.slow) for r in ("cnn", "sum"))]
)
def test_every_readout_on_the_weights_of_another(model, images, readout):
    """Readouts have no weights but attention's: one network can be read in every way."""
    other = model.replace(network=model.network.clone(readout=readout, first=2, last=3))
    if readout == "cnn":  # whose classifier sees the map's channels, not the steps
        params = dict(model.variables["params"])
        params["local_classifier"] = {"kernel": jnp.zeros((8, 4)), "bias": jnp.ones(4)}
        other = other.replace(variables={**model.variables, "params": params})
    logits = call(other, images)
    assert logits.shape == (2, 4) and np.isfinite(logits).all()
    assert other.looks_again == (readout in ("last", "sum"))
    if readout == "none":
        np.testing.assert_allclose(logits, global_logits(model, images), atol=1e-5)
    if readout == "last":
        boxes = boxes_of(model, images)
        local, steps = classify(other, images, boxes)
        np.testing.assert_allclose(local, steps[:, :, -1], atol=1e-6)


def test_the_streams_share_no_weights_and_the_local_one_has_no_classifier(model):
    params = model.variables["params"]
    assert set(params) == {
        "global_stream", "local_stream", "local_recurrence", "local_readout", "local_classifier",
    }  # fmt: skip
    extra = set(params["global_stream"]) - set(params["local_stream"])
    assert extra == {"classifier"}
    a, b = (params[s]["stem"]["kernel"] for s in ("global_stream", "local_stream"))
    assert (a != b).any()


@pytest.mark.parametrize("name", ["two_stream", "prototypes"])
def test_a_checkpoint_brings_it_back(name, tmp_path):
    more = dict(self_attention=True, **SMALL) if name == "two_stream" else dict(
        backbone="toys:MICRO", per_class=2, channels=4
    )  # fmt: skip
    about = dict(size=64, classes=("a", "b", "c"))
    shapes = jax.eval_shape(lambda: fgjax.create_model(name, 3, **about, **more))
    model = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1, leaf.dtype), shapes)
    save_classifier(tmp_path / "checkpoint", model)
    loaded = fgjax.load_classifier(tmp_path / "checkpoint")
    assert loaded.network == model.network and loaded.options == model.options
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "pixels", "side"),
    [("vgg19", 448, 14), ("mobilenet_v2", 224, 7)],
)
def test_the_papers_sizes(backbone, pixels, side):
    """Global 448, patches of 224, ten steps of 512: by shapes alone."""
    model = jax.eval_shape(lambda: fgjax.create_model("two_stream", 200, backbone=backbone))
    images = jax.ShapeDtypeStruct((1, pixels, pixels, 3), jnp.float32)
    features = jax.eval_shape(lambda m, x: m.features(x), model, images)
    assert features.shape[1:3] == (side, side)
    look = lambda m, x: m.classify_patches(m.patch_features(x, m.patch_boxes(x)))
    local, steps = jax.eval_shape(look, model, images)
    assert local.shape == (1, 4, 200) and steps.shape == (1, 4, 10, 200)
    step = model.variables["params"]["local_recurrence"]["step"]
    assert step["lstm2"]["hi"]["kernel"].shape == (512, 512)


def test_what_cannot_be_made_is_told():
    x = jnp.zeros((1, 64, 64, 3))
    with pytest.raises(ValueError, match="'vgg91': one of .*Did you mean vgg19"):
        make_network("two_stream", 3, backbone="vgg91").init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="steps 2 to 11 are to be summed: from 1 to 10"):
        network = make_network("two_stream", 3, readout="sum", first=2, last=11)
        network.init(jax.random.key(0), x)
