"""Part swaps, by hand."""

import numpy as np

from fgjax.evaluation.part_swaps import flipping_parts, part_swaps


def test_a_part_flips_where_one_of_its_swaps_does():
    after, parts = np.array([3, 5, 3, 3, 7]), np.array([0, 0, 1, 2, 2])
    assert flipping_parts(3, after, parts, 4).tolist() == [True, False, True, False]


def test_energy_first_and_their_chances():
    flips = np.array([[1, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]], bool)
    importance = np.array([[0.5, 0.2, 0.1, 0], [0.1, 0.4, 0.4, 0], [1, 0, 0, 0], [1, 0, 0, 0],
                           [0.2, 0.2, 0.2, 0.2]])  # fmt: skip
    areas = np.tile([0.1, 0.2, 0.3, 0.1], (5, 1))
    found = part_swaps(importance, flips, areas)
    nan = np.nan
    np.testing.assert_allclose(found.energy, [0.5, 0.5, nan, nan, 0.2])
    # Two parts lead in the second, one of them flips; in the last none is told from another.
    np.testing.assert_allclose(found.first, [1, 0.5, nan, nan, 0.25])
    np.testing.assert_allclose(found.area, [0.1, 0.4, nan, nan, 0.2])
    np.testing.assert_allclose(found.chance, [0.25, 0.5, nan, nan, 0.25])


def test_a_broken_map_points_nowhere_that_is_known():
    flips, areas = np.array([[True, False]]), np.array([[0.1, 0.1]])
    found = part_swaps(np.full((1, 2), np.nan), flips, areas)
    assert np.isnan(found.energy[0]) and np.isnan(found.first[0])
