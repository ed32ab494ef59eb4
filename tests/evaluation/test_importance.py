"""Maps of any range become importance in [0, 1], each by itself."""

import numpy as np
import pytest

from fgjax.evaluation import to_importance

MAPS = np.array([[[-4.0, 0.0], [1.0, 2.0]], [[-2.0, -1.0], [-2.0, -4.0]]], np.float32)


@pytest.mark.parametrize(
    "scale, wanted",
    [
        ("positive", [[[0, 0], [0.5, 1]], [[0, 0], [0, 0]]]),
        ("absolute", [[[1, 0], [0.25, 0.5]], [[0.5, 0.25], [0.5, 1]]]),
        ("unit", [[[0, 4 / 6], [5 / 6, 1]], [[2 / 3, 1], [2 / 3, 0]]]),
    ],
)
def test_each_scale_by_hand(scale, wanted):
    np.testing.assert_allclose(to_importance(MAPS, scale), wanted, atol=1e-6)


def test_kept_maps_are_untouched_and_others_refused():
    good = np.random.default_rng(0).random((3, 4, 5), np.float32)
    np.testing.assert_array_equal(to_importance(good), good)
    with pytest.raises(ValueError, match=r"map 1 spans -1 to 0\.5.*absolute: \|map\|"):
        to_importance(np.stack([good[0], np.linspace(-1, 0.5, 20).reshape(4, 5)]))
    with pytest.raises(ValueError, match="Did you mean absolute"):
        to_importance(good, "absolut")


@pytest.mark.parametrize("scale", ["keep", "positive", "absolute", "unit"])
def test_nothing_to_scale_is_zero_and_nan_stays_with_its_map(scale):
    maps = np.zeros((3, 2, 2), np.float32)
    maps[1, 0, 0], maps[2, 1, 1] = np.nan, 1
    found = to_importance(maps, scale)
    assert (found[0] == 0).all() and np.isnan(found[1]).all() and found[2].max() == 1


@pytest.mark.parametrize("scale", ["positive", "absolute", "unit"])
def test_rounding_is_no_importance(scale):
    """What is the same everywhere but for its last bit must not become a confident map."""
    noise = np.random.default_rng(0).integers(0, 2, (1, 6, 6)) * 6e-8
    found = to_importance((0.5 + noise).astype(np.float32), scale)
    assert (found == 0).all()
