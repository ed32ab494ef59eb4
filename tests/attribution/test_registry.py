"""The passes that are stated against those that are made: the model counts its images."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.attribution import CONFIGS, METHODS
from fgjax.attribution.registry import count_passes
from fgjax.models.composed.region_grouping import Regions

SIDE = 24
SETTINGS = {
    "fido": dict(steps=3, batch_size=2),
    "glas": dict(grid=3, chunk_size=19),
    "recursive_glas": dict(grid=2, rounds=2, stop=1e9, threshold=1.0, chunk_size=1),
    "rise": dict(masks=10, chunk_size=5),
    "occlusion": dict(window=112, stride=56, chunk_size=5),
    "mask_perturbation": dict(steps=4),
    "lime": dict(samples=12, segments=4, chunk_size=6),
    "smooth_gradient": dict(samples=6, chunk_size=3),
    "integrated_gradients": dict(steps=4, chunk_size=2),
    "score_cam": dict(channels=2, chunk_size=1),
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

    def regions(self, images):
        assignment = jax.nn.softmax(self.features(images))
        return Regions(None, assignment, None, assignment[..., 0])

    def __call__(self, images):
        return self.head(self.features(images))


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


@pytest.mark.parametrize("method", [m for m in METHODS if m != "step_cam"])  # has no steps
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
