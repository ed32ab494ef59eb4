"""The loss in NumPy; augmentations by hand, in bounds, and decided by the key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from fgjax.training.augment import random_flip, random_light, random_shift
from fgjax.training.losses import cross_entropy


def random_images(n=16, height=10, width=12):
    return jnp.asarray(np.random.default_rng(0).random((n, height, width, 3), np.float32))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy(smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 4)) * 5, rng.integers(0, 4, 6)
    target = np.eye(4)[labels] * (1 - smoothing) + smoothing / 4
    expected = -(target * log_softmax(logits, axis=1)).sum(1)
    result = cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_cross_entropy_of_sure_answers_is_finite():
    logits = jnp.asarray([[1e4, 0.0], [1e4, 0.0]])
    np.testing.assert_allclose(cross_entropy(logits, jnp.asarray([0, 1])), [0, 1e4])


def test_flip_swaps_left_and_right_in_half_of_the_images(key):
    images = random_images(400, 3, 4)
    result = np.asarray(random_flip(key, images))
    same = (result == np.asarray(images)).all((1, 2, 3))
    turned = (result == np.asarray(images)[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ turned).all()
    assert 0.4 < turned.mean() < 0.6  # four standard errors


def test_shift_moves_within_bounds_and_mirrors_the_edge(key):
    images = random_images(60)
    result = np.asarray(random_shift(key, images, 0.2))  # 2 px of 10 down, 2 px of 12 across
    mirrored = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="symmetric")
    moves = []
    for i in range(60):
        fits = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if (result[i] == mirrored[i, y : y + 10, x : x + 12]).all()
        ]
        assert len(fits) == 1, i
        moves += fits
    for axis in zip(*moves, strict=True):
        assert set(axis) == set(range(5))  # every move there is, both ends included


@pytest.mark.parametrize("share", [0.0, 0.01])
def test_shift_by_less_than_half_a_pixel_is_none(key, share):
    images = random_images()
    np.testing.assert_array_equal(random_shift(key, images, share), images)


def test_light_is_contrast_and_brightness(key):
    images = random_images() * 0.2 + 0.4  # nothing is clipped
    result = np.asarray(random_light(key, images, 0.3), np.float64)
    before = np.asarray(images, np.float64)
    for image, after in zip(before, result, strict=True):
        brightness = after.mean() / image.mean()
        contrast = after.std() / image.std() / brightness
        assert 0.7 <= brightness <= 1.3 and 0.7 <= contrast <= 1.3
        expected = ((image - image.mean()) * contrast + image.mean()) * brightness
        np.testing.assert_allclose(after, expected, atol=1e-5)
    assert np.ptp(result.mean((1, 2, 3))) > 0.1  # each image has its own


def test_light_stays_in_bounds_and_can_be_off(key):
    images = jnp.round(random_images())
    result = random_light(key, images, 0.9)
    assert result.min() == 0 and result.max() == 1
    np.testing.assert_allclose(random_light(key, images, 0.0), images, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [random_flip, lambda k, x: random_shift(k, x, 0.3), lambda k, x: random_light(k, x, 0.3)],
)
def test_the_key_decides(key, change):
    images = random_images()
    np.testing.assert_array_equal(change(key, images), change(key, images))
    assert (change(key, images) != change(jax.random.key(1), images)).any()
