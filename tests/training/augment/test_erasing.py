"""What erasing takes away: how much, of what shape, where, and what stands there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import find_objects, label

from fgjax.training.augment.erasing import (
    ERASING,
    Erasing,
    cutout,
    grid_mask,
    hide_and_seek,
    random_erasing,
)

FILL = (0.5, 0.25, 0.125)


def images(n=64, height=32, width=40):
    """Nothing in them is 0, the fill, or the same twice."""
    return jnp.asarray(np.random.default_rng(0).uniform(0.6, 1, (n, height, width, 3)), jnp.float32)


def gone(before, after):
    return (np.asarray(before) != np.asarray(after)).any(-1)


@pytest.mark.parametrize("method", ["cutout", "hide_and_seek", "grid_mask"])
def test_what_is_left_is_untouched_and_the_rest_has_the_colour(method, key):
    x = images()
    result = ERASING[method](key, x, fill=FILL)
    away = gone(x, result)
    assert 0.05 < away.mean() < 0.95
    np.testing.assert_array_equal(result[away], np.tile(np.float32(FILL), (away.sum(), 1)))


@pytest.mark.parametrize("method", ERASING)
def test_every_image_has_its_own_and_the_key_decides(method, key):
    x = jnp.repeat(images(1), 16, 0)
    result = np.asarray(ERASING[method](key, x))
    assert len({image.tobytes() for image in result}) > 8
    np.testing.assert_array_equal(result, ERASING[method](key, x))
    assert (result != ERASING[method](jax.random.key(1), x)).any()
    assert result.dtype == np.float32 and (result >= 0).all() and (result <= 1).all()


def box(mask):
    """The one rectangle that the mask is."""
    labels, count = label(mask)
    assert count == 1
    (place,) = find_objects(labels)
    assert mask[place].all()
    return place


def test_cutout_takes_a_square_whose_centre_is_inside(key):
    x = images(200)
    sides, touching = [], 0
    for mask in gone(x, cutout(key, x, side=0.25)):
        rows, columns = box(mask)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        border = (rows.start == 0 or rows.stop == 32, columns.start == 0 or columns.stop == 40)
        # 0.25 of 32: whole inside, at least half of it where the border cuts it.
        assert height == 8 or (border[0] and 4 <= height < 8)
        assert width == 8 or (border[1] and 4 <= width < 8)
        touching += any(border)
        sides.append((rows.start, columns.start))
    assert 20 < touching < 180
    assert np.std(sides, axis=0).min() > 5  # anywhere


def test_random_erasing_keeps_its_ranges(key):
    x = images(400)
    masks = gone(x, random_erasing(key, x, probability=0.5, area=(0.1, 0.2), aspect=0.5))
    changed = masks.any((1, 2))
    assert 0.4 < changed.mean() < 0.6
    for mask in masks[changed]:
        rows, columns = box(mask)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        assert 0.08 < height * width / mask.size < 0.22
        assert 0.4 < height / width < 2.5
    noise = np.asarray(random_erasing(key, x, probability=1.0))[
        gone(x, random_erasing(key, x, 1.0))
    ]
    assert abs(noise.mean() - 0.5) < 0.01 and abs(noise.std() - 12**-0.5) < 0.01


def test_hide_and_seek_hides_half_of_the_cells_alone(key):
    x = images(300)
    masks = gone(x, hide_and_seek(key, x, grid=4))
    cells = masks.reshape(300, 4, 8, 4, 10)
    assert (cells.any((2, 4)) == cells.all((2, 4))).all()
    hidden = cells.all((2, 4)).reshape(300, 16)
    assert np.abs(hidden.mean(0) - 0.5).max() < 0.12
    assert np.abs(np.corrcoef(hidden.T) - np.eye(16)).max() < 0.25


@pytest.mark.parametrize("ratio", [0.4, 0.6])
def test_grid_mask_keeps_its_share(key, ratio):
    x = images(200, 64, 64)
    masks = gone(x, grid_mask(key, x, units=(0.15, 0.4), ratio=ratio))
    assert abs(masks.mean() - (1 - ratio) ** 2) < 0.02
    for mask in masks[:20]:
        # Rows and columns apart: a pixel is gone where both say so.
        np.testing.assert_array_equal(mask, mask.any(1)[:, None] & mask.any(0)[None])


def test_by_name(key):
    x = images(4)
    np.testing.assert_array_equal(Erasing()(key, x), x)
    np.testing.assert_array_equal(
        Erasing("cutout", 0.3, FILL)(key, x), cutout(key, x, side=0.3, fill=FILL)
    )
    np.testing.assert_array_equal(Erasing("random_erasing")(key, x), random_erasing(key, x))
    assert hash(Erasing("grid_mask")) == hash(Erasing("grid_mask"))
