"""Extremal perturbations: each piece against its formula, and a toy whose region is known."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
from fgjax.attribution.extremal_perturbation import (
    area_loss,
    blur_pyramid,
    grid_of,
    perturb,
    smooth_mask,
)
from fgjax.core.filters import gaussian_blur

HEIGHT, WIDTH = 32, 36
RNG = np.random.default_rng(0)
SHARP = 100.0


def test_masks_are_smooth_maxima_over_the_cells_around():
    """Pixel by pixel, cell by cell, in float64."""
    grid = grid_of(HEIGHT, WIDTH, 28, 42.0)  # cells of 4 pixels, σ of 6
    assert (grid.side, grid.down, grid.across, grid.radius) == (4, 8, 9, 3)
    cells = RNG.random((2, 8, 9))
    found = smooth_mask(jnp.asarray(cells, jnp.float32), grid, HEIGHT, WIDTH)
    padded = np.pad(cells, ((0, 0), (3, 3), (3, 3)))
    for y, x in ((0, 0), (17, 35), (31, 2), (13, 20)):
        values = []
        for down in range(-3, 4):
            for across in range(-3, 4):
                i, j = y // 4 + down, x // 4 + across
                away = np.hypot(y + 0.5 - (4 * i + 2), x + 0.5 - (4 * j + 2)) / 6
                kernel = np.exp(-2 * max(0, away - 0.5) ** 2)
                values.append(kernel * padded[:, i + 3, j + 3])
        v = np.array(values)
        wanted = (v * np.exp(20 * v)).sum(0) / np.exp(20 * v).sum(0)
        np.testing.assert_allclose(found[:, y, x], wanted, rtol=1e-4)


def test_the_area_is_met_by_a_sharp_mask_of_that_area_alone():
    areas = np.array([0.25, 0.5])
    sharp = np.zeros((1, 2, 8, 8), np.float32)
    sharp[0, 0, 2:6, 1:5], sharp[0, 1, :, ::2] = 1, 1
    np.testing.assert_allclose(area_loss(jnp.asarray(sharp), areas), 0, atol=1e-7)
    soft = RNG.random((3, 2, 8, 8)).astype(np.float32)
    ordered = np.sort(soft.reshape(3, 2, 64), axis=2)
    wanted = np.zeros((2, 64))
    wanted[0, 48:], wanted[1, 32:] = 1, 1
    found = area_loss(jnp.asarray(soft), areas)
    np.testing.assert_allclose(found, ((ordered - wanted) ** 2).mean(2), rtol=1e-5)


def test_images_are_as_blurred_as_the_mask_says():
    images = jnp.asarray(RNG.random((2, HEIGHT, WIDTH, 3)), jnp.float32)
    pyramid = blur_pyramid(images, 4, 20.0)
    np.testing.assert_allclose(pyramid[0], gaussian_blur(images, 20.0), atol=1e-6)
    np.testing.assert_array_equal(pyramid[3], images)
    masks = RNG.random((2, 3, HEIGHT, WIDTH)).astype(np.float32)
    shown = np.asarray(perturb(pyramid, jnp.asarray(masks)))
    for i, area, y, x, c in ((0, 0, 3, 4, 0), (1, 2, 20, 30, 2), (0, 1, 31, 0, 1)):
        levels = np.asarray(pyramid[:, i, y, x, c])
        wanted = np.interp(masks[i, area, y, x], np.linspace(0, 1, 4), levels)
        assert shown[i, area, y, x, c] == pytest.approx(wanted, abs=1e-5)


def model(images):
    """Class 0 sees fine stripes in the upper left quarter, which a blur takes away."""
    quarter = images[:, : HEIGHT // 2, : WIDTH // 2, 0]
    stripes = jnp.abs(jnp.diff(quarter, axis=2)).mean((1, 2))
    return jnp.stack([SHARP * stripes, 0 * stripes], axis=1)


@pytest.fixture(scope="module")
def images():
    striped = np.zeros((2, HEIGHT, WIDTH, 3), np.float32)
    striped[:, :, ::2] = 1
    striped[1] = 0.5
    return jnp.asarray(striped)


CONFIG = fgjax.ExtremalPerturbationConfig(
    areas=(0.1, 0.25), steps=80, learning_rate=0.1, growth=1.03, cell=14, smooth=28.0, flip=False
)


@pytest.fixture(scope="module")
def found(images):
    return fgjax.extremal_perturbation(model, images, jnp.array([0, 0]), config=CONFIG)


def test_the_region_is_where_the_model_looks_and_of_its_area(found):
    quarter = np.zeros((HEIGHT, WIDTH), bool)
    quarter[: HEIGHT // 2, : WIDTH // 2] = True
    for area in (0.1, 0.25):
        mask = np.asarray(found.maps[f"area_{area:g}"][0])
        assert mask.mean() == pytest.approx(area, abs=0.05)
        assert mask[quarter].sum() / mask.sum() > 0.75
    mean = (found.maps["area_0.1"] + found.maps["area_0.25"]) / 2
    np.testing.assert_allclose(found.heatmap, mean, atol=1e-6)
    assert found.traces["score_0.1"].shape == (2, 80)
    # It begins with the whole image shown.
    assert found.traces["score_0.1"][0, 0] == pytest.approx(float(found.traces["score_0.1"].max()),
                                                           rel=0.1)  # fmt: skip


def test_deletion_hides_what_preservation_shows(images):
    config = replace(CONFIG, variant="delete")
    gone = fgjax.extremal_perturbation(model, images[:1], jnp.array([0]), config=config)
    for area in (0.1, 0.25):
        mask = np.asarray(gone.maps[f"area_{area:g}"][0])
        assert mask[: HEIGHT // 2, : WIDTH // 2].sum() / mask.sum() > 0.7
    assert float(gone.traces["score_0.25"][0, -1]) < float(gone.traces["score_0.1"][0, -1])


def test_an_image_does_not_depend_on_those_beside_it(images, found):
    one = fgjax.extremal_perturbation(model, images[1:], jnp.array([0]), config=CONFIG)
    np.testing.assert_allclose(one.heatmap[0], found.heatmap[1], atol=1e-5)


def test_nan_is_said_for_its_image_alone(images):
    broken = lambda x: jnp.where(x[:, :1, 0, 1] == 0.5, jnp.nan, model(x))
    few = replace(CONFIG, steps=2)
    maps = fgjax.extremal_perturbation(broken, images, jnp.array([0, 0]), config=few).heatmap
    assert np.isfinite(maps[0]).all() and np.isnan(maps[1]).all()


def test_settings_that_cannot_be_meant(untyped):
    for wrong in (dict(areas=()), dict(areas=(1.5,)), dict(levels=1), dict(variant="keep"),
                  dict(growth=0.0)):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fgjax.ExtremalPerturbationConfig(**wrong)
