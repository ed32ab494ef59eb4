"""The loss in NumPy; augmentations by hand, in bounds, and decided by the key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from fgjax.training.augment.geometry_and_light import (
    Augmentation,
    center_crop,
    random_crop,
    random_flip,
    random_hue,
    random_light,
    random_saturation,
    random_shift,
    random_window,
)
from fgjax.training.augment.mixing import Mixing
from fgjax.training.objectives.losses import class_weights, cross_entropy


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


def test_weights_of_classes():
    """Inverse frequency and Cui et al.'s effective number, in NumPy; the mean over images is 1."""
    counts = np.array([90, 9, 1, 0])
    inverse = np.array(class_weights(counts, "inverse"))
    np.testing.assert_allclose(inverse, [100 / 270, 100 / 27, 100 / 3, 0])
    effective = np.array(class_weights(counts, "effective", 0.9))
    numbers = [sum(0.9**i for i in range(n)) for n in counts[:3]]  # 1 + β + … + β^(n-1)
    np.testing.assert_allclose(effective[:3] / effective[0], numbers[0] / np.array(numbers))
    for weights in (inverse, effective, np.array(class_weights(counts, "effective", 0.0))):
        assert (weights * counts).sum() / 100 == pytest.approx(1)
        assert weights[3] == 0
    assert class_weights(counts, "effective", 0.0)[:3] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("name", ["none", "mixup"])
def test_the_loss_counts_by_class(key, name):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((6, 2, 2, 3)), jnp.float32)
    logits, labels = rng.normal(size=(6, 3)), rng.integers(0, 3, 6)
    weights = (0.5, 2.0, 1.0)
    mix = Mixing(name)
    mixed = mix(key, images)
    partner, share = np.asarray(mixed.partner), np.asarray(mixed.share)
    target = np.eye(3) * 0.9 + 0.1 / 3
    towards = lambda labels: (
        -(target[labels] * log_softmax(logits, axis=1)).sum(1) * np.array(weights)[labels]
    )
    expected = (share * towards(labels) + (1 - share) * towards(labels[partner])).mean()
    result = mix.loss(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), mixed, 0.1, weights)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


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


def test_hue_turns_colours_about_grey(key):
    """Against the rotation by the angle between old and new colour (Rodrigues), worked in NumPy."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0.4, 0.6, (3, 2, 2, 3)).astype(np.float32)  # nothing is clipped
    result = np.asarray(random_hue(key, jnp.asarray(images), 0.25), np.float64)
    axis = np.ones(3) / np.sqrt(3)
    np.testing.assert_allclose(result.mean(-1), images.mean(-1), atol=1e-6)
    for before, after in zip(images.astype(np.float64), result, strict=True):
        old, new = (pixels - pixels.mean(-1, keepdims=True) for pixels in (before, after))
        np.testing.assert_allclose(*(np.linalg.norm(c, axis=-1) for c in (old, new)), atol=1e-5)
        across = np.cross(np.broadcast_to(axis, old.shape), old)
        angle = np.arctan2((new * across).sum(-1), (new * old).sum(-1))
        assert np.ptp(angle) < 1e-3 and 0.01 < abs(angle.mean()) <= np.pi / 2
    grey = np.full((1, 2, 2, 3), 0.3, np.float32)
    np.testing.assert_allclose(random_hue(key, jnp.asarray(grey), 0.5), grey, atol=1e-6)
    turned = Augmentation(flip=False, hue=0.2)(key, jnp.asarray(images))
    assert (np.asarray(turned) != images).any()


def test_saturation_moves_towards_or_away_from_grey(key):
    images = random_images() * 0.2 + 0.4  # nothing is clipped
    result = np.asarray(random_saturation(key, images, 0.5), np.float64)
    luma = np.array([0.299, 0.587, 0.114])
    before = np.asarray(images, np.float64)
    np.testing.assert_allclose(result @ luma, before @ luma, atol=1e-6)
    grey = (before @ luma)[..., None]
    factors = ((result - grey) / (before - grey)).reshape(len(result), -1)
    assert np.ptp(np.median(factors, axis=1)) > 0.2  # each image has its own
    for image, factor in zip(factors, np.median(factors, axis=1), strict=True):
        assert 0.5 <= factor <= 1.5
        np.testing.assert_allclose(image, factor, rtol=0.05)


def ramps(n, height, width):
    """Red grows to the right, green downwards: a crop's colours say where it is from."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([(x + 0.5) / width, (y + 0.5) / height, np.zeros_like(x)], -1)
    return jnp.asarray(np.repeat(image[None], n, 0), jnp.float32)


def test_a_random_crop_is_a_rectangle_of_the_image_in_bounds(key):
    crop = jax.jit(random_crop, static_argnums=(2, 3))
    result = np.asarray(crop(key, ramps(200, 40, 48), 20, 0.3), np.float64)
    assert result.shape == (200, 20, 20, 3)
    # Away from the border, where the filter is cut off, the colours are linear in the place.
    inner = result[:, 4:-4, 4:-4]
    x, y = inner[..., 0].mean(1), inner[..., 1].mean(2)
    np.testing.assert_allclose(inner[..., 0], np.repeat(x[:, None], 12, 1), atol=1e-4)
    step_x, step_y = np.diff(x, axis=1), np.diff(y, axis=1)
    # The filter samples whole pixels: a ripple of a tenth of a pixel remains.
    assert np.ptp(step_x, axis=1).max() < 8e-3 and np.ptp(step_y, axis=1).max() < 8e-3
    width, height = step_x.mean(1) * 20, step_y.mean(1) * 20  # shares of the image's sides
    left, top = x[:, 0] - 4.5 * step_x.mean(1), y[:, 0] - 4.5 * step_y.mean(1)
    slack = 0.02
    assert (left > -slack).all() and (left + width < 1 + slack).all()
    assert (top > -slack).all() and (top + height < 1 + slack).all()
    area, aspect = width * height, (width * 48) / (height * 40)
    assert 0.3 - slack < area.min() < 0.36 and 0.85 < area.max() < 1 + slack
    assert 0.7 < aspect.min() < 0.85 and 1.2 < aspect.max() < 1.4
    assert 0.08 < left.std() and 0.08 < top.std()


def test_a_crop_of_everything_is_the_image(key):
    """Area and aspect leave no choice; only the aspect is random, cut to what fits."""
    images = random_images(4, 16, 16)
    middle = Augmentation(size=16, flip=False)(key, images)
    np.testing.assert_array_equal(middle, images)
    np.testing.assert_array_equal(center_crop(images, 8), images[:, 4:12, 4:12])
    np.testing.assert_array_equal(
        Augmentation(size=8, flip=False)(key, images), images[:, 4:12, 4:12]
    )


def test_an_augmentation_that_is_off_changes_nothing(key):
    images = random_images()
    still = Augmentation(flip=False)
    np.testing.assert_array_equal(still(key, images), images)
    assert hash(still) == hash(Augmentation(flip=False))
    every = jax.jit(Augmentation(size=9, crop=0.4, shift=0.1, light=0.2, color=0.2))
    assert every(key, images).shape == (16, 9, 9, 3)
    assert (every(key, images) == every(key, images)).all()


def test_a_random_window_is_a_piece_of_the_image_as_it_is(key):
    images = random_images(n=64)
    found = np.asarray(random_window(key, images, 8))
    places = set()
    for image, piece in zip(np.asarray(images), found, strict=True):
        at = [(y, x) for y in range(3) for x in range(5)
              if (image[y : y + 8, x : x + 8] == piece).all()]  # fmt: skip
        assert len(at) == 1
        places.add(at[0])
    assert len(places) > 8  # of 15
    whole = Augmentation(size=8, window="random", flip=False)(key, images)
    assert whole.shape == (64, 8, 8, 3)
    assert (np.asarray(whole) != np.asarray(center_crop(images, 8))).any()
