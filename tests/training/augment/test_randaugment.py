"""RandAugment's operations beside Pillow's, and what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from fgjax.training.augment.geometry_and_light import Augmentation
from fgjax.training.augment.randaugment import OPERATIONS, change, randaugment

FACTOR = 1 - 0.9 * 0.5  # of strength 5, downwards
PILLOW = {
    "identity": lambda i: i,
    "autocontrast": ImageOps.autocontrast,
    "equalize": ImageOps.equalize,
    "posterize": lambda i: ImageOps.posterize(i, 6),
    "solarize": lambda i: ImageOps.solarize(i, 128),
    "color": lambda i: ImageEnhance.Color(i).enhance(FACTOR),
    "contrast": lambda i: ImageEnhance.Contrast(i).enhance(FACTOR),
    "brightness": lambda i: ImageEnhance.Brightness(i).enhance(FACTOR),
    "sharpness": lambda i: ImageEnhance.Sharpness(i).enhance(FACTOR),
    "rotate": lambda i: i.rotate(-15, Image.Resampling.BILINEAR),
    "shear_x": lambda i: i.transform(i.size, Image.Transform.AFFINE, (1, -0.15, 0, 0, 1, 0),
                                     Image.Resampling.BILINEAR),
    "shear_y": lambda i: i.transform(i.size, Image.Transform.AFFINE, (1, 0, 0, -0.15, 1, 0),
                                     Image.Resampling.BILINEAR),
    "translate_x": lambda i: i.transform(i.size, Image.Transform.AFFINE, (1, 0, -8, 0, 1, 0),
                                         Image.Resampling.BILINEAR),
    "translate_y": lambda i: i.transform(i.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, -8),
                                         Image.Resampling.BILINEAR),
}  # fmt: skip


@pytest.fixture(scope="module")
def picture():
    """A smooth coloured picture that uses part of the range, 48 px."""
    y, x = np.mgrid[:48, :48] / 48
    waves = [np.sin(7 * x + 5 * c * y + c) for c in range(3)]
    return (40 * np.stack(waves, -1) ** 2 + 90 * np.stack([x, y, x * y], -1) + 20).astype(np.uint8)


@pytest.fixture(scope="module")
def every(picture):
    """Every operation at strengths 5 and 0, in one program."""

    @jax.jit
    def made(image):
        return {
            strength: {
                name: change(name, image, jnp.float32(strength), jnp.float32(-1))
                for name in OPERATIONS
            }
            for strength in (5, 0)
        }

    return made(jnp.asarray(picture, jnp.float32) / 255)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_pillows(picture, every, name):
    expected = np.asarray(PILLOW[name](Image.fromarray(picture)), np.float64)
    difference = np.abs(np.asarray(every[5][name]) * 255 - expected)
    if name in OPERATIONS[9:]:  # at the border Pillow does not blend with the black outside
        assert (difference.max(-1) < 2).mean() > 0.93 and np.median(difference) < 0.6
    else:  # Pillow rounds values to whole ones, and for contrast their mean
        assert difference.max() < 1.5
    changed = np.abs(np.asarray(every[5][name]) * 255 - picture).mean()
    assert changed > 0.1 or name == "identity"


@pytest.mark.parametrize("name", set(OPERATIONS) - {"autocontrast", "equalize"})
def test_strength_0_changes_nothing(picture, every, name):
    np.testing.assert_allclose(np.asarray(every[0][name]) * 255, picture, atol=1e-3)


def test_images_get_operations_of_their_own(key, picture):
    images = jnp.tile(jnp.asarray(picture[None], jnp.float32) / 255, (40, 1, 1, 1))
    assert randaugment(key, images, 0.0) is images
    program = jax.jit(randaugment, static_argnums=(2, 3))
    one = np.asarray(program(key, images, 5.0, 1))
    np.testing.assert_array_equal(one, program(key, images, 5.0, 1))
    kinds = {image.tobytes() for image in one.round(4)}
    assert 10 < len(kinds) <= 2 * len(OPERATIONS)
    assert one.min() >= 0 and one.max() <= 1


def test_training_images_get_them(key, picture):
    images = jnp.tile(jnp.asarray(picture[None], jnp.float32) / 255, (8, 1, 1, 1))
    plain = Augmentation(flip=False)
    np.testing.assert_array_equal(plain(key, images), images)
    changed = Augmentation(flip=False, randaugment=5.0, operations=2)
    assert (np.asarray(jax.jit(changed)(key, images)) != images).any()
