"""Extremal perturbations: a step in NumPy, and a toy whose regions are known."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import fgjax
from fgjax.attribution.extremal_perturbation import (
    ExtremalState,
    area_loss,
    blur_pyramid,
    extremal_perturbation_step,
    grid_of,
)
from fgjax.core.functional import partition
from toys import linear

RNG = np.random.default_rng(0)


# One step, in float64: the smooth maximum cell by cell, the area by sorting, the gradient by finite
# differences.

SMALL = (24, 28)
STEP = fgjax.ExtremalPerturbationConfig(
    areas=(0.1, 0.3), cell=37, smooth=56.0, levels=4, learning_rate=0.02, regulariser=30.0
)
SIDE, SIGMA, REACH, DOWN, ACROSS = 4, 6.0, 3, 6, 7


def reach():
    """Return k(‖u − u_i‖ / σ) of every cell at every pixel of image and margin, and whether the
    pixel looks so far: REACH cells to every side, (2 REACH + 1)² in all."""
    y, x = np.mgrid[: (DOWN + 2 * REACH) * SIDE, : (ACROSS + 2 * REACH) * SIDE] + 0.5
    i, j = (place.ravel()[:, None, None] + REACH for place in np.mgrid[:DOWN, :ACROSS])
    apart = np.hypot(y - (i + 0.5) * SIDE, x - (j + 0.5) * SIDE) / SIGMA
    near = (np.abs(y // SIDE - i) <= REACH) & (np.abs(x // SIDE - j) <= REACH)
    return np.exp(-2 * np.maximum(0, apart - 0.5) ** 2), near


KERNEL, NEAR = reach()


def numpy_maximum(cells):
    value = KERNEL * cells.reshape(-1, 1, 1)
    power = NEAR * np.exp(20 * value)
    beyond = (2 * REACH + 1) ** 2 - NEAR.sum(0)  # where there is no cell: 0, and e^0 = 1
    return (value * power).sum(0) / (power.sum(0) + beyond)


def numpy_mask(cells):
    """In units of cells that are 1 everywhere; in the margin, of the image's nearest pixel."""
    margin, (height, width) = REACH * SIDE, SMALL
    on_image = numpy_maximum(np.ones((DOWN, ACROSS)))[margin:, margin:][:height, :width]
    return numpy_maximum(cells) / np.pad(on_image, margin, mode="edge")


def numpy_energy(cells, area, step, pyramid, weights):
    """Return −(Φ − λR) of one mask of one image."""
    height, width = SMALL
    whole = numpy_mask(cells)
    mask = whole[REACH * SIDE :, REACH * SIDE :][:height, :width]
    at = np.clip(mask, 0, 1) * (len(pyramid) - 1)
    low = np.minimum(at.astype(int), len(pyramid) - 2)[..., None]
    lower = np.take_along_axis(pyramid, low[None], axis=0)[0]
    upper = np.take_along_axis(pyramid, low[None] + 1, axis=0)[0]
    shown = lower + (at[..., None] - low) * (upper - lower)
    shown = shown[:, ::-1] if step % 2 == 0 else shown
    ordered = np.sort(whole.ravel())
    wanted = np.zeros(whole.size)
    wanted[whole.size - round(area * height * width) :] = 1
    weight = STEP.regulariser * STEP.growth**step
    return weight * ((ordered - wanted) ** 2).mean() - (shown.mean(-1) * weights).sum()


def numpy_gradient(cells, *about):
    gradient = np.zeros_like(cells)
    for place in np.ndindex(*cells.shape):
        both = []
        for change in (1e-5, -1e-5):
            moved = cells.copy()
            moved[place] += change
            both.append(numpy_energy(moved, *about))
        gradient[place] = (both[0] - both[1]) / 2e-5
    return gradient


@pytest.fixture(scope="module")
def steps():
    """`(cells, how many) -> cells and trace after each`, of one image; and what NumPy needs."""
    grid = grid_of(*SMALL, STEP.cell, STEP.smooth)
    assert (grid.side, grid.down, grid.across, grid.radius) == (SIDE, DOWN, ACROSS, REACH)
    assert grid.sigma == pytest.approx(SIGMA)
    weights = RNG.normal(size=(*SMALL, 2)).astype(np.float32) / 20
    images = RNG.random((1, *SMALL, 3)).astype(np.float32)
    pyramid = blur_pyramid(jnp.asarray(images), STEP.levels, STEP.blur_sigma)
    arrays, static = partition(Partial(linear, jnp.asarray(weights)))

    def run(cells, count):
        cells, found = jnp.asarray(cells, jnp.float32), []
        state = ExtremalState(jnp.int32(0), cells, jnp.zeros_like(cells))
        for _ in range(count):
            state, trace = extremal_perturbation_step(
                state, arrays, static, pyramid, jnp.array([1]), STEP, grid
            )
            found.append((np.asarray(state.cells), np.asarray(trace)))
        return found

    return run, np.asarray(pyramid, np.float64)[:, 0], np.float64(weights[..., 1])


@pytest.mark.slow
def test_two_steps_in_numpy(steps):
    run, *about = steps
    start = RNG.uniform(0.2, 0.8, (1, 2, DOWN, ACROSS)).astype(np.float32)
    found = run(start, 2)
    for i, area in enumerate(STEP.areas):
        cells = np.float64(start[0, i])
        covered = numpy_mask(cells).sum() / np.prod(SMALL)
        assert found[0][1][0, 1, i] == pytest.approx(covered, rel=1e-4)
        velocity = numpy_gradient(cells, area, 0, *about)
        cells = np.clip(cells - STEP.learning_rate * velocity, 0, 1)
        np.testing.assert_allclose(found[0][0][0, i], cells, atol=2e-5)
        velocity = 0.9 * velocity + 0.1 * numpy_gradient(cells, area, 1, *about)
        cells = np.clip(cells - STEP.learning_rate * velocity, 0, 1)
        np.testing.assert_allclose(found[1][0][0, i], cells, atol=4e-5)


def test_a_region_costs_the_same_in_the_middle_and_cut_off_by_the_border(steps):
    cells = np.zeros((1, 2, DOWN, ACROSS), np.float32)
    cells[0, 0, 2:4, 2:4] = cells[0, 1, :2, :2] = [[1, 0.7], [0.4, 1]]
    middle, corner = steps[0](cells, 1)[0][1][0, 1]
    assert corner == pytest.approx(middle, rel=0.01) and middle > 0.2


def test_the_area_is_met_by_a_sharp_mask_of_that_area_alone():
    sharp = np.zeros((1, 2, 8, 8), np.float32)
    sharp[0, 0, 2:6, 1:5], sharp[0, 1, :, ::2] = 1, 1
    np.testing.assert_allclose(area_loss(jnp.asarray(sharp), (16, 32)), 0, atol=1e-7)
    assert (np.asarray(area_loss(jnp.asarray(sharp), (15, 34))) > 0.01).all()


HEIGHT, WIDTH = 40, 44
EVERYWHERE = (slice(0, HEIGHT), slice(0, WIDTH))
PLACES = {
    "middle": (slice(15, 24), slice(17, 26)),
    "border": (slice(15, 24), slice(0, 9)),
    "everywhere": EVERYWHERE,
}
"""Where each class is read from: two patches of 5 % of the image, and all of it."""
PATCHES = ("middle", "border")
TARGETS = jnp.arange(3)
ASKED = (0.1, 0.25)
CONFIG = fgjax.ExtremalPerturbationConfig(
    areas=ASKED, steps=120, learning_rate=0.1, growth=1.03, cell=11, smooth=22.4, flip=False
)


def model(images):
    """A class for each place, which sees its fine stripes: a blur takes them away."""
    stripes = jnp.abs(jnp.diff(images[..., 0], axis=2))
    seen = [stripes[:, rows, columns].mean((1, 2)) for rows, columns in PLACES.values()]
    return 20 * jnp.stack(seen, axis=1)


@pytest.fixture(scope="module")
def images():
    striped = np.zeros((3, HEIGHT, WIDTH, 3), np.float32)
    striped[:, :, ::2] = 1
    return jnp.asarray(striped)


@pytest.fixture(scope="module")
def found(images):
    return fgjax.extremal_perturbation(model, images, TARGETS, config=CONFIG)


@pytest.mark.parametrize("place", PATCHES)
def test_the_patch_that_the_class_is_read_from_is_found(found, place):
    i = PATCHES.index(place)
    for area in ASKED:
        mask = np.asarray(found.maps[f"area_{area:g}"][i])
        assert found.traces[f"area_{area:g}"][i, -1] == pytest.approx(area, rel=0.1)
        assert mask[PLACES[place]].mean() > 0.85
    small = np.asarray(found.maps["area_0.1"][i])
    y, x = (np.average(axis, weights=small) for axis in np.mgrid[:HEIGHT, :WIDTH])
    rows, columns = PLACES[place]
    assert rows.start < y < rows.stop and columns.start < x < columns.stop
    mean = (found.maps["area_0.1"] + found.maps["area_0.25"]) / 2
    np.testing.assert_allclose(found.heatmap, mean, atol=1e-6)


@pytest.mark.parametrize("place", ["middle", "everywhere"])
def test_no_mask_hugs_the_border(found, place):
    """What is not needed for the class does not go where a region would be cut off."""
    ring = np.ones((HEIGHT, WIDTH), bool)
    ring[3:-3, 3:-3] = False
    for area in ASKED:
        mask = np.asarray(found.maps[f"area_{area:g}"][list(PLACES).index(place)])
        assert mask[ring].mean() < mask.mean()


@pytest.mark.slow
def test_deletion_hides_what_preservation_shows(images):
    config = replace(CONFIG, variant="delete")
    gone = fgjax.extremal_perturbation(model, images, TARGETS, config=config)
    for i, place in enumerate(PATCHES):
        mask = np.asarray(gone.maps["area_0.25"][i])
        assert mask[PLACES[place]].mean() > 2 * mask.mean() > 0.3
    score = gone.traces["score_0.25"]
    assert (score[:2, -1] < 0.4 * score.max()).all()


@pytest.mark.slow
def test_nan_is_said_for_its_image_alone_and_another_is_as_without_it(images, found):
    marked = images.at[0, 0, 43, 1].set(0.5)
    broken = lambda x: jnp.where(x[:, :1, 43, 1] == 0.5, jnp.nan, model(x))
    few = replace(CONFIG, steps=3)
    maps = fgjax.extremal_perturbation(broken, marked, TARGETS, config=few).heatmap
    assert np.isnan(maps[0]).all() and np.isfinite(maps[1:]).all()
    alone = fgjax.extremal_perturbation(model, images, TARGETS, config=few).heatmap
    np.testing.assert_allclose(maps[1:], alone[1:], atol=1e-5)


def test_settings_that_cannot_be_meant(untyped):
    for wrong in (dict(areas=()), dict(areas=(1.5,)), dict(areas=(0.1, 0.1)), dict(levels=1),
                  dict(variant="keep"), dict(growth=0.0), dict(steps=1), dict(cell=0)):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fgjax.ExtremalPerturbationConfig(**wrong)
