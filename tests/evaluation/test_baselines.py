import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from fgjax.evaluation import baselines, box_of


def test_center_box_by_hand():
    # A quarter of 8×12 with the same aspect is 4×6, in the middle.
    box = baselines.center_box(2, 8, 12, area=0.25)
    assert box.dtype == jnp.float32 and box.shape == (2, 8, 12)
    expected = np.zeros((8, 12))
    expected[2:6, 3:9] = 1
    np.testing.assert_array_equal(box[1], expected)


@pytest.mark.parametrize("name", ["center", "random"])
def test_boxes_have_exactly_the_area(name, key):
    counts = np.array([0, 1, 7, 50, 333, 1000, 31 * 41])
    areas = jnp.asarray(counts / (31 * 41), jnp.float32)
    if name == "center":
        maps = baselines.center_box_of_area(areas, 31, 41)
    else:
        maps = baselines.random_box_of_area(key, areas, 31, 41)
    assert set(np.unique(maps)) == {0, 1}
    assert maps.sum(axis=(1, 2)).tolist() == counts.tolist()
    for mask, count in zip(np.asarray(maps, bool), counts):
        # One piece, nearly filling its box, with about the image's aspect.
        assert ndimage.label(mask)[1] == (count > 0)
        if count >= 50:
            x0, y0, x1, y1 = np.asarray(box_of(jnp.asarray(mask[None]))[0])
            side = np.sqrt(count / (31 * 41))
            assert abs((x1 - x0) - 41 * side) <= 2 and abs((y1 - y0) - 31 * side) <= 2


def test_random_boxes_fill_the_image_evenly(key):
    # For boxes of a quarter of the image, the centre is even in the middle half: its mean is
    # .5 and its standard deviation (1/2)/√12.
    maps = np.asarray(baselines.random_box_of_area(key, jnp.full(2000, 0.25), 32, 32))
    rows = (np.arange(32) + 0.5) / 32
    centre = (maps.sum(axis=2) * rows).sum(axis=1) / maps.sum(axis=(1, 2))
    assert centre.mean() == pytest.approx(0.5, abs=0.02)
    assert centre.std() == pytest.approx(0.5 / np.sqrt(12), abs=0.01)


def test_random_maps_are_smooth_and_use_the_whole_range(key):
    maps = np.asarray(baselines.random_maps(key, 3, 56, 84))
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps.min(axis=(1, 2)), 0)
    np.testing.assert_allclose(maps.max(axis=(1, 2)), 1)
    # Bilinear between 7 cells of 8×12 px: no step is larger than a cell's difference over it.
    assert np.abs(np.diff(maps, axis=1)).max() <= 1 / 8 + 1e-5
    assert np.abs(np.diff(maps, axis=2)).max() <= 1 / 12 + 1e-5
    assert not np.allclose(maps[0], maps[1])
    np.testing.assert_array_equal(maps, baselines.random_maps(key, 3, 56, 84))


def test_top_share_takes_the_highest():
    maps = jnp.array([[[0.1, 0.9], [0.9, 0.9]], [[0.4, 0.3], [0.2, 0.1]]])
    top = baselines.top_share(maps, jnp.array([0.5, 0.75]))
    # Of three that are equal two are drawn.
    assert top.sum((1, 2)).tolist() == [2, 3] and top[0, 0, 0] == 0
    assert top[1].tolist() == [[1, 1], [1, 0]]


def test_undefined_is_nan():
    box = baselines.center_box_of_area(jnp.array([jnp.nan, 0.5]), 6, 6)
    assert jnp.isnan(box[0]).all() and not jnp.isnan(box[1]).any()
    masks = jnp.zeros((2, 6, 6), bool).at[1, 2, 2].set(True)
    object_maps = baselines.whole_object(masks)
    assert jnp.isnan(object_maps[0]).all() and object_maps[1].sum() == 1
    top = baselines.top_share(object_maps, jnp.array([0.5, 0.5]))
    assert jnp.isnan(top[0]).all() and not jnp.isnan(top[1]).any()


def test_constant_is_the_whole_image_and_zero_none_of_it():
    assert (baselines.constant(2, 3, 4) == 1).all() and not baselines.zero(2, 3, 4).any()


def test_a_bell_in_the_middle():
    bell = np.asarray(baselines.center_bell(2, 20, 30))
    y, x = np.mgrid[:20, :30] + 0.5
    expected = np.exp(-((y - 10) ** 2 + (x - 15) ** 2) / (2 * 5**2))
    np.testing.assert_allclose(bell, np.stack([expected] * 2), rtol=1e-5)


def test_jit_equals_eager(key):
    areas = jnp.array([0.1, 0.4])
    eager = baselines.random_box_of_area(key, areas, 20, 30)
    jitted = jax.jit(baselines.random_box_of_area, static_argnums=(2, 3))(key, areas, 20, 30)
    np.testing.assert_array_equal(jitted, eager)
