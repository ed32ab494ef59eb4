"""Discs around landmarks, and whether a map shows them."""

import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.evaluation import judge_parts, landmark_discs, part_protocols

SIDE = 40
NAMES = ("beak", "left eye", "tail")
BOXES = np.array([[0, 0, 40, 20], [np.nan] * 4], np.float32)
POINTS = np.array(
    [
        [[10, 10, 1], [30.5, 20.5, 1], [5, 5, 0]],
        [[20, 20, 1], [39, 39, 1], [1, 1, 1]],
    ],
    np.float32,
)


@pytest.fixture(scope="module")
def discs():
    return landmark_discs(jnp.asarray(POINTS), jnp.asarray(BOXES), SIDE, SIDE, 0.1)


def test_a_disc_is_the_pixels_within_a_share_of_the_longer_side(discs):
    """Pixel by pixel: 0.1 of 40 px, which is the box's width, and the image's where no box is."""
    wanted = np.zeros((2, 3, SIDE, SIDE), bool)
    for i, points in enumerate(POINTS):
        for part, (x, y, visible) in enumerate(points):
            for row in range(SIDE):
                for column in range(SIDE):
                    near = np.hypot(column + 0.5 - x, row + 0.5 - y) <= 4
                    wanted[i, part, row, column] = near and visible
    np.testing.assert_array_equal(discs, wanted)


def test_points_and_energy_of_each_part(discs):
    maps = np.zeros((2, SIDE, SIDE), np.float32)
    maps[0, 9:11, 9:11], maps[0, 20, 30] = 1.0, 0.5  # most of it at the beak, some at the eye
    maps[1] = 1.0  # a constant map points nowhere
    found = {k: np.asarray(v) for k, v in judge_parts(jnp.asarray(maps), discs, NAMES).items()}
    np.testing.assert_array_equal(found["pointing_part_beak"], [1, 0])
    np.testing.assert_array_equal(found["pointing_part_left_eye"], [0, 0])
    np.testing.assert_array_equal(found["pointing_part_tail"], [np.nan, 0])
    np.testing.assert_array_equal(found["pointing_part_any"], [1, 0])
    assert found["energy_in_part_beak"][0] == pytest.approx(4 / 4.5)
    assert found["energy_in_part_left_eye"][0] == pytest.approx(0.5 / 4.5)
    # Of a constant map it is the share of the image: chance.
    assert found["energy_in_part_any"][1] == pytest.approx(discs[1].any(0).mean())
    assert np.isnan(found["energy_in_part_tail"][0])
    assert set(part_protocols(NAMES)) == set(found)


def test_a_broken_map_misses_and_has_no_energy(discs):
    maps = jnp.ones((2, SIDE, SIDE)).at[0, 0, 0].set(jnp.nan)
    found = judge_parts(maps, discs, NAMES)
    assert found["pointing_part_beak"][0] == 0 and jnp.isnan(found["energy_in_part_beak"][0])
