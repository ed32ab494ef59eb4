"""Infills against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fgjax.attribution.common.infill import INFILLS, blur, knockoff, make_infill, patches
from fgjax.core.filters import gaussian_matrix


def random_images(n=2, height=24, width=24, seed=0):
    images = np.random.default_rng(seed).random((n, height, width, 3), np.float32)
    return jnp.asarray(images)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (30, 21), (16, 40)])
@pytest.mark.parametrize("sigma", [11.6, 30.0])
def test_blur_is_scipys(height, width, sigma):
    images = random_images(2, height, width)
    scaled = sigma * min(height, width) / 224
    radius = max(1, round(3.2 * scaled))
    expected = gaussian_filter(
        np.asarray(images, np.float64),
        (0, scaled, scaled, 0),
        mode="mirror",
        truncate=(radius + 0.01) / scaled,
    )
    np.testing.assert_allclose(blur(images, sigma=sigma), expected, atol=1e-5)


@pytest.mark.parametrize(("size", "sigma"), [(1, 2.0), (2, 3.0), (5, 40.0), (64, 3.3)])
def test_blur_keeps_a_constant_however_far_the_kernel_reaches(size, sigma):
    np.testing.assert_allclose(gaussian_matrix(size, sigma).sum(1), 1, rtol=1e-6)


def test_blur_at_full_size_has_kernel_75():
    """σ = 11.6 at 224 px: 37 pixels to each side, as in the released code."""
    row = gaussian_matrix(224, 11.6)[112]
    assert np.count_nonzero(row) == 75


def test_blur_means_the_same_at_another_resolution():
    """A smooth image twice as large, blurred and shrunk, is the blurred small image."""
    wave = np.cos(2 * np.pi * (np.arange(64) + 0.5) / 64)  # flat where it is mirrored
    large = jnp.asarray((0.5 + 0.5 * np.outer(wave, wave))[None, ..., None], jnp.float32)
    small = large.reshape(1, 32, 2, 32, 2, 1).mean((2, 4))
    shrunk = blur(large, sigma=20.0).reshape(1, 32, 2, 32, 2, 1).mean((2, 4))
    np.testing.assert_allclose(shrunk, blur(small, sigma=20.0), atol=0.03)


def test_mean_is_each_images_own_colour(key):
    images = random_images(3)
    result = make_infill("mean", images, keys(3))
    expected = np.asarray(images).mean((1, 2))
    np.testing.assert_allclose(result[:, 5, 7], expected, rtol=1e-5)
    np.testing.assert_allclose(result.std((1, 2)), 0, atol=4e-6)


def test_zeros_and_original():
    images = random_images()
    assert not np.any(make_infill("zeros", images, keys(2)))
    np.testing.assert_array_equal(make_infill("original", images, keys(2)), images)


def test_uniform_noise_is_uniform():
    result = np.asarray(make_infill("uniform", random_images(2, 64, 64), keys(2)))
    assert result.min() >= 0 and result.max() < 1
    np.testing.assert_allclose(np.histogram(result, 4, (0, 1))[0] / result.size, 0.25, atol=0.015)
    assert np.corrcoef(result[0].ravel(), result[1].ravel())[0, 1] < 0.05


def test_normal_noise_has_the_images_statistics_per_channel():
    images = random_images(1, 96, 96) * 0.1 + jnp.asarray([0.3, 0.5, 0.7])[None, None, None]
    result = make_infill("normal", images, keys(1))
    np.testing.assert_allclose(result.mean((1, 2)), images.mean((1, 2)), atol=0.002)
    np.testing.assert_allclose(result.std((1, 2)), images.std((1, 2)), atol=0.002)
    extreme = make_infill("normal", jnp.round(random_images(1)), keys(1))
    assert extreme.min() == 0 and extreme.max() == 1


def tiles_of(image, side):
    height, width, channels = image.shape
    grid = np.asarray(image).reshape(height // side, side, width // side, side, channels)
    return grid.swapaxes(1, 2).reshape(-1, side * side * channels)


@pytest.mark.parametrize(("height", "width", "side"), [(28, 28, 4), (30, 21, 3)])
def test_knockoff_shuffles_pixels_inside_their_tiles(height, width, side, key):
    """Every tile, whole or cut off by an edge, holds the pixels it had, in an order of its own."""
    image = random_images(1, height, width)
    result = np.asarray(knockoff(image, key, tile=round(side * 224 / min(height, width))))
    orders = []
    for y in range(0, height, side):
        for x in range(0, width, side):
            tiles = [
                a[0, y : y + side, x : x + side].reshape(-1, 3) for a in (np.asarray(image), result)
            ]
            before, after = (tile[np.lexsort(tile.T)] for tile in tiles)
            np.testing.assert_array_equal(before, after)
            place = np.square(tiles[0][:, None] - tiles[1][None]).sum(-1).argmin(1)
            orders.append(tuple(place))
    assert len(set(orders)) > len(orders) / 2, "tiles have orders of their own"
    assert (result != np.asarray(image)).any(-1).mean() > 0.7


def test_knockoff_has_tiles_of_9_px_at_full_size(key):
    """A tile that is black stays black, its neighbours do not reach in."""
    image = jnp.ones((1, 224, 224, 1)).at[:, 9:18, 27:36].set(0)
    np.testing.assert_array_equal(knockoff(image, key), image)
    moved = jnp.ones((1, 224, 224, 1)).at[:, 10:19, 27:36].set(0)
    assert (knockoff(moved, key) != moved).any()


@pytest.mark.slow
def test_blurs_draws_its_width_between_half_and_twice(key):
    """A point becomes a Gaussian whose peak 1/(2πσ²) tells σ."""
    image = jnp.zeros((1, 224, 224, 1)).at[0, 112, 112].set(1)
    blurred = make_infill("blurs", jnp.repeat(image, 60, axis=0), keys(60))[:, 112, 112, 0]
    sigma = np.sqrt(1 / (2 * np.pi * np.asarray(blurred)))
    assert sigma.min() > 11.6 / 2 * 0.99 and sigma.max() < 11.6 * 2 * 1.02
    assert np.median(sigma) == pytest.approx(11.6, rel=0.3)


def test_grey_is_grey_with_noise(key):
    result = make_infill("grey", random_images(1, 96, 96), keys(1))
    assert result.mean() == pytest.approx(0.5, abs=0.005)
    assert result.std() == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize("seed", range(5))
def test_patches_move_every_one_and_loses_none(seed):
    image = random_images(1, 28, 28)
    result = patches(image, jax.random.key(seed), patch=32)  # 4 px here: 49 patches
    before, after = tiles_of(image[0], 4), tiles_of(result[0], 4)
    assert (before != after).any(1).all()
    order = lambda tiles: tiles[np.lexsort(tiles.T)]
    np.testing.assert_array_equal(order(before), order(after))


def test_patches_of_two_patches_swaps_them():
    image = random_images(1, 4, 8)
    result = patches(image, jax.random.key(0), patch=224)
    np.testing.assert_array_equal(result[:, :, :4], image[:, :, 4:])
    np.testing.assert_array_equal(result[:, :, 4:], image[:, :, :4])


@pytest.mark.parametrize(("height", "width"), [(17, 23), (5, 5), (3, 50)])
def test_patches_of_odd_sizes_holds_only_the_images_own_pixels(height, width):
    image = random_images(1, height, width)
    result = np.asarray(patches(image, jax.random.key(1), patch=64))
    assert result.shape == image.shape
    own = {tuple(p) for p in np.asarray(image).reshape(-1, 3)}
    assert {tuple(p) for p in result.reshape(-1, 3)} <= own
    assert (result != np.asarray(image)).any()


@pytest.mark.parametrize("name", sorted(INFILLS))
def test_an_infill_does_not_depend_on_the_neighbours(name):
    images, three = random_images(3), keys(3)
    together = make_infill(name, images, three)
    alone = make_infill(name, images[1:2], three[1:2])
    np.testing.assert_allclose(together[1:2], alone, atol=1e-6)
    assert together.shape == images.shape and together.dtype == jnp.float32
    assert together.min() >= 0 and together.max() <= 1


def test_the_key_decides_the_noise():
    images = random_images(1, 64, 64)
    for name in ("uniform", "normal", "grey", "blurs", "patches", "knockoff"):
        first = make_infill(name, images, keys(1))
        np.testing.assert_array_equal(first, make_infill(name, images, keys(1)))
        assert (first != make_infill(name, images, keys(1, seed=1))).any(), name


def test_an_array_is_broadcast_to_the_images():
    images = random_images(3, 8, 8)
    colour = np.array([0.1, 0.2, 0.3])
    np.testing.assert_allclose(make_infill(colour, images, keys(3))[2, 4, 4], colour, rtol=1e-6)
    own = np.random.default_rng(1).random((3, 8, 8, 3))
    np.testing.assert_allclose(make_infill(own, images, keys(3)), own, rtol=1e-6)


def test_an_array_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"infill of shape \(4, 8, 8, 3\) does not fit"):
        make_infill(np.zeros((4, 8, 8, 3)), random_images(3, 8, 8), keys(3))


def test_a_function_is_called_per_image_with_its_key():
    images, three = random_images(3, 8, 8), keys(3)
    shapes = []

    def infill(image, key):
        shapes.append(image.shape)
        return image * jax.random.uniform(key)

    result = make_infill(infill, images, three)
    assert shapes == [(1, 8, 8, 3)] * 3
    factors = jax.vmap(jax.random.uniform)(three)
    np.testing.assert_allclose(result, images * factors[:, None, None, None], rtol=1e-6)


@pytest.mark.parametrize("wrong", [lambda x, k: x[:, :4], lambda x, k: x[0]])
def test_a_function_that_returns_another_shape_is_refused(wrong):
    with pytest.raises(ValueError, match="infill function returned shape"):
        make_infill(wrong, random_images(2, 8, 8), keys(2))


@pytest.mark.parametrize(("name", "meant"), [("blurr", "blur"), ("knockof", "knockoff")])
def test_an_unknown_name_is_answered_with_the_nearest(name, meant):
    with pytest.raises(ValueError, match=f"infill='{name}'.*Did you mean {meant}"):
        make_infill(name, random_images(), keys(2))
