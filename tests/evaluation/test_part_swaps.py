"""Part swaps, by hand."""

import numpy as np

from fgjax.evaluation.part_swaps import chances, flipping_parts, part_swaps


def test_a_part_flips_where_one_of_its_swaps_does():
    after, parts = np.array([3, 5, 3, 3, 7]), np.array([0, 0, 1, 2, 2])
    assert flipping_parts(3, after, parts, 4).tolist() == [True, False, True, False]


def test_energy_and_first_and_their_chances():
    flips = np.array([[1, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]], bool)
    importance = np.array([[0.5, 0.2, 0.1, 0], [0.1, 0.4, 0.3, 0.2], [1, 0, 0, 0], [1, 0, 0, 0],
                           [0, 0, 0, 0]])  # fmt: skip
    areas = np.tile([0.1, 0.2, 0.3, 0.1], (5, 1))
    nan, found = np.nan, part_swaps(importance, flips, areas)
    np.testing.assert_allclose(found.energy, [0.5, 0.4, nan, nan, 0])
    # In the second the second and the last part are equally high, and neither flips.
    np.testing.assert_allclose(found.first, [1, 0, nan, nan, 0.25])
    np.testing.assert_allclose(found.among, [5 / 8, 0.4, nan, nan, 2 / 7])
    chance = chances(flips, areas)
    np.testing.assert_allclose(chance.energy, [0.1, 0.4, nan, nan, 0.2])
    np.testing.assert_allclose(chance.among, [1 / 7, 4 / 7, nan, nan, 2 / 7])
    np.testing.assert_allclose(chance.first, [0.25, 0.5, nan, nan, 0.25])


def test_a_constant_map_has_the_chance():
    flips = np.array([[True, False, False]])
    areas = np.array([[0.3, 0.1, 0.02]])
    for found, chance in zip(part_swaps(areas, flips, areas), chances(flips, areas), strict=True):
        np.testing.assert_allclose(found, chance)


def test_a_broken_map_points_nowhere_that_is_known():
    found = part_swaps(np.full((1, 2), np.nan), np.array([[True, False]]), np.full((1, 2), 0.1))
    assert np.isnan(found).all()
