"""Prompt-CAM on a toy whose prompts look where they are told to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from scipy import ndimage

import fgjax
from fgjax.attribution.prompt_cam import PromptCamConfig, prompt_cam
from fgjax.core.features import Features
from fgjax.models.composed.prompts import Asked

SIDE, GRID, HEADS, CLASSES = 16, 4, 3, 2
CELLS = GRID * GRID


@struct.dataclass
class Looks:
    """s[c] = Σ over heads r and cells j of gain[c, r, j] · what c's prompt takes of j by r; it
    takes a quarter of two tokens beside the grid."""

    weights: jax.Array  # heads classes cells, with sum 3/4
    gain: jax.Array  # classes heads cells

    def features(self, images):
        n, h, w, c = images.shape
        size = h // GRID
        grid = images.reshape(n, GRID, size, GRID, size, c).mean((2, 4))
        return Features(grid, jnp.zeros((n, 2, c)))

    def ask(self, features, tap=None):
        beside = jnp.full((HEADS, CLASSES, 2), 0.125)
        weights = jnp.concatenate([beside, self.weights], axis=-1)
        weights = jnp.broadcast_to(weights[None], (len(features.grid), *weights.shape))
        weights = weights if tap is None else weights + tap
        return Asked(jnp.einsum("nrcj,crj->nc", weights[..., 2:], self.gain), weights)

    def __call__(self, images):
        return self.ask(self.features(images)).logits


def looks(values):
    """Head r of class c looks at cell 5c + r. Looking there is worth values[c][r], else 0."""
    weights, gain = np.zeros((HEADS, CLASSES, CELLS)), np.zeros((CLASSES, HEADS, CELLS))
    for r in range(HEADS):
        for c in range(CLASSES):
            weights[r, c, 5 * c + r] = 0.75
            gain[c, r, 5 * c + r] = values[c][r]
    return Looks(*(jnp.asarray(part, jnp.float32) for part in (weights, gain)))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((3, SIDE, SIDE, 3), np.float32))


def enlarged(coarse):
    """Bilinear, pixel centres at +0.5, constant beyond the outermost."""
    place = (np.arange(SIDE) + 0.5) * GRID / SIDE - 0.5
    grid = np.meshgrid(place, place, indexing="ij")
    return ndimage.map_coordinates(coarse, grid, order=1, mode="nearest")


def test_the_map_is_where_the_targets_prompt_looks(images):
    model = looks([[1, 1, 1], [1, 1, 1]])
    found = prompt_cam(model, images, jnp.asarray([0, 1, 0]), config=PromptCamConfig(chunk_size=2))
    assert set(found.maps) == {"attention", "head_1", "head_2", "head_3"}
    for i, target in enumerate([0, 1, 0]):
        each = np.asarray(model.weights)[:, target].reshape(HEADS, GRID, GRID)
        wanted = enlarged(each.mean(0))
        np.testing.assert_allclose(found.maps["attention"][i], wanted, atol=1e-6)
        np.testing.assert_allclose(found.heatmap[i], wanted / wanted.max(), atol=1e-5)
        second = enlarged(each[1])
        np.testing.assert_allclose(found.maps["head_2"][i], second / second.max(), atol=1e-5)


def test_heads_that_are_not_needed_are_left_out(images):
    """Class 0 has 0.75 · (4, 1, 2) = 5.25, class 1 1.5. A blurred head gives a sixteenth. Without
    the second head class 0 has 4.55, without the third 3.14 more than 1.5: one stays. Class 1 is
    not predicted: all of its heads stay."""
    model = looks([[4, 1, 2], [2, 0, 0]])
    found = prompt_cam(
        model, images[:2], jnp.asarray([0, 1]), config=PromptCamConfig(heads="needed")
    )
    kept = [[bool(found.maps[f"head_{r}"][i].any()) for r in (1, 2, 3)] for i in range(2)]
    assert kept == [[True, False, False], [True, True, True]]
    own = np.asarray(model.weights)[0, 0].reshape(GRID, GRID)
    np.testing.assert_allclose(found.maps["attention"][0], enlarged(own), atol=1e-6)
    # Where the rival has more, the second head alone can go.
    closer = looks([[4, 1, 2], [5.5, 0, 0]])
    found = prompt_cam(closer, images[:2], jnp.asarray([0, 0]), config=PromptCamConfig("needed"))
    assert [bool(found.maps[f"head_{r}"][0].any()) for r in (1, 2, 3)] == [True, False, True]


def test_a_model_without_prompts_is_told_so(images):
    targets = jnp.zeros(3, jnp.int32)
    wanted = "has a prompt for each class.*toys:MICRO has none. config=prompts_folder"
    with pytest.raises(ValueError, match=wanted):
        prompt_cam(fgjax.create_model("toys:MICRO", 4), images, targets)
    with pytest.raises(ValueError, match="target 2 of image 1 is outside"):
        prompt_cam(looks([[1] * 3] * 2), images, jnp.asarray([0, 2, 0]))
    with pytest.raises(ValueError, match="chunk_size=0: must be at least 1"):
        PromptCamConfig(chunk_size=0)
