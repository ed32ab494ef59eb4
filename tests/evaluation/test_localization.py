"""Each number against NumPy/SciPy forms on random masks, and against cases done by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from fgjax.evaluation import localization as loc

EIGHT = np.ones((3, 3))
PROTOCOLS = sorted(loc.POINTING_PROTOCOLS)


def square(height, width, y, x, side):
    mask = np.zeros((height, width), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def batch(*arrays):
    return jnp.asarray(np.stack(arrays))


@pytest.fixture
def masks():
    """Random masks and truths; the last of each is empty in turn."""
    rng = np.random.default_rng(0)
    maps, truth = rng.random((8, 13, 17)) > 0.6, rng.random((8, 13, 17)) > 0.5
    maps[6:] = False
    truth[[5, 7]] = False
    return maps, truth


def test_overlaps_equal_set_arithmetic(masks):
    maps, truth = masks
    ours = [
        function(jnp.asarray(maps), jnp.asarray(truth))
        for function in (loc.iou, loc.share_inside, loc.covered, loc.false_detection_rate)
    ]
    for i in range(len(maps)):
        a = {tuple(place) for place in np.argwhere(maps[i])}
        b = {tuple(place) for place in np.argwhere(truth[i])}
        expected = [
            len(a & b) / len(a | b) if a | b else np.nan,
            (len(a & b) / len(a) if a else 0) if b else np.nan,
            len(a & b) / len(b) if b else np.nan,
            (len(a - b) / len(a) if a else 1) if b else np.nan,
        ]
        np.testing.assert_allclose([value[i] for value in ours], expected, rtol=1e-6)


def test_shifted_squares_by_hand():
    # 10 px squares, shifted by 5 px in x: 50 px shared, 150 px together.
    a, b = batch(square(20, 30, 4, 3, 10)), batch(square(20, 30, 4, 8, 10))
    assert loc.iou(a, b)[0] == pytest.approx(1 / 3)
    assert loc.box_iou(loc.box_of(a), loc.box_of(b))[0] == pytest.approx(1 / 3)
    assert loc.share_inside(a, b)[0] == pytest.approx(1 / 2)
    assert loc.area(a)[0] == pytest.approx(100 / 600)


def test_empty_masks():
    full, empty = jnp.ones((1, 4, 5), bool), jnp.zeros((1, 4, 5), bool)
    assert np.isnan(loc.iou(empty, empty)[0])
    assert loc.iou(empty, full)[0] == loc.iou(full, empty)[0] == 0
    assert loc.area(empty)[0] == 0 and loc.area(full)[0] == 1
    assert loc.covered(empty, full)[0] == 0 and np.isnan(loc.covered(full, empty)[0])
    assert loc.share_inside(empty, full)[0] == 0 and loc.false_detection_rate(empty, full)[0] == 1
    assert np.isnan(loc.share_inside(full, empty)[0])
    assert np.isnan(loc.box_of(empty)).all()


def test_threshold_is_strict():
    heatmap = jnp.array([[[0.5, 0.50001, jnp.nan, 0.0, 1.0]]])
    assert loc.threshold(heatmap).tolist() == [[[False, True, False, False, True]]]


def test_energy_equals_numpy():
    rng = np.random.default_rng(1)
    heat, truth = rng.random((4, 9, 11)).astype(np.float32), rng.random((4, 9, 11)) > 0.7
    heat[1], truth[2] = 0, False
    heat[3][~truth[3]] = np.nan  # a NaN counts wherever it lies
    ours = loc.energy_inside(jnp.asarray(heat), jnp.asarray(truth))
    expected = (heat[0] * truth[0]).sum() / heat[0].sum()
    # Without heat: chance, which a constant map has, too.
    np.testing.assert_allclose(ours, [expected, truth[1].mean(), np.nan, np.nan], rtol=1e-5)
    constant = loc.energy_inside(jnp.full((4, 9, 11), 0.3), jnp.asarray(truth))
    np.testing.assert_allclose(constant[1], ours[1], rtol=1e-5)


def test_boxes_equal_scipy_find_objects():
    rng = np.random.default_rng(2)
    maps = rng.random((20, 15, 12)) > 0.97
    for mask, box in zip(maps, np.asarray(loc.box_of(jnp.asarray(maps)))):
        if not mask.any():
            assert np.isnan(box).all()
            continue
        rows, columns = ndimage.find_objects(mask.astype(int))[0]
        assert box.tolist() == [columns.start, rows.start, columns.stop, rows.stop]


def test_box_iou_equals_iou_of_the_drawn_boxes():
    rng = np.random.default_rng(3)
    low, size = rng.integers(0, 10, (2, 50, 2)), rng.integers(1, 10, (2, 50, 2))
    boxes = jnp.asarray(np.concatenate([low, low + size], axis=2), jnp.float32)
    a, b = boxes
    drawn = loc.iou(loc.box_mask(a, 20, 20), loc.box_mask(b, 20, 20))
    np.testing.assert_allclose(loc.box_iou(a, b), drawn, rtol=1e-6)
    np.testing.assert_allclose(loc.box_of(loc.box_mask(a, 20, 20)), a)


def test_box_with_nan_is_not_annotated():
    box = jnp.array([[0.0, 0.0, jnp.nan, 4.0]])
    assert np.isnan(loc.box_iou(box, jnp.array([[0.0, 0.0, 4.0, 4.0]]))[0])
    assert not loc.box_mask(box, 5, 5).any()


def test_a_pixel_is_in_the_box_when_its_centre_is():
    mask = loc.box_mask(jnp.array([[0.6, 0.4, 2.6, 1.5]]), 3, 4)
    # x centres .5 1.5 2.5 3.5: the middle two; y centres .5 1.5: y1 = 1.5 is exclusive.
    assert np.argwhere(mask[0]).tolist() == [[0, 1], [0, 2]]


# The pointing game


def hits(heat, truth, protocol):
    return loc.pointing_game(jnp.asarray(heat), jnp.asarray(truth), protocol=protocol)


def test_argmax_equals_numpy_on_maps_without_ties():
    rng = np.random.default_rng(4)
    heat = rng.permuted(np.arange(40 * 50), axis=None).reshape(1, 40, 50)
    heat = np.concatenate([rng.permuted(heat, axis=2) for _ in range(30)]).astype(np.float32)
    truth = rng.random(heat.shape) > 0.999
    truth[:, 3, 3] = True
    exact, near = (np.asarray(hits(heat, truth, name)) for name in ("argmax", "argmax_15px"))
    for i in range(len(heat)):
        top = np.unravel_index(heat[i].argmax(), heat[i].shape)
        assert exact[i] == truth[i][top]
        # SciPy's distance to the truth, everywhere, read at the top.
        assert near[i] == (ndimage.distance_transform_edt(~truth[i])[top] <= 15)
    assert 0 < near.mean() < 1


def dots(*places):
    """One 40×40 truth per place y, x: that pixel."""
    return np.stack([square(40, 40, y, x, 1) for y, x in places])


def test_15_px_is_the_last_that_hits():
    heat = dots((20, 20), (20, 20)).astype(np.float32)
    truth = dots((20 - 9, 20 + 12), (20, 4))  # 9, 12, 15; and 16 px to the left
    assert hits(heat, truth, "argmax_15px").tolist() == [1, 0]
    assert hits(heat, truth, "argmax").tolist() == [0, 0]


def test_ties_point_at_their_mean_place():
    heat = np.stack([square(40, 40, 3, 10, 5)] * 2).astype(np.float32)
    for protocol in ("argmax", "blob_centroid"):
        assert hits(heat, dots((5, 12), (3, 10)), protocol).tolist() == [1, 0]


def test_two_equal_tops_differ_by_protocol():
    # A 3 px and a 5 px square: their mean lies between; the larger blob's centre is its own.
    small, large = square(40, 40, 2, 2, 3), square(40, 40, 20, 20, 5)
    heat, truth = np.stack([small | large] * 2).astype(np.float32), np.stack([small, large])
    assert hits(heat, truth, "blob_centroid").tolist() == [0, 1]
    assert hits(heat, truth, "argmax").tolist() == [0, 0]


def test_blob_threshold_is_095_of_the_maximum():
    truth = np.stack([square(40, 40, 20, 20, 5)] * 2)
    heat = truth * np.float32(0.6)
    # The square is 0.94 of the maximum, a lone pixel, which wins; then 0.96 of it.
    heat[:, 2, 2] = 0.6 / 0.94, 0.6 / 0.96
    assert hits(heat, truth, "blob_centroid").tolist() == [0, 1]


def test_largest_blob_equals_scipy_label():
    rng = np.random.default_rng(5)
    masks = rng.random((120, 21, 33)) < np.repeat([0.1, 0.3, 0.42, 0.6], 30)[:, None, None]
    ours = np.asarray(jax.jit(loc.largest_blob)(jnp.asarray(masks)))
    for mask, blob in zip(masks, ours):
        labels, _ = ndimage.label(mask, structure=EIGHT)
        # argmax takes the first of equal sizes, and SciPy numbers blobs row by row.
        largest = labels == np.bincount(labels[mask]).argmax()
        np.testing.assert_array_equal(blob, largest)


def test_a_long_winding_blob_stays_one():
    snake = np.zeros((1, 31, 31), bool)
    snake[0, ::2] = True
    snake[0, 1::4, -1] = snake[0, 3::4, 0] = True
    snake[0, 13] = False  # cut in two: 7 rows above, 9 rows below and single turns
    expected = ndimage.label(snake[0], structure=EIGHT)[0] == 2
    assert expected.sum() > 8 * 31
    np.testing.assert_array_equal(jax.jit(loc.largest_blob)(jnp.asarray(snake))[0], expected)


def test_blob_centroid_equals_scipy():
    rng = np.random.default_rng(6)
    heat = ndimage.gaussian_filter(rng.random((25, 40, 30)), (0, 2, 2)).astype(np.float32)
    points = np.asarray(loc.point_of(jnp.asarray(heat), protocol="blob_centroid"))
    pixels = np.zeros(heat.shape, bool)
    for one, point, pixel in zip(heat, points, pixels):
        labels, _ = ndimage.label(one > 0.95 * one.max(), structure=EIGHT)
        size = np.bincount(labels.ravel())[1:]
        y, x = ndimage.center_of_mass(labels == size.argmax() + 1)  # index places: centre − .5
        np.testing.assert_allclose(point, [x + 0.5, y + 0.5], rtol=1e-5)
        pixel[int(np.floor(y + 0.5)), int(np.floor(x + 0.5))] = True
    assert hits(heat, pixels, "blob_centroid").tolist() == [1] * 25
    assert hits(heat, ~pixels, "blob_centroid").tolist() == [0] * 25


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_maps_that_name_no_point_miss(protocol):
    heat = np.stack([np.full((9, 9), value) for value in (0, 0.3, 1, np.nan, np.inf)])
    heat = np.concatenate([heat, heat[:1], heat[:1]]).astype(np.float32)
    heat[5, 4, 4] = np.nan  # one NaN pixel
    heat[6, 4, 4] = np.inf
    truth = np.ones(heat.shape, bool)
    assert hits(heat, truth, protocol).tolist() == [0] * 7
    assert np.isnan(hits(heat, ~truth, protocol)).all()


def test_unknown_protocol_names_the_known():
    with pytest.raises(ValueError, match="'middle'.*argmax_15px"):
        hits(np.zeros((1, 2, 2), np.float32), np.ones((1, 2, 2), bool), "middle")


# Levels and small objects


def test_iou_at_levels_equals_numpy():
    rng = np.random.default_rng(8)
    heat = (3 * ndimage.gaussian_filter(rng.random((6, 20, 30)), (0, 2, 2)) - 1).astype(np.float32)
    truth = rng.random(heat.shape) > 0.5
    truth[4] = False
    heat[5] = 0.7  # constant: marks nothing
    ours = np.asarray(loc.iou_at_levels(jnp.asarray(heat), jnp.asarray(truth)))
    assert ours.shape == (6, 9) and ours.dtype == np.float32
    for i in range(4):
        low, high = heat[i].min(), heat[i].max()
        for j, level in enumerate(loc.LEVELS):
            mask = heat[i] > low + level * (high - low)
            expected = (mask & truth[i]).sum() / (mask | truth[i]).sum()
            assert ours[i, j] == pytest.approx(expected, abs=2e-3)
    assert np.isnan(ours[4]).all() and (ours[5] == 0).all()
    # The scale and the offset of a map do not matter.
    moved = loc.iou_at_levels(jnp.asarray(heat * 4 + 2), jnp.asarray(truth))
    np.testing.assert_allclose(moved, ours, atol=2e-3)
    two = loc.iou_at_levels(jnp.asarray(heat), jnp.asarray(truth), levels=(0.2, 0.7))
    np.testing.assert_array_equal(two, ours[:, [1, 6]])


def test_scaled_spans_zero_to_one():
    heat = np.random.default_rng(9).normal(size=(4, 5, 6)).astype(np.float32)
    heat[1], heat[2, 1, 1], heat[3, 1, 1] = 0.2, np.nan, -np.inf
    ours = np.asarray(loc.scaled(jnp.asarray(heat)))
    assert ours[0].min() == 0 and ours[0].max() == pytest.approx(1)
    np.testing.assert_allclose(ours[0], (heat[0] - heat[0].min()) / np.ptp(heat[0]), rtol=1e-5)
    assert (ours[1] == 0).all() and np.isnan(ours[2:]).all()
    none = loc.iou_at_levels(jnp.asarray(heat), jnp.ones(heat.shape, bool))
    assert np.isnan(none).all(axis=1).tolist() == [False, False, True, True]


def test_small_is_less_than_a_quarter():
    boxes = jnp.array([[0, 0, 10, 19.9], [0, 0, 10, 20], [0, 0, 40, 20], [np.nan, 0, 1, 1]])
    assert loc.is_small(boxes, 20, 40).tolist() == [True, False, False, False]
    assert loc.is_small(boxes, 20, 40, share=0.5).tolist() == [True, True, False, False]


# All of them


def test_jit_equals_eager_and_all_is_float32():
    rng = np.random.default_rng(7)
    heat = jnp.asarray(rng.random((3, 16, 12)), jnp.float32)
    truth = jnp.asarray(rng.random((3, 16, 12)) > 0.5)

    def everything(heat, truth):
        mask = loc.threshold(heat)
        return [
            loc.area(mask),
            loc.iou(mask, truth),
            loc.share_inside(mask, truth),
            loc.false_detection_rate(mask, truth),
            loc.covered(mask, truth),
            loc.energy_inside(heat, truth),
            loc.box_iou(loc.box_of(mask), loc.box_of(truth)),
            *(loc.pointing_game(heat, truth, protocol=protocol) for protocol in PROTOCOLS),
        ]

    for value, expected in zip(jax.jit(everything)(heat, truth), everything(heat, truth)):
        assert value.dtype == expected.dtype == jnp.float32 and value.shape == (3,)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
