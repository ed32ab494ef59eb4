"""Boxes around what a map marks, and crops of them, against NumPy and Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, label

from fgjax.evaluation import (
    center_boxes,
    crop_and_resize,
    gradient_boxes,
    map_boxes,
    random_boxes,
    square_boxes,
)


def square(box, height, width, padding=0.0):
    """The square around one box, in plain NumPy."""
    if np.isnan(box).any():
        return [0, 0, width, height]
    x0, y0, x1, y1 = np.asarray(box, np.float64)
    side = min(max(1, max(x1 - x0, y1 - y0) * (1 + 2 * padding)), height, width)
    left = min(max((x0 + x1 - side) / 2, 0), width - side)
    top = min(max((y0 + y1 - side) / 2, 0), height - side)
    return [left, top, left + side, top + side]


BOXES = {
    "wide": [10, 20, 30, 24],
    "tall, at the left border": [0, 5, 3, 35],
    "in the lower right corner": [55, 30, 64, 40],
    "a pixel in a corner": [63, 0, 64, 1],
    "a line without an area": [9, 3, 9, 3],
    "longer than the shorter side": [2, 10, 60, 12],
    "everything": [0, 0, 64, 40],
    "nothing": [np.nan] * 4,
    "half of a box": [3, np.nan, 9, 9],
}


@pytest.mark.parametrize("padding", [0.0, 0.1, 0.7])
def test_squares_agree_with_numpy(padding):
    boxes = np.array(list(BOXES.values()), np.float32)
    squares = np.asarray(square_boxes(jnp.asarray(boxes), 40, 64, padding=padding))
    expected = [square(box, 40, 64, padding) for box in boxes]
    np.testing.assert_allclose(squares, expected, atol=1e-4)
    assert (squares[:, :2] >= 0).all() and (squares[:, 2:] <= [64, 40]).all()
    assert (squares[:, 2:] - squares[:, :2] >= 1).all()


def test_a_square_at_the_border_still_holds_its_box(rng):
    """It is moved, not cut: unless the box is longer than the image is wide."""
    low = rng.uniform(0, 30, (200, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 10, (200, 2))], axis=1).astype(np.float32)
    squares = np.asarray(square_boxes(jnp.asarray(boxes), 40, 40))
    assert (squares[:, :2] <= boxes[:, :2] + 1e-4).all()
    assert (squares[:, 2:] >= boxes[:, 2:] - 1e-4).all()
    sides = squares[:, 2:] - squares[:, :2]
    np.testing.assert_allclose(sides[:, 0], sides[:, 1], atol=1e-4)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_boxes_around_a_map(rng):
    maps = rng.uniform(0, 0.5, (4, 24, 24)).astype(np.float32)
    maps[0, 5:9, 7:15] = 0.6
    maps[1, 2, 3] = maps[1, 20, 8] = 0.51  # two pixels: the box is around both
    maps[2, 6:8, 6:8] = 0.9
    maps[2, 0, 0] = 0.5  # not above the threshold
    maps[3] = 1
    boxes = np.asarray(map_boxes(jnp.asarray(maps), threshold=0.5, padding=0.0))
    np.testing.assert_allclose(
        boxes, [[7, 3, 15, 11], [0, 2, 19, 21], [6, 6, 8, 8], [0, 0, 24, 24]], atol=1e-5
    )
    padded = np.asarray(map_boxes(jnp.asarray(maps), padding=0.25))
    np.testing.assert_allclose(padded[0], [5, 1, 17, 13], atol=1e-5)
    np.testing.assert_allclose(padded[2], [5.5, 5.5, 8.5, 8.5], atol=1e-5)


def test_specks_do_not_count_if_told_so():
    maps = np.zeros((1, 448, 448), np.float32)  # 4 px of a 224 px image are 16 here
    maps[0, 100:140, 200:260] = 1
    maps[0, 2:5, 440:445] = 1  # 15 pixels
    around = {speck: map_boxes(jnp.asarray(maps), padding=0.0, speck=speck) for speck in (0, 4)}
    np.testing.assert_allclose(around[0], [square([200, 2, 445, 140], 448, 448)])
    np.testing.assert_allclose(around[4], [square([200, 100, 260, 140], 448, 448)])
    maps[0, 5, 446] = 1  # touches a corner: not in the blob
    np.testing.assert_array_equal(map_boxes(jnp.asarray(maps), padding=0.0, speck=4), around[4])
    maps[0, 5, 445] = 1  # 17
    wider = map_boxes(jnp.asarray(maps), padding=0.0, speck=4)
    np.testing.assert_allclose(wider, [square([200, 2, 447, 140], 448, 448)])
    # Nothing but specks marks nothing.
    maps[0, 100:140, 200:260] = 0
    whole = map_boxes(jnp.asarray(maps), speck=10)
    np.testing.assert_array_equal(whole, [[0, 0, 448, 448]])


@pytest.mark.parametrize("find", [map_boxes, gradient_boxes])
def test_maps_that_mark_nothing_or_are_broken_give_the_whole_image(find):
    maps = np.zeros((4, 16, 20), np.float32)
    maps[0] = 0.2  # constant: nothing above the threshold, nor above its mean
    maps[1] = np.nan
    maps[2, 3, 4], maps[2, 9, 9] = 1, np.nan
    maps[3, 3, 4] = np.inf
    whole = np.broadcast_to(np.float32([0, 0, 20, 16]), (4, 4))
    np.testing.assert_array_equal(np.asarray(find(jnp.asarray(maps))), whole)


def test_a_broken_map_leaves_its_neighbours_alone():
    maps = np.zeros((2, 16, 16), np.float32)
    maps[:, 4:8, 4:8] = 1
    alone = map_boxes(jnp.asarray(maps[:1]))
    maps[1] = np.nan
    np.testing.assert_array_equal(map_boxes(jnp.asarray(maps))[:1], alone)


def test_the_gradients_box_agrees_with_scipy(rng):
    side = 112  # so the blur is of 2.5 px
    maps = rng.gamma(0.5, size=(3, side, side)) * 0.02
    maps[:, 5:12, 100:108] += 0.5  # a speck, which is not around the largest blob
    maps[:, 40:70, 30:80] += rng.gamma(2.0, size=(3, 30, 50))
    boxes = gradient_boxes(jnp.asarray(maps, jnp.float32), padding=0.1)
    for values, box in zip(maps, np.asarray(boxes), strict=True):
        smooth = gaussian_filter(values, 2.5, mode="mirror", truncate=3.2)
        blobs, _ = label(smooth > smooth.mean(), np.ones((3, 3)))
        y, x = np.nonzero(blobs == 1 + np.bincount(blobs.ravel())[1:].argmax())
        expected = square([x.min(), y.min(), x.max() + 1, y.max() + 1], side, side, 0.1)
        np.testing.assert_allclose(box, expected, atol=1e-3)
        assert box[2] - box[0] < 0.7 * side
    # A scale changes nothing.
    np.testing.assert_array_equal(gradient_boxes(jnp.asarray(8 * maps, jnp.float32)), boxes)


def test_center_and_random_boxes(key):
    centre = np.asarray(center_boxes(2, 40, 80, share=0.75))
    np.testing.assert_allclose(centre, [[10, 5, 70, 35]] * 2, atol=1e-5)
    np.testing.assert_allclose(center_boxes(1, 40, 80, share=1.0), [[0, 0, 80, 40]])

    keys = jax.random.split(key, 400)
    boxes = np.asarray(random_boxes(keys, 40, 80, share=0.75))
    np.testing.assert_allclose(boxes[:, 2] - boxes[:, 0], 60, atol=1e-4)
    np.testing.assert_allclose(boxes[:, 3] - boxes[:, 1], 30, atol=1e-4)
    assert boxes.min() >= 0 and (boxes[:, 2:] <= np.float32([80, 40]) + 1e-4).all()
    # Evenly drawn: about as many in each fifth of the room there is, in x as in y.
    for axis, room in ((0, 20), (1, 10)):
        counts = np.histogram(boxes[:, axis], bins=5, range=(0, room))[0]
        assert counts.min() > 50 and counts.max() < 115
    # A key's box does not depend on its neighbours.
    np.testing.assert_array_equal(random_boxes(keys[7:8], 40, 80, share=0.75), boxes[7:8])


CROPS = {
    "enlarged": ([10.0, 5.0, 26.0, 21.0], 48),
    "enlarged, between pixels": ([10.3, 5.6, 20.8, 16.1], 40),
    "at the border": ([0.0, 0.0, 12.0, 12.0], 40),
    "in the far corner": ([44.0, 32.0, 60.0, 48.0], 32),
    "shrunk": ([2.0, 3.0, 42.0, 43.0], 16),
    "shrunk, between pixels": ([1.7, 2.2, 44.9, 45.4], 13),
    "distorted": ([5.0, 10.0, 55.0, 30.0], 25),
    "the whole image": ([0.0, 0.0, 60.0, 48.0], 30),
}


@pytest.mark.parametrize("kind", CROPS)
def test_crops_agree_with_pillow(rng, kind):
    box, size = CROPS[kind]
    image = rng.uniform(size=(48, 60, 3)).astype(np.float32)
    found = np.asarray(crop_and_resize(jnp.asarray(image[None]), jnp.asarray([box]), size))[0]
    expected = [
        np.asarray(
            Image.fromarray(channel).resize((size, size), Image.Resampling.BILINEAR, box=box)
        )
        for channel in np.moveaxis(image, -1, 0)
    ]
    assert found.shape == (size, size, 3)
    np.testing.assert_allclose(found, np.stack(expected, -1), atol=2e-5)


def test_a_crop_of_the_same_size_is_the_image(rng):
    images = rng.uniform(size=(2, 24, 24, 3)).astype(np.float32)
    whole = jnp.broadcast_to(jnp.asarray([[0.0, 0.0, 24.0, 24.0]]), (2, 4))
    np.testing.assert_allclose(crop_and_resize(jnp.asarray(images), whole, 24), images, atol=1e-6)
    # and whole pixels are cut out as they are
    part = jnp.asarray([[3.0, 5.0, 13.0, 15.0], [14.0, 14.0, 24.0, 24.0]])
    found = crop_and_resize(jnp.asarray(images), part, 10)
    np.testing.assert_allclose(found[0], images[0, 5:15, 3:13], atol=1e-6)
    np.testing.assert_allclose(found[1], images[1, 14:, 14:], atol=1e-6)
