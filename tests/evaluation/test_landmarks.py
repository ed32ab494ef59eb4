"""Landmark error against cases whose answer is known, and against least squares."""

import numpy as np
import pytest
from scipy import linalg

import fgjax
from fgjax.evaluation.landmarks import (
    in_box,
    landmark_distances,
    part_consistency,
    part_spread,
)


def animals(n, seed, parts=3, landmarks=4, noise=0.0):
    """Landmarks that are a linear function of the parts' centres, in shares of the box."""
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 40, (n, 2)), rng.uniform(50, 90, (n, 2))
    boxes = np.concatenate([corner, corner + size], axis=1)
    places = rng.uniform(0.2, 0.8, (n, parts, 2))
    rule = np.random.default_rng(0).normal(0, 0.3, (parts * 2, landmarks * 2))
    points = (places.reshape(n, -1) @ rule).reshape(n, landmarks, 2) + 0.3
    points += rng.normal(0, noise, points.shape)
    seen = rng.random((n, landmarks, 1)) < 0.7
    pixels = points * size[:, None] + corner[:, None]
    marks = np.concatenate([np.where(seen, pixels, 0), seen], axis=-1)
    return places * size[:, None] + corner[:, None], marks, boxes


def test_a_linear_rule_is_found():
    (c, m, b), (c2, m2, b2) = animals(40, 1), animals(25, 2)
    distances = landmark_distances(c, m, c2, m2, fit_boxes=b, boxes=b2)
    seen = m2[..., 2] > 0
    assert np.isnan(distances[~seen]).all() and distances[seen].max() < 1e-10
    error = fgjax.landmark_error(c, m, c2, m2, fit_boxes=b, boxes=b2)
    assert error.shape == (25,) and np.nanmax(error) < 1e-10


def test_it_is_least_squares_with_an_intercept():
    """Standardising both sides and leaving the intercept out is the same as having one."""
    (c, m, b), (c2, m2, b2) = animals(40, 1, noise=0.05), animals(25, 2, noise=0.05)
    distances = landmark_distances(c, m, c2, m2, fit_boxes=b, boxes=b2)
    for p in range(4):
        use = m[:, p, 2] > 0
        one = lambda x: np.concatenate([x.reshape(len(x), -1), np.ones((len(x), 1))], 1)
        target = ((m[:, p, :2] - b[:, :2]) / (b[:, 2:] - b[:, :2]))[use]
        weights = linalg.lstsq(one(in_box(c, b)[use]), target)[0]
        wanted = one(in_box(c2, b2)) @ weights - (m2[:, p, :2] - b2[:, :2]) / (
            b2[:, 2:] - b2[:, :2]
        )
        seen = m2[:, p, 2] > 0
        np.testing.assert_allclose(distances[seen, p], np.hypot(*wanted.T)[seen], atol=1e-9)


def test_centres_that_say_nothing_give_the_mean_place():
    (_, m, b), (_, m2, b2) = animals(40, 1), animals(25, 2)
    middle, middle2 = ((x[:, :2] + x[:, 2:])[:, None] / 2 for x in (b, b2))
    distances = landmark_distances(middle, m, middle2, m2, fit_boxes=b, boxes=b2)
    for p in range(4):
        place = in_box(m[..., :2], b)[m[:, p, 2] > 0, p].mean(0)
        wanted = np.linalg.norm(place - in_box(m2[..., :2], b2)[:, p], axis=1)
        seen = m2[:, p, 2] > 0
        np.testing.assert_allclose(distances[seen, p], wanted[seen], atol=1e-9)


def test_the_joint_protocol_measures_in_distances_between_the_eyes():
    rng = np.random.default_rng(4)
    centers, rule = rng.uniform(50, 200, (60, 2, 2)), rng.normal(0, 0.5, (4, 10))
    points = (centers.reshape(60, 4) @ rule).reshape(60, 5, 2)
    points += rng.normal(0, 4, points.shape)
    marks = np.concatenate([points, np.ones((60, 5, 1))], axis=-1)
    marks[3, 4] = 0  # not all visible: not fitted on
    fit, test = slice(0, 40), slice(40, 60)
    found = landmark_distances(centers[fit], marks[fit], centers[test], marks[test], mode="joint")
    use = np.arange(40) != 3
    one = lambda x: np.concatenate([x.reshape(len(x), -1), np.ones((len(x), 1))], 1)
    weights = linalg.lstsq(one(centers[fit][use]), points[fit][use].reshape(39, 10))[0]
    gap = (one(centers[test]) @ weights).reshape(20, 5, 2) - points[test]
    eyes = np.linalg.norm(points[test][:, 0] - points[test][:, 1], axis=1)
    np.testing.assert_allclose(found, np.linalg.norm(gap, axis=-1) / eyes[:, None], rtol=1e-6)


def test_what_is_missing_is_no_number_and_no_crash():
    (c, m, b), (c2, m2, b2) = animals(12, 1), animals(5, 2)
    m[:, 1, 2] = 0  # never seen in training
    c[3, 0] = c2[2, 0] = np.nan  # a part that is nowhere
    b2[0] = np.nan  # no box
    distances = landmark_distances(c, m, c2, m2, fit_boxes=b, boxes=b2)
    assert np.isnan(distances[:, 1]).all() and np.isnan(distances[0]).all()
    assert np.isfinite(distances[2, m2[2, :, 2] > 0][[0]]).all()
    few = landmark_distances(c[:1], m[:1], c2, m2, fit_boxes=b[:1], boxes=b2)
    assert few.shape == (5, 4)  # one image to fit on: its own place


def test_wrong_use_is_told():
    c, m, b = animals(5, 1)
    with pytest.raises(ValueError, match="boxes are needed"):
        landmark_distances(c, m, c, m)
    with pytest.raises(ValueError, match="mode='both': one of separate, joint"):
        landmark_distances.__wrapped__(c, m, c, m, fit_boxes=b, boxes=b, mode="both")


def test_spread_is_the_distance_to_the_mean_place():
    places = np.zeros((4, 2, 2))
    places[:, 1] = [[0, 0], [2, 0], [0, 2], [2, 2]]
    np.testing.assert_allclose(part_spread(places), [0, np.sqrt(2)])
    places[0, 0] = np.nan
    np.testing.assert_allclose(part_spread(places)[0], 0)


def test_consistency_is_the_share_of_the_commonest_neighbour():
    landmarks = np.zeros((4, 3, 3))
    landmarks[..., 2] = 1
    landmarks[:, 0, :2], landmarks[:, 1, :2], landmarks[:, 2, :2] = (0, 0), (10, 0), (0, 10)
    places = np.zeros((4, 2, 2))
    places[:, 0] = (9, 0)
    places[:, 1] = [(1, 1), (9, 1), (1, 9), (1, 1)]
    np.testing.assert_allclose(part_consistency(places, landmarks), [1, 0.5])
    landmarks[:2, 1, 2] = 0  # hidden in half of the images: another one is nearest then
    np.testing.assert_allclose(part_consistency(places, landmarks)[0], 0.5)
