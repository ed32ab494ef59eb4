"""What is said of the methods. The passes that are stated are made: the model counts its images."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.attribution import CONFIGS, METHODS
from fgjax.attribution.registry import (
    METHOD_ENTRIES,
    Method,
    Passes,
    count_passes,
    needs,
    that_need,
)
from fgjax.core.features import Attended
from fgjax.core.option import option_of
from fgjax.core.registry import LAST
from fgjax.models.composed.prompts import Asked
from fgjax.models.composed.region_grouping import Regions

SIDE = 24
SETTINGS = {
    "fido": dict(steps=3, batch_size=2),
    "glas": dict(grid=3, chunk_size=19),
    "recursive_glas": dict(grid=2, rounds=2, stop=1e9, threshold=1.0, chunk_size=1),
    "rise": dict(masks=10, chunk_size=5),
    "occlusion": dict(window=112, stride=56, chunk_size=5),
    "mask_perturbation": dict(steps=4),
    "extremal_perturbation": dict(steps=2, areas=(0.1, 0.3)),
    "lime": dict(samples=12, segments=4, chunk_size=6),
    "smooth_gradient": dict(samples=6, chunk_size=3),
    "integrated_gradients": dict(steps=4, chunk_size=2),
    "score_cam": dict(channels=2, chunk_size=1),
    "kernel_shap": dict(samples=12, segments=4, chunk_size=6),
    "xrai": dict(steps=2, scales=(100.0,), chunk_size=2),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counting:
    """Two channels, ReLU and a linear head; every image that passes is noted."""

    kernel: jax.Array
    head_weights: jax.Array

    def features(self, images):
        images = _noted(images)
        return jax.nn.relu(jnp.einsum("nhwc,cd->nhwd", images[:, ::4, ::4], self.kernel))

    def head(self, features):
        return features.mean((1, 2)) @ self.head_weights

    def attend(self, images, taps=None):
        cells = self.features(images).reshape(len(images), -1, 2)
        weights = jax.nn.softmax(cells @ cells.swapaxes(1, 2))[:, None]
        logits = (weights[:, 0] @ cells).mean(1) @ self.head_weights
        return Attended(logits, [weights], jnp.full(cells.shape[:2], 1 / cells.shape[1]))

    def with_rules(self, **_):
        return self

    def regions(self, images):
        assignment = jax.nn.softmax(self.features(images))
        return Regions(None, assignment, None, assignment[..., 0])

    def ask(self, features, tap=None):
        cells = features.reshape(len(features), 1, -1, 2)
        weights = jax.nn.softmax(jnp.einsum("nhtd,dk->nhkt", cells, self.head_weights))
        return Asked(self.head(features), weights)

    def __call__(self, images):
        return self.head(self.features(images))


@pytest.mark.parametrize("name", METHODS)
def test_what_is_said_of_a_method_holds_together(name):
    entry = METHOD_ENTRIES[name]
    assert entry.name == name == entry.function.__name__ and entry.order < LAST
    assert METHODS[name] is entry.function and CONFIGS[name] is entry.config
    for fact in dataclasses.fields(entry.config):
        assert option_of(fact, entry.config).about, fact.name
        # What only divides the work may change when a run goes on; nothing else may.
        free = fact.name in (
            "chunk_size", "images_per_step", "masks_per_pass", "steps_per_dispatch",
        )  # fmt: skip
        assert option_of(fact, entry.config).free == free, fact.name
    assert entry.presets["default"] == {}
    for preset in entry.presets.values():
        assert isinstance(entry.config(**preset), entry.config)
    passes = entry.passes(entry.config(), 224, 224, 512)
    assert isinstance(passes, Passes) and sum(passes) > 0
    # A method that needs gradients makes passes back, unless it differentiates the head alone.
    if {"gradient", "descent"} & set(entry.needs) and "features" not in entry.needs:
        assert passes.backward


def test_needs_are_those_that_there_are():
    assert needs("guided_grad_cam") == ("gradient", "features", "relus")
    assert that_need("regions", "prompts", "steps") == [
        "region_attention", "prompt_cam", "step_cam",
    ]  # fmt: skip
    # ValueError; or, where types are checked as here, the checker's.
    with pytest.raises((ValueError, TypeError), match="gradients"):
        Method(len, dict, passes=lambda *_: Passes(0, 0), needs=("gradients",))
    with pytest.raises(ValueError, match="Did you mean glas"):
        needs("glass")


@pytest.mark.slow
def test_needs_of_a_model_are_what_a_plain_one_lacks():
    """A model that offers logits alone: every method that says it needs no more explains it."""
    images = jnp.asarray(np.random.default_rng(1).random((1, SIDE, SIDE, 3)), jnp.float32)
    model = lambda x: x.mean((1, 2))
    for name, entry in METHOD_ENTRIES.items():
        config = entry.config(**SETTINGS.get(name, {}))
        run = partial(
            entry.function, model, images, jnp.array([1]), key=jax.random.key(0), config=config
        )
        if {"features", "attention", "rules", "regions", "prompts", "steps", "relus"} & set(
            entry.needs
        ):
            with pytest.raises(ValueError, match="needs|ReLU"):
                run()
        elif name == "gradient" or not entry.needs:
            assert run().heatmap.shape == (1, SIDE, SIDE)


seen = {"forward": 0, "backward": 0}


@jax.custom_vjp
def _noted(images):
    jax.debug.callback(partial(_note, "forward", len(images)))
    return images


def _note(kind, count):
    seen[kind] += count


def _forward(images):
    return _noted(images), None


def _backward(_, grad):
    jax.debug.callback(partial(_note, "backward", len(grad)))
    return (grad,)


_noted.defvjp(_forward, _backward)


# The model has no steps; and what is differentiated by attention weights leads to no image.
NOT_NOTED = ("step_cam", "attention_relevance")


@pytest.mark.parametrize("method", [m for m in METHODS if m not in NOT_NOTED])
def test_the_passes_that_are_stated_are_made(method):
    rng = np.random.default_rng(0)
    model = Counting(jnp.asarray(rng.random((3, 2)), jnp.float32),
                     jnp.asarray(rng.random((2, 3)), jnp.float32))  # fmt: skip
    images = jnp.asarray(rng.random((1, SIDE, SIDE, 3)), jnp.float32)
    config = CONFIGS[method](**SETTINGS.get(method, {}))
    seen.update(forward=0, backward=0)
    result = METHODS[method](model, images, jnp.array([1]), key=jax.random.key(0), config=config)
    jax.block_until_ready(result.heatmap)
    jax.effects_barrier()
    stated = count_passes(method, config, SIDE, SIDE, channels=2)
    assert seen["backward"] == stated.backward
    assert seen["forward"] == stated.forward + stated.backward
