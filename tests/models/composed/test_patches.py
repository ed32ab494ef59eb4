"""Patches: boxes of maps with known peaks, and crops against slices and averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
from fgjax.models.composed.patches import crop_patches, inside, peak_boxes, percentile_boxes


def spots(*places, shape=(8, 8)):
    """A map with heights at (row, column)."""
    cam = np.zeros((1, *shape), np.float32)
    for row, column, height in places:
        cam[0, row, column] = height
    return jnp.asarray(cam)


def test_peaks_come_in_order_with_squares_around_them():
    found = peak_boxes(spots((2, 5, 4.0), (6, 1, 2.0)), 2, 0.25, 64, 32)
    # Cell (2, 5) has its centre at x = 5.5/8, y = 2.5/8.
    np.testing.assert_allclose(found.boxes[0, 0], [18, 12, 26, 28], atol=1e-4)
    np.testing.assert_allclose(found.boxes[0, 1], [2, 44, 10, 60], atol=1e-4)
    np.testing.assert_allclose(found.scores, [[1, 0.5]])


def test_a_neighbour_of_a_peak_is_passed_over_while_there_are_others():
    cam = spots((2, 2, 5.0), (2, 3, 4.0), (6, 6, 1.0))
    boxes = np.asarray(peak_boxes(cam, 2, 0.5, 8, 8).boxes[0])
    np.testing.assert_allclose(boxes[1].reshape(2, 2).mean(0), [6, 6])  # moved in from 6.5
    # With as many squares as cells every cell has its turn once.
    every = np.asarray(peak_boxes(cam, 64, 0.125, 8, 8).boxes[0])
    assert len({tuple(box) for box in every.round(3)}) == 64


def test_squares_at_the_border_are_moved_in():
    boxes = np.asarray(peak_boxes(spots((0, 0, 1.0)), 3, 0.5, 40, 40).boxes)
    assert boxes.min() >= 0 and boxes.max() <= 40
    np.testing.assert_allclose(boxes[0, 0], [0, 0, 20, 20])
    np.testing.assert_allclose(boxes[..., 2:] - boxes[..., :2], 20, rtol=1e-5)


def test_a_map_without_heat_has_boxes_and_scores_of_zero():
    found = peak_boxes(spots(), 2, 0.5, 16, 16)
    assert np.isfinite(np.asarray(found.boxes)).all()
    np.testing.assert_array_equal(found.scores, 0)


def test_percentile_box_is_around_the_highest_pixels():
    cam = np.zeros((1, 2, 20, 20), np.float32)
    cam[0, 0, 4:8, 10:15] = 1  # 20 pixels of 400: the upper 5 %
    cam[0, 1, 19, 0] = 2
    cam[0, 1, 15:19, 3:8] = 1
    boxes = np.asarray(percentile_boxes(jnp.asarray(cam), 95.0, 20, 20))
    np.testing.assert_array_equal(boxes[0, 0], [10, 4, 15, 8])
    np.testing.assert_array_equal(boxes[0, 1], [0, 15, 8, 20])


def test_percentile_box_against_numpy():
    cam = np.random.default_rng(0).random((2, 3, 16, 24)).astype(np.float32)
    boxes = np.asarray(percentile_boxes(jnp.asarray(cam), 99.0, 16, 24))
    for i in range(2):
        for j in range(3):
            rows, columns = np.nonzero(cam[i, j] >= np.percentile(cam[i, j], 99))
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_array_equal(boxes[i, j], expected)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(1).random((2, 24, 32, 3), np.float32))


def test_a_crop_at_its_own_size_is_a_slice(images):
    boxes = jnp.asarray([[[4.0, 2, 16, 14]], [[20.0, 12, 32, 24]]])
    ours = np.asarray(crop_patches(images, boxes, 12))
    assert ours.shape == (2, 1, 12, 12, 3)
    np.testing.assert_allclose(ours[0, 0], images[0, 2:14, 4:16], atol=1e-5)
    np.testing.assert_allclose(ours[1, 0], images[1, 12:24, 20:32], atol=1e-5)


def test_a_crop_is_resized_as_an_image_is(images):
    ours = crop_patches(images, jnp.asarray([[[0.0, 0, 32, 24]]] * 2), 8)
    expected = jax.image.resize(images, (2, 8, 8, 3), "linear")
    np.testing.assert_allclose(ours[:, 0], expected, atol=1e-5)


def test_boxes_are_kept_inside_and_never_empty():
    boxes = jnp.asarray([[[-5.0, -5, 10, 40], [50, 50, 60, 60], [3, 3, 3, 3], [30, 1, 2, 5]]])
    ours = np.asarray(inside(boxes, 20, 32))[0]
    np.testing.assert_array_equal(ours[0], [0, 0, 10, 20])
    assert (ours[:, :2] >= 0).all() and (ours[:, 2] <= 32).all() and (ours[:, 3] <= 20).all()
    assert (ours[:, 2:] - ours[:, :2] >= 8).all()


class Toy:
    """Class 0 has its evidence in channel 0, class 1 in channel 1."""

    def __init__(self, features):
        self.map = features

    def features(self, images):
        return self.map

    def head(self, features):
        return features.mean((1, 2))


jax.tree_util.register_pytree_node(Toy, lambda t: ((t.map,), None), lambda _, c: Toy(*c))


def test_patches_of_a_classifier_are_where_the_predicted_class_is():
    features = np.zeros((2, 4, 4, 2), np.float32)
    features[0, 0, 3, 0], features[0, 3, 0, 1] = 2, 1  # predicted 0: at (0, 3)
    features[1, 0, 3, 0], features[1, 3, 0, 1] = 1, 2
    images = jnp.zeros((2, 16, 16, 3))
    found = fgjax.extract_patches(Toy(jnp.asarray(features)), images, 1, side=0.5)
    np.testing.assert_allclose(found.boxes[:, 0], [[8, 0, 16, 8], [0, 8, 8, 16]])


def test_what_cannot_be_done_is_told(images):
    with pytest.raises(ValueError, match="n=0: at least one"):
        fgjax.extract_patches(Toy(jnp.zeros((2, 4, 4, 2))), images, 0)
    with pytest.raises(ValueError, match="function has no activations.*no features and no head"):
        fgjax.extract_patches(lambda x: x, images, 1)
    model = fgjax.create_model("prototypes", 2, backbone="toys:MICRO", per_class=1, channels=4)
    with pytest.raises(ValueError, match="only 2 prototypes"):
        fgjax.extract_patches(model, images, 3)
