"""Agreement of groupings with the known parts, by hand and against a count of all pairs."""

from itertools import combinations

import numpy as np
import pytest

from fgjax.evaluation.agreement import (
    agreement,
    mutual_information,
    part_counts,
    parts_on_the_animal,
    rand_index,
)


def table(found, known):
    counts = np.zeros((max(found) + 1, max(known) + 1), np.int64)
    np.add.at(counts, (found, known), 1)
    return counts


FOUND, KNOWN = [0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 1, 1, 1, 2, 2, 2]


def test_mutual_information_by_hand():
    """In bits: the table [[2, 1, 0], [0, 2, 1], [0, 0, 2]] of eight."""
    h = lambda *counts: -sum(n / 8 * np.log2(n / 8) for n in counts)
    found, known, both = h(3, 3, 2), h(2, 3, 3), h(2, 1, 2, 1, 2)
    wanted = 2 * (found + known - both) / (found + known)
    assert mutual_information(table(FOUND, KNOWN)) == pytest.approx(wanted, rel=1e-12)


def test_rand_index_counts_pairs():
    """Over all pairs: together in both, and as many as chance gives."""
    pairs = list(combinations(range(8), 2))
    together = lambda groups: np.array([groups[i] == groups[j] for i, j in pairs])
    a, b = together(FOUND), together(KNOWN)
    expected = a.sum() * b.sum() / len(pairs)
    wanted = ((a & b).sum() - expected) / ((a.sum() + b.sum()) / 2 - expected)
    assert rand_index(table(FOUND, KNOWN)) == pytest.approx(wanted, rel=1e-12)


def test_the_same_parts_under_other_numbers_and_parts_that_say_nothing():
    same = np.diag([5, 70, 9])[[2, 0, 1]]
    assert mutual_information(same) == pytest.approx(1) and rand_index(same) == pytest.approx(1)
    one = np.array([[5, 70, 9]])
    assert mutual_information(one) == 0 and rand_index(one) == 0
    apart = np.outer([10, 20, 30], [4, 8])  # independent of each other
    assert mutual_information(apart) == pytest.approx(0, abs=1e-12)
    assert abs(rand_index(apart)) < 0.01
    assert np.isnan(mutual_information(np.array([[7]]))) and np.isnan(rand_index(np.array([[7]])))
    assert np.isnan(mutual_information(np.zeros((2, 3), np.int64)))
    drawn = np.random.default_rng(0).integers(0, 4, (2, 20_000))
    counts = table(*drawn)
    assert mutual_information(counts) < 1e-3 and abs(rand_index(counts)) < 1e-3


def test_cells_are_enlarged_to_the_pixels():
    grouped = np.array([[0, 1], [2, 1]])
    part_map = np.array([[0, 0, 1, 1], [0, 2, 1, 1], [2, 2, 0, 1], [2, 2, 0, 0]], np.uint8)
    counts = part_counts(grouped, part_map, 4, 2)
    np.testing.assert_array_equal(counts, [[3, 0, 1], [3, 5, 0], [0, 0, 4], [0, 0, 0]])
    np.testing.assert_allclose(parts_on_the_animal(counts), [1 / 4, 5 / 8, 1, np.nan])
    found = agreement(counts)
    assert found["nmi_object"] == mutual_information(np.array([[0, 1], [5, 0], [0, 4]]))
    assert found["ari_object"] == rand_index(counts[:, 1:]) > found["ari_image"]
    assert found["nmi_image"] == mutual_information(counts) < found["nmi_object"]
    # A side that the cells do not divide: 5 pixels over 2 cells are 3 and 2.
    counts = part_counts(np.array([[0], [1]]), np.ones((5, 1), np.uint8), 2, 1)
    np.testing.assert_array_equal(counts, [[0, 3], [0, 2]])
