"""Classifiers judged beside their accuracy: cases by hand, and what is known in closed form."""

import numpy as np
import pytest
from scipy.special import softmax

from fgjax.evaluation.classification import (
    class_figures,
    confusion_matrix,
    fit_temperature,
    reliability,
    roll_up,
    similar_together,
)

TARGETS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 1, 0])


def test_the_matrix_and_every_class_by_hand():
    matrix = confusion_matrix(TARGETS, PREDICTED, 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    first, second, third, fourth = class_figures(matrix)
    assert first == (3, pytest.approx(2 / 3), pytest.approx(2 / 3), 1, 1)
    assert second == (2, 1.0, pytest.approx(2 / 3), -1, 0)
    assert third[:2] == (1, 0.0) and np.isnan(third.precision) and third.mistaken_for == 0
    assert fourth.images == 0 and np.isnan(fourth.recall)


def test_similar_classes_become_neighbours():
    """Three pairs that are mistaken within themselves, scattered; two of the pairs a little."""
    pairs = {0: 3, 3: 0, 1: 5, 5: 1, 2: 4, 4: 2}
    matrix = 20 * np.eye(6, dtype=np.int64)
    for a, b in pairs.items():
        matrix[a, b] += 10
    matrix[0, 5] += 3
    order = similar_together(matrix).tolist()
    assert sorted(order) == list(range(6))
    for a, b in pairs.items():
        assert abs(order.index(a) - order.index(b)) == 1
    assert abs(order.index(0) - order.index(5)) <= 3
    assert similar_together(np.eye(2, dtype=np.int64)).tolist() == [0, 1]


def test_reliability_by_hand():
    p = np.array([0.05, 0.15, 0.95, 1.0, 0.9])
    found = reliability(p, np.array([False, True, True, True, False]), 10)
    assert found.counts.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 3]
    assert found.right[9] == pytest.approx(2 / 3) and found.sure[9] == pytest.approx(0.95)
    gaps = [0.05, 0.85, abs(2 / 3 - 0.95)]
    assert found.error == pytest.approx((gaps[0] + gaps[1] + 3 * gaps[2]) / 5)
    assert np.isnan(found.right[5])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature):
    """Labels drawn from softmax(z / T): T is the answer, and the calibration error gets small."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20_000, 5)) * 4
    p = softmax(z / temperature, axis=1)
    targets = (p.cumsum(1) < rng.random((len(p), 1))).sum(1)
    found = fit_temperature(z.astype(np.float32), targets)
    assert found == pytest.approx(temperature, rel=0.03)
    scaled = softmax(z / found, axis=1)
    error = lambda p: reliability(p.max(1), p.argmax(1) == targets).error
    assert error(scaled) < 0.015
    if temperature != 1:
        assert error(softmax(z, axis=1)) > 0.05


def test_without_a_mistake_there_is_no_temperature():
    assert fit_temperature(np.eye(3), np.arange(3)) == 1.0


def test_levels_by_hand():
    """Two genera of two species. Sure of the species, of the genus only, and of nothing."""
    p = np.array([[0.94, 0.02, 0.02, 0.02], [0.5, 0.45, 0.03, 0.02], [0.32, 0.2, 0.25, 0.23]])
    levels = {"genus": ["a", "a", "b", "b"]}
    species, genus = roll_up(np.log(p), np.array([0, 1, 2]), levels, 0.9)
    assert (species.name, species.groups, genus.name, genus.groups) == ("class", 4, "genus", 2)
    assert species.accuracy == pytest.approx(1 / 3) and genus.accuracy == pytest.approx(2 / 3)
    assert species.answered == pytest.approx(1 / 3) and species.right == 1
    assert genus.answered == pytest.approx(2 / 3) and genus.right == 0.5
    hot = roll_up(np.log(p), np.array([0, 1, 2]), levels, 0.9, temperature=100.0)
    assert hot[0].answered == 0 and np.isnan(hot[0].right) and hot[1].answered == 1
