"""Two inputs of an image: what the streams see in training, and a training on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fgjax.models.classifier import create_model
from fgjax.models.composed.patches import crop_patches
from fgjax.training.augment.geometry_and_light import Augmentation
from fgjax.training.augment.patches import PatchAugmentation
from fgjax.training.classifier import Recipe, measure, start, train_step
from fgjax.training.objectives.ranking import StreamLoss
from fgjax.training.optimizer import make_optimizer

PLAIN = Augmentation(flip=False)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((6, 24, 24, 3), np.float32))
    corners = rng.integers(0, 16, (6, 3, 2)).astype(np.float32)
    return images, jnp.asarray(np.concatenate([corners, corners + 8], axis=-1))


def test_all_patches_unchanged(inputs, key):
    images, boxes = inputs
    x, patches = PatchAugmentation(PLAIN, 8, random_patch=False)(key, inputs)
    np.testing.assert_array_equal(x, images)
    np.testing.assert_allclose(patches, crop_patches(images, boxes, 8))


def test_a_random_patch_is_one_of_them_and_all_have_their_turn(inputs):
    every = np.asarray(crop_patches(*inputs, 8))
    draw = jax.jit(PatchAugmentation(PLAIN, 8))
    seen = set()
    for seed in range(12):
        _, patches = draw(jax.random.key(seed), inputs)
        assert patches.shape == (6, 1, 8, 8, 3)
        for i, patch in enumerate(np.asarray(patches)[:, 0]):
            gaps = np.abs(every[i] - patch[None]).max((1, 2, 3))
            assert gaps.min() < 1e-5
            seen.add((i, int(gaps.argmin())))
    assert len(seen) > 14  # of 18
    again = draw(jax.random.key(3), inputs)[1]
    np.testing.assert_array_equal(again, draw(jax.random.key(3), inputs)[1])


def test_patches_are_of_the_image_before_it_is_cropped(inputs, key):
    x, patches = PatchAugmentation(Augmentation(16, flip=False), 8, random_patch=False)(key, inputs)
    np.testing.assert_array_equal(x, inputs[0][:, 4:20, 4:20])
    np.testing.assert_allclose(patches, crop_patches(*inputs, 8))


@pytest.fixture(scope="module")
def model():
    small = dict(steps=2, hidden=8, patches=1, patch_size=16)
    return create_model("two_stream", 2, backbone="toys:MICRO", size=16, **small)


def batch():
    """The whole image is noise: its class is the colour of the patch."""
    rng = np.random.default_rng(0)
    labels = np.arange(8, dtype=np.int32) % 2
    images = rng.integers(0, 256, (8, 24, 24, 3), np.uint8)
    images[:, 2:10, 4:12] = np.where(labels[:, None] == 0, [250, 0, 0], [0, 0, 250])[:, None, None]
    boxes = np.broadcast_to(np.float32([4, 2, 12, 10]), (8, 1, 4))
    return (images, boxes), labels


@pytest.mark.slow
def test_a_step_is_one_of_gradient_descent_on_the_loss_of_both_streams(model):
    """Written out."""
    (images, boxes), labels = batch()
    recipe = Recipe(
        optax.sgd(0.1),
        PatchAugmentation(Augmentation(16, flip=False), 16, random_patch=False),
        batch_norm="fixed",
        method="streams",
        objective=StreamLoss(),
    )
    state, value = train_step(
        jax.tree.map(jnp.array, start(model, recipe)),
        (jnp.asarray(images), jnp.asarray(boxes)), jnp.asarray(labels), jax.random.key(0),
        network=model.network, mean=model.mean, std=model.std, recipe=recipe,
    )  # fmt: skip
    unit = jnp.asarray(images, jnp.float32) / 255
    x = (
        model.normalise(unit[:, 4:20, 4:20]),
        jax.vmap(model.normalise)(crop_patches(unit, jnp.asarray(boxes), 16)),
    )

    def loss(params):
        variables = {**model.variables, "params": params}
        return StreamLoss()(
            model.network.apply(variables, x, method="streams"), jnp.asarray(labels)
        )

    before = model.variables["params"]
    expected, gradient = jax.jit(jax.value_and_grad(loss))(before)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, before, gradient)
    for a, b in zip(jax.tree.leaves(state.variables["params"]), jax.tree.leaves(moved)):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.slow
def test_measuring_moves_the_boxes_with_the_middle_square(model):
    (images, boxes), labels = batch()
    found = measure(model, iter([((images, boxes), labels)]), 8)
    middle = images[:, 4:20, 4:20]
    moved = boxes - np.float32([4, 4, 4, 4])
    expected = measure(model, iter([((middle, moved), labels)]), 8)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    logits = jax.jit(lambda m, x: m(x))(
        model.replace(boxes=jnp.asarray(moved)), jnp.asarray(middle, jnp.float32) / 255
    )
    assert found[1] == (np.asarray(logits).argmax(1) == labels).mean()
    short = measure(model, iter([((images[:3], boxes[:3]), labels[:3])]), 8)
    assert np.isfinite(short).all()


@pytest.mark.slow
def test_each_stream_has_a_rate_of_its_own(model):
    (images, boxes), labels = batch()
    optimizer = make_optimizer(4, 0.1, optimizer="sgd", schedule="constant", momentum=0.0,
                               rates=(("local", 10.0), ("global", 0.0)))  # fmt: skip
    recipe = Recipe(
        optimizer, PatchAugmentation(Augmentation(16, flip=False), 16), method="streams",
        objective=StreamLoss(), batch_norm="fixed",
    )  # fmt: skip
    before = jax.tree.map(np.array, model.variables["params"])
    state, _ = train_step(
        jax.tree.map(jnp.array, start(model, recipe)),
        (jnp.asarray(images), jnp.asarray(boxes)), jnp.asarray(labels), jax.random.key(0),
        network=model.network, mean=model.mean, std=model.std, recipe=recipe,
    )  # fmt: skip
    moved = {}
    for name, now in state.variables["params"].items():
        pairs = zip(jax.tree.leaves(now), jax.tree.leaves(before[name]), strict=True)
        moved[name] = any((np.asarray(a) != b).any() for a, b in pairs)
    assert moved.pop("global_stream") is False
    assert all(moved.values()), moved
