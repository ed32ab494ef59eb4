"""AugMix's operations beside Pillow's, and its mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.special import rel_entr

from fgjax.training.augment.augmix import (
    OPERATIONS,
    augmix,
    autocontrast,
    equalize,
    posterize,
    solarize,
    warp,
    warp_matrix,
)
from fgjax.training.objectives.losses import jensen_shannon


@pytest.fixture(scope="module")
def picture():
    """A smooth coloured picture that uses part of the range."""
    y, x = np.mgrid[:48, :48] / 48
    waves = [np.sin(7 * x + 5 * c * y + c) for c in range(3)]
    return (40 * np.stack(waves, -1) ** 2 + 90 * np.stack([x, y, x * y], -1) + 20).astype(np.uint8)


def ours(operation, picture, *more):
    return np.asarray(operation(jnp.asarray(picture, jnp.float32) / 255, *more)) * 255


BESIDE = {
    "autocontrast": (autocontrast, (), ImageOps.autocontrast, 1.001),  # Pillow cuts off
    "equalize": (equalize, (), ImageOps.equalize, 1e-3),
    "posterize": (posterize, (jnp.int32(3),), lambda i: ImageOps.posterize(i, 3), 1e-3),
    "solarize": (solarize, (jnp.float32(100 / 255),), lambda i: ImageOps.solarize(i, 100), 1e-3),
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_pixel_operations_are_pillows(picture, name):
    operation, more, pillow, tolerance = BESIDE[name]
    expected = np.asarray(pillow(Image.fromarray(picture)), np.float64)
    found = ours(operation, picture, *more)
    assert np.abs(found - expected).max() < tolerance
    assert (expected != picture).mean() > 0.2


def test_a_picture_of_one_colour_stays(picture):
    flat = np.full_like(picture, 77)
    for operation in (autocontrast, equalize):
        np.testing.assert_allclose(ours(operation, flat), 77, atol=1e-3)


@pytest.mark.parametrize("name", OPERATIONS[4:])
def test_warps_are_pillows(picture, name):
    level, side = 6.0, 48
    number = jnp.int32(OPERATIONS.index(name) - 4)
    matrix = warp_matrix(number, jnp.float32(level), jnp.float32(1), side)
    found = ours(warp, picture, matrix)
    image = Image.fromarray(picture)
    size, how = image.size, Image.Transform.AFFINE
    if name == "rotate":
        expected = image.rotate(30 * level / 10, resample=Image.Resampling.BILINEAR)
    else:
        share = level / 10
        data = {
            "shear_x": (1, 0.3 * share, 0, 0, 1, 0),
            "shear_y": (1, 0, 0, 0.3 * share, 1, 0),
            "translate_x": (1, 0, side / 3 * share, 0, 1, 0),
            "translate_y": (1, 0, 0, 0, 1, side / 3 * share),
        }[name]
        expected = image.transform(size, how, data, resample=Image.Resampling.BILINEAR)
    expected = np.asarray(expected, np.float64)
    # At the border Pillow does not blend with the black outside.
    difference = np.abs(found - expected)
    assert (difference.max(-1) < 2).mean() > 0.93 and np.median(difference) < 0.6
    assert (np.abs(expected - picture) > 3).mean() > 0.3


@pytest.mark.slow
def test_a_mixture_of_image_and_chains(picture, key):
    images = jnp.repeat(jnp.asarray(picture, jnp.float32)[None] / 255, 8, 0)
    result = np.asarray(augmix(key, images))
    assert result.shape == images.shape and result.dtype == np.float32
    assert (result >= -1e-5).all() and (result <= 1 + 1e-5).all()
    assert len({image.tobytes() for image in result}) == 8
    np.testing.assert_array_equal(result, augmix(key, images))


@pytest.mark.slow
def test_more_severe_is_further_from_the_image(picture, key):
    images = jnp.repeat(jnp.asarray(picture, jnp.float32)[None] / 255, 8, 0)
    far = [np.abs(np.asarray(augmix(key, images, severity=s)) - images).mean() for s in (0.2, 9.0)]
    assert far[0] < far[1]


@pytest.mark.slow
def test_the_divergence_written_out():
    logits = np.random.default_rng(0).normal(0, 3, (3, 5, 4))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    m = p.mean(0)
    expected = np.mean([rel_entr(p[i], m).sum(-1) for i in range(3)], axis=0)
    found = jensen_shannon(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    same = jnp.asarray(np.repeat(logits[:1], 3, 0), jnp.float32)
    np.testing.assert_allclose(jensen_shannon(same), 0, atol=1e-6)
    apart = jnp.asarray(np.eye(3)[:, None] * 1e4, jnp.float32)
    np.testing.assert_allclose(jensen_shannon(apart), np.log(3), rtol=1e-5)
    assert np.isfinite(jax.grad(lambda x: jensen_shannon(x).sum())(apart)).all()
