"""Pixels against matplotlib's own lookup, hand-drawn cases and slow loops."""

import matplotlib
import numpy as np
import pytest

import fgjax.report.overlay
from fgjax.report.overlay import (
    ANNOTATION,
    CONTOUR,
    UNDEFINED,
    _same_shape,
    contour,
    draw_box,
    outline,
    overlay,
    panel,
    primary_map,
    resize_map,
    to_unit,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("colormap", ["magma", "viridis"])
def test_overlay_shows_the_colours_of_matplotlib(colormap):
    values = [0.0, 0.1, 0.25, 0.5, 0.999, 1.0]
    heat = np.asarray([values], np.float32)
    drawn = overlay(np.zeros((1, 6, 3), np.uint8), heat, opacity=1.0, colormap=colormap)
    table = matplotlib.colormaps[colormap].colors  # 256 rows; a value v lies in row ⌊256 v⌋
    for pixel, value in zip(drawn[0], values, strict=True):
        expected = np.asarray(table[min(255, int(256 * value))]) * 255
        np.testing.assert_allclose(pixel, expected, atol=0.5)


def test_overlay_mixes_by_opacity(rng):
    image = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    heat = rng.random((4, 5)).astype(np.float16)
    alone = overlay(image, heat, opacity=1.0).astype(np.float64)
    np.testing.assert_array_equal(overlay(image, heat, opacity=0.0), image)
    np.testing.assert_allclose(
        overlay(image, heat, opacity=0.25), 0.75 * image + 0.25 * alone, atol=0.7
    )


def test_undefined_pixels_are_grey():
    heat = np.asarray([[np.nan, 0.5], [np.inf, 0.5]], np.float32)
    drawn = overlay(np.full((2, 2, 3), 28, np.uint8), heat, opacity=0.5)
    assert drawn[0, 0].tolist() == drawn[1, 0].tolist() == [(28 + UNDEFINED[0]) // 2] * 3
    assert drawn[0, 1].tolist() != drawn[0, 0].tolist()


def test_overlay_says_what_is_wrong():
    image, heat = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match=r"0 … 3 are not in \[0, 1\]"):
        overlay(image, np.asarray([[0, 3], [0, 0]], np.float32))
    with pytest.raises(ValueError, match="opacity 1.5"):
        overlay(image, heat, opacity=1.5)
    with pytest.raises(ValueError, match="no colormap 'mgma'"):
        overlay(image, heat, colormap="mgma")


def test_outline_of_a_hand_drawn_mask():
    picture = """
    ......
    .####.
    .####.
    .####.
    .####.
    ......
    """
    line = """
    ......
    .####.
    .#..#.
    .#..#.
    .####.
    ......
    """
    read = lambda text: np.asarray([[c == "#" for c in row] for row in text.split()])  # noqa: E731
    np.testing.assert_array_equal(outline(read(picture)), read(line))
    np.testing.assert_array_equal(outline(read(picture), width=2), read(picture))


def test_contour_lies_exactly_inside_the_boundary(rng):
    heat = rng.random((13, 17)).astype(np.float32)
    heat[3, 3] = np.nan
    image = np.zeros((13, 17, 3), np.uint8)
    drawn = contour(image, heat, 0.3, (9, 8, 7))
    for y in range(13):
        for x in range(17):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [p for p in around if 0 <= p[0] < 13 and 0 <= p[1] < 17]
            edge = heat[y, x] > 0.3 and not all(heat[p] > 0.3 for p in inside)
            assert drawn[y, x].tolist() == ([9, 8, 7] if edge else [0, 0, 0])
    assert not image.any()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_map_has_no_contour(value):
    image = np.zeros((5, 5, 3), np.uint8)
    assert not contour(image, np.full((5, 5), value, np.float32), 0.5).any()


def test_mask_of_another_shape_is_refused():
    # Under test jaxtyping refuses it first; users run without.
    with pytest.raises(ValueError, match=r"mask is \(3, 3\), the image \(4, 4\)"):
        _same_shape(np.zeros((4, 4, 3), np.uint8), np.zeros((3, 3), bool), "mask")


def test_box_edges_are_exclusive():
    drawn = draw_box(np.zeros((6, 8, 3), np.uint8), np.asarray([2.0, 1.0, 6.0, 5.0]), (255, 0, 0))
    expected = np.zeros((6, 8), bool)
    expected[1:5, 2:6] = True
    expected[2:4, 3:5] = False
    np.testing.assert_array_equal(drawn[..., 0] == 255, expected)


def test_a_thin_box_is_seen_and_an_empty_one_refused():
    image = np.zeros((6, 8, 3), np.uint8)
    assert draw_box(image, np.asarray([2.1, 1.0, 2.3, 5.0])).any()
    with pytest.raises(ValueError, match="is empty"):
        draw_box(image, np.asarray([4.0, 1.0, 4.0, 5.0]))
    with pytest.raises(ValueError, match="is empty"):
        draw_box(image, np.asarray([np.nan, 1.0, 4.0, 5.0]))


def test_to_unit_keeps_scales_and_tells():
    unit, note = to_unit(np.asarray([[0.0, 0.25]], np.float16))
    assert (unit.tolist(), note) == ([[0.0, 0.25]], "")
    unit, note = to_unit(np.asarray([[-2.0, 0.0, 2.0]], np.float32))
    assert (unit.tolist(), note) == ([[0.0, 0.5, 1.0]], "scaled from -2 … 2")
    unit, note = to_unit(np.asarray([[0.5, np.nan, np.inf, 0.5]], np.float32))
    assert np.isnan(unit).tolist() == [[False, True, True, False]] and note == "50 % undefined"
    assert to_unit(np.full((2, 2), np.nan, np.float32))[1] == "undefined"
    assert to_unit(np.full((2, 2), 7.0, np.float32))[0].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_resize_map_averages_down_and_stays_in_range_up(rng):
    heat = rng.random((8, 8)).astype(np.float32)
    blocks = heat.reshape(4, 2, 4, 2).mean((1, 3))
    np.testing.assert_allclose(resize_map(heat, 4, 4), blocks, atol=1e-6)
    ramp = np.broadcast_to(np.linspace(0, 1, 4, dtype=np.float32), (4, 4)).copy()
    large = resize_map(ramp, 8, 16)
    assert large.shape == (8, 16)
    # Between the outer pixel centres bilinear interpolation of a ramp is the ramp itself.
    centres = (np.arange(16) + 0.5) / 4 - 0.5
    np.testing.assert_allclose(large[0, 2:14], centres[2:14] / 3, atol=1e-6)


def test_primary_map():
    assert primary_map(["ssr", "sdr", "joint"]) == "joint"
    assert primary_map(["light", "heatmap"]) == "heatmap"
    assert primary_map(["light", "shadow"]) == "light"
    assert primary_map([]) is None


def test_panel_has_a_picture_for_each_map(rng):
    image = rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)
    box, mask = np.asarray([10.0, 5.0, 50.0, 35.0]), np.zeros((40, 60), bool)
    mask[10:30, 20:40] = True
    cue = np.roll(mask, 12, axis=1)
    maps = {"ssr": rng.random((20, 30)).astype(np.float32), "sdr": np.full((40, 60), np.nan)}
    alone = panel(image, {}, cell=80)
    full = panel(image, maps, box=box, mask=mask, cue=cue, title="a\nb" * 300, cell=80)
    width = 120 + 6  # of a picture and the gap beside it
    assert alone.shape[1] == width + 6
    assert full.shape[1] == 4 * width + 6  # image, two maps, contour
    for color in ANNOTATION.values():
        assert (full[:, :width] == color).all(-1).any()
    assert (full[:, 3 * width :] == CONTOUR).all(-1).any()


def test_many_maps_stand_in_rows_of_equal_length():
    maps = {f"step_{t}": np.full((4, 4), 0.5, np.float32) for t in range(1, 11)}
    few = panel(np.zeros((16, 16, 3), np.uint8), {"a": maps["step_1"]}, cell=40)
    many = panel(np.zeros((16, 16, 3), np.uint8), maps, cell=40)  # 12 pictures
    assert many.shape == (2 * few.shape[0], 6 * 46 + 6, 3)


def test_panel_of_an_undefined_map_is_a_grey_picture():
    full = panel(np.zeros((30, 30, 3), np.uint8), {"heatmap": np.full((30, 30), np.nan)}, cell=60)
    middle = full[-36, 6 + 66 + 30]
    assert middle.tolist() == [64, 64, 64]  # half of black, half of grey


def test_a_remark_stands_after_a_maps_title(monkeypatch):
    labels = []
    draw = fgjax.report.overlay._shorten

    def noted(text, *more):
        labels.append(text)
        return draw(text, *more)

    monkeypatch.setattr(fgjax.report.overlay, "_shorten", noted)
    maps = {f"step_{t}": np.full((4, 4), 0.5, np.float32) for t in (1, 2)}
    panel(np.zeros((16, 16, 3), np.uint8), maps, notes={"step_2": "wrong, p 0.10"}, cell=64)
    assert "Step 1" in labels and "Step 2: wrong, p 0.10" in labels
