"""The batch-size finder ends, with the largest batch that fits, and remembers it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgjax.training.batch_size as module
from fgjax.models.classifier import Classifier, create_model
from fgjax.models.composed.two_stream import Streams
from fgjax.training.augment.geometry_and_light import Augmentation
from fgjax.training.augment.patches import PatchAugmentation
from fgjax.training.batch_size import find_batch_size, largest_batch, step_bytes, step_runs
from fgjax.training.classifier import Recipe, start, train_step
from fgjax.training.objectives.ranking import StreamLoss


@pytest.mark.parametrize("room", [1, 2, 3, 31, 32, 33, 100, 5000])
@pytest.mark.parametrize("limit", [1, 2, 24, 700])
@pytest.mark.parametrize("first", [1, 2, 32])
def test_the_largest_power_of_two_in_few_steps(room, limit, first):
    asked = []

    def fits(size):
        asked.append(size)
        return size <= room

    found = largest_batch(fits, limit, first)
    assert found <= min(room, limit) < 2 * found and found & (found - 1) == 0
    assert len(asked) == len(set(asked)) <= np.log2(max(2, limit)) + 1
    assert max(asked) <= limit


def test_what_never_fits_is_told_and_ends():
    with pytest.raises(ValueError, match="one image"):
        largest_batch(lambda size: False, 512)


@pytest.fixture(scope="module")
def model():
    return create_model("toys:MICRO", 3, size=32)


RECIPE = Recipe(optax.sgd(0.1), Augmentation(flip=False))


@pytest.mark.slow
def test_a_step_takes_what_its_arrays_take(model):
    """Each image needs its pixels and activations: about as much for each, whatever the batch."""
    small, large = (step_bytes(model, RECIPE, n, 32) for n in (8, 32))
    weights = sum(v.nbytes for v in jax.tree.leaves(model.variables))
    stem = 16 * 16 * 8 * 4  # the first activation of one image alone
    assert small > weights + 8 * stem and large - small > 24 * stem
    each = (large - small) / 24
    assert each < 100 * stem


def test_it_fits_the_memory_given_and_is_remembered(model, tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "sizes.json"
    room = 2 * step_bytes(model, RECIPE, 8, 32) + 1  # half of it is planned with
    found = find_batch_size(model, RECIPE, 32, 512, cache, room)
    assert found in (8, 4)  # the finder's own power of two that fits
    assert step_bytes(model, RECIPE, found, 32) <= room / 2
    assert step_bytes(model, RECIPE, 2 * found, 32) > room / 2

    def fail(*args):
        raise AssertionError("compiled again")

    with monkeypatch.context() as patch:
        patch.setattr(module, "step_bytes", fail)
        assert find_batch_size(model, RECIPE, 32, 512, cache, room) == found
        for other in (dict(side=40), dict(limit=64), dict(memory=room + 2**30)):
            with pytest.raises(AssertionError, match="compiled again"):
                find_batch_size(
                    **dict(model=model, recipe=RECIPE, side=32, limit=512, cache=cache, memory=room)
                    | other
                )
    cache.write_text("{ damaged")
    assert find_batch_size(model, RECIPE, 32, 512, cache, room) == found
    assert cache.read_text().count(f": {found}") == 1


class Both(nn.Module):
    """The least network that looks at patches beside images."""

    num_classes: int = 2

    @nn.compact
    def streams(self, inputs, train=False):
        means = [x.mean(tuple(range(1, x.ndim - 1))) for x in inputs]
        return Streams(nn.Dense(2)(means[0]), nn.Dense(2)(means[1]), None)


def test_a_step_that_looks_at_patches_gets_their_boxes():
    """Without them its step cannot even be traced."""
    network, patches = Both(), PatchAugmentation(Augmentation(flip=False), 8)
    shapes = (jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 1, 8, 8, 3)))
    model = Classifier(network.init(jax.random.key(0), shapes, method="streams"), network)
    recipe = Recipe(optax.sgd(0.1), patches, method="streams", objective=StreamLoss())
    assert find_batch_size(model, recipe, 16, 2, memory=2**40, patches=3) == 2
    assert step_runs(model, recipe, 2, 16, patches=3)


def test_too_little_memory_is_told(model):
    with pytest.raises(ValueError, match="one image"):
        find_batch_size(model, RECIPE, 32, 1, memory=1000)


def test_an_accelerator_is_asked_too(model, monkeypatch):
    """Where the account is too rosy: a step that exhausts the memory does not fit."""

    def fake(state, images, labels, key, **static):
        if len(images) > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return train_step(state, images, labels, key, **static)

    fake.lower = train_step.lower
    monkeypatch.setattr(module, "train_step", fake)
    assert step_runs(model, RECIPE, 4, 32) and not step_runs(model, RECIPE, 8, 32)
    monkeypatch.setattr(module.jax, "default_backend", lambda: "gpu")
    assert find_batch_size(model, RECIPE, 32, 16, memory=2**40) == 4

    def broken(*args, **static):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(module, "train_step", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        step_runs(model, RECIPE, 4, 32)


def test_the_models_weights_are_untouched(model):
    before = jax.tree.map(jnp.array, model.variables)
    assert step_runs(model, RECIPE, 2, 32)
    jax.tree.map(np.testing.assert_array_equal, model.variables, before)
    assert int(start(model, RECIPE).step) == 0
