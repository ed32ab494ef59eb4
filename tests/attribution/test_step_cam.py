"""Grad-CAM of every step: against its definition by numeric derivatives, and where it is laid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import fgjax
from fgjax.attribution.step_cam import place_in_boxes, step_maps


@struct.dataclass
class Toy:
    """Two patches; step t classifies the mean of the patch's channels times gains[t]."""

    gains: jax.Array  # t d k
    boxes: jax.Array  # n p 4

    looks_again = True

    def __call__(self, images):
        return self.classify_patches(self.patch_features(images, self.boxes))[0].mean(1)

    def patch_boxes(self, images):
        return self.boxes

    def patch_features(self, images, boxes):
        """Not of the images at all: channel 0 is hot at the upper left, 1 at the lower right."""
        cell = jnp.zeros((2, 2, 2)).at[0, 0, 0].set(1.0).at[1, 1, 1].set(1.0)
        return jnp.broadcast_to(cell[None, None], (len(images), 2, 2, 2, 2))

    def classify_patches(self, features):
        pooled = jnp.tanh(features.mean((2, 3)))
        steps = jnp.einsum("npd,tdk->nptk", pooled, self.gains)
        return steps.sum(2), steps


@pytest.fixture(scope="module")
def toy():
    # Step 1 finds class 0 in channel 0, step 2 in channel 1, step 3 takes it for class 1.
    gains = [[[4, 0], [0, 1]], [[0, 1], [4, 0]], [[-1, 3], [-1, 3]]]
    boxes = [[[0, 0, 8, 8], [8, 8, 16, 16]]] * 2
    return Toy(jnp.asarray(gains, jnp.float32), jnp.asarray(boxes, jnp.float32))


IMAGES = jnp.full((2, 16, 16, 3), 0.5)


def test_the_maps_are_grad_cam_of_each_step(toy):
    features = jnp.asarray(np.random.default_rng(0).random((2, 2, 2, 2, 2), np.float32))
    targets = jnp.asarray([0, 1])
    steps, readout = step_maps(toy, features, targets)
    assert steps.shape == (3, 2, 2, 2, 2) and readout.shape == (2, 2, 2, 2)
    score = jax.jit(lambda f: toy.classify_patches(f))
    for t in range(3):
        for n, c in enumerate(targets):
            for p in range(2):
                weights = np.zeros(2)
                for d in range(2):  # the mean derivative: all places of a channel moved together
                    moved = [
                        score(features.at[n, p, ..., d].add(e))[1][n, p, t, c]
                        for e in (-1e-2, 1e-2)
                    ]
                    weights[d] = float(moved[1] - moved[0]) / 2e-2 / 4
                expected = np.maximum((np.asarray(features[n, p]) * weights).sum(-1), 0)
                np.testing.assert_allclose(steps[t, n, p], expected, atol=2e-3)


def test_every_step_looks_where_its_evidence_is(toy):
    result = fgjax.step_cam(toy, IMAGES, np.array([0, 0]))
    assert set(result.maps) == {"step_1", "step_2", "step_3"}
    one, two, three = (np.asarray(result.maps[f"step_{t}"][0]) for t in (1, 2, 3))
    assert one[1, 1] == two[7, 7] == 1 and one[15, 15] < 0.3 and two[0, 0] < 0.3
    assert one[9, 9] == 1 and two[14, 14] == 1  # the same in the second patch
    assert (one[:8, 8:] == 0).all() and (one[8:, :8] == 0).all()  # no patch, no heat
    assert (three == 0).all()  # nothing speaks for class 0
    heat = np.asarray(result.heatmap)
    assert heat.min() >= 0 and heat.max() == 1


def test_which_steps_are_right_is_told(toy):
    traces = fgjax.step_cam(toy, IMAGES, np.array([0, 1])).traces
    np.testing.assert_array_equal(traces["right_step"], [[1, 1, 0], [0, 0, 1]])
    steps = np.asarray(toy.classify_patches(toy.patch_features(IMAGES, None))[1])[0, 0]
    p = np.exp(steps) / np.exp(steps).sum(1, keepdims=True)
    np.testing.assert_allclose(traces["p_step"], [p[:, 0], p[:, 1]], rtol=1e-5)


def test_a_map_is_laid_into_its_box():
    maps = jnp.asarray([[[[0.0, 1.0], [0.0, 1.0]]]])
    laid = np.asarray(place_in_boxes(maps, jnp.asarray([[[4.0, 2, 12, 6]]]), 10, 16))[0, 0]
    assert laid.shape == (10, 16)
    outside = np.ones((10, 16), bool)
    outside[2:6, 4:12] = False
    assert (laid[outside] == 0).all()
    # Bilinear between cell centres at x = 6 and x = 10, constant beyond them.
    expected = np.clip((np.arange(4, 12) + 0.5 - 6) / 4, 0, 1)
    np.testing.assert_allclose(laid[3, 4:12], expected, atol=1e-6)


@pytest.mark.slow
def test_a_two_stream_network_is_explained():
    model = fgjax.create_model(
        "two_stream", 3, backbone="toys:MICRO", steps=2, hidden=8, patches=2, patch_size=16
    )
    images = jnp.asarray(np.random.default_rng(0).random((2, 48, 48, 3), np.float32))
    result = fgjax.step_cam(model, images, np.array([0, 2]))
    assert set(result.maps) == {"step_1", "step_2"}
    boxes = np.asarray(model.patch_boxes(images))
    covered = np.zeros((2, 48, 48), bool)
    for n in range(2):
        for x0, y0, x1, y1 in boxes[n].round().astype(int):
            covered[n, y0:y1, x0:x1] = True
    for heat in (result.heatmap, *result.maps.values()):
        assert heat.shape == (2, 48, 48) and np.isfinite(heat).all()
        assert (np.asarray(heat)[~covered] == 0).all()


def test_a_model_without_steps_is_told(toy):
    with pytest.raises(ValueError, match="two-stream classifier with LSTMs.*function has no time"):
        fgjax.step_cam(lambda images: images.mean((1, 2)), IMAGES, np.array([0, 1]))
    with pytest.raises(ValueError, match="target 7"):
        fgjax.step_cam(toy, IMAGES, np.array([0, 7]))
