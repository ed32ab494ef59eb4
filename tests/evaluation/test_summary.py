import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fgjax import evaluation as ev

NAMES = """area iou_mask iou_box in_object in_box in_cue iou_cue cue_covered energy_in_cue
energy_in_object energy_in_box pointing_object pointing_box pointing_cue false_detection
total_variation p_full p_kept p_deleted iou_at_0.1 iou_at_0.2 iou_at_0.3 iou_at_0.4 iou_at_0.5
iou_at_0.6 iou_at_0.7 iou_at_0.8 iou_at_0.9 iou_best pointing_object_small pointing_box_small
gini blank""".split()
OF_MAP = {"area", "total_variation", "gini", "blank"}
OF_MODEL = {"p_full", "p_kept", "p_deleted"}


def drawn(y0, y1, x0, x1):
    return jnp.zeros((1, 20, 20), bool).at[0, y0:y1, x0:x1].set(True)


def evaluate(heat, boxes=None, masks=None, cues=None, **settings):
    """Missing annotations and defaults as arguments, so that the tests share a compilation."""
    settings = {"threshold": 0.5, "pointing": "blob_centroid"} | settings
    nowhere = jnp.zeros(heat.shape, bool)
    boxes = np.full((len(heat), 4), np.nan) if boxes is None else boxes
    return ev.evaluate_maps(
        jnp.asarray(heat, jnp.float32),
        boxes=jnp.asarray(boxes, jnp.float32),
        masks=nowhere if masks is None else masks,
        cues=nowhere if cues is None else cues,
        **settings,
    )


def test_the_names_are_fixed():
    values = ev.evaluate_maps(jnp.zeros((2, 20, 20)))
    assert set(values) == set(NAMES) - OF_MODEL
    assert set(ev.protocols()) == set(NAMES)
    assert OF_MODEL == set(ev.KeptAndDeleted._fields)
    assert all(value.shape == (2,) and value.dtype == jnp.float32 for value in values.values())


def test_a_case_done_by_hand():
    # A 4×10 map of .8 on the left half of a 4×20 object; the cue is a 4×5 piece of the map.
    heat = jnp.where(drawn(8, 12, 0, 10), 0.8, 0.0) + jnp.where(drawn(0, 4, 0, 10), 0.2, 0.0)
    values = evaluate(
        heat,
        boxes=jnp.array([[0.0, 8.0, 20.0, 12.0]]),
        masks=drawn(8, 12, 0, 20),
        cues=drawn(8, 12, 5, 10),
    )
    expected = {
        "area": 40 / 400,
        "blank": 0,
        "iou_mask": 0.5,
        "iou_box": 0.5,
        "in_object": 1,
        "in_box": 1,
        "in_cue": 0.5,
        "iou_cue": 0.5,
        "cue_covered": 1,
        "energy_in_object": 0.8,
        "energy_in_box": 0.8,
        "energy_in_cue": 0.4,
        "pointing_object": 1,
        "pointing_box": 1,
        "pointing_cue": 1,  # the centroid (10, 5) falls into pixel 5
        "false_detection": 0,
        # .8: 24 px of outline (4 + 10 + 10); .2: 14 px (4 + 10, two sides on the border)
        "total_variation": 0.64 * 24 + 0.04 * 14,
        # The map spans 0 to .8: its .2 is .25 there. The object is a fifth of the image.
        **dict.fromkeys(("iou_at_0.1", "iou_at_0.2"), 40 / 120),
        **{f"iou_at_0.{level}": 0.5 for level in range(3, 10)},
        "iou_best": 0.5,
        "pointing_object_small": 1,
        "pointing_box_small": 1,
        # 320 of 0, 40 of .2, 40 of .8: twice the area under the Lorenz curve, from 1.
        "gini": 1 - (0.2 * 0.1 + (0.2 + 1) * 0.1),
    }
    assert {name: float(value[0]) for name, value in values.items()} == pytest.approx(expected)


def test_threshold_and_protocol_are_settings_and_are_told():
    heat = jnp.where(drawn(8, 12, 0, 10), 0.8, 0.0) + jnp.where(drawn(0, 4, 0, 10), 0.2, 0.0)
    assert evaluate(heat, threshold=0.1)["area"][0] == pytest.approx(80 / 400)
    far = drawn(8, 12, 10, 20)
    near = [
        evaluate(heat, masks=far, pointing=name)["pointing_object"].item()
        for name in ("blob_centroid", "argmax_15px")
    ]
    assert near == [0, 1]
    told = ev.protocols(threshold=0.1, pointing="argmax_15px")
    assert "map > 0.1" in told["iou_cue"] and "15 px" in told["pointing_cue"]


def test_what_is_not_annotated_is_nan_and_not_zero():
    heat = jnp.ones((2, 20, 20))
    masks = jnp.concatenate([drawn(2, 5, 2, 5), drawn(0, 0, 0, 0)])
    boxes = jnp.array([[2.0, 2.0, 5.0, 5.0], [jnp.nan] * 4])
    values = evaluate(heat, boxes=boxes, masks=masks, cues=masks)
    for name, value in values.items():
        if name not in OF_MAP:
            assert jnp.isnan(value).tolist() == [False, True], name
    without = ev.evaluate_maps(heat)
    for name in set(values) - OF_MAP:
        assert jnp.isnan(without[name]).all(), name


def test_small_objects_alone():
    # The box decides where there is one; else the mask's own: 10×10 is a quarter, 9×10 is less.
    heat = jnp.broadcast_to(jnp.where(drawn(5, 7, 5, 7), 1.0, 0.0), (4, 20, 20))
    places = ((0, 9, 0, 10), (0, 10, 0, 10), (0, 9, 0, 10), (10, 15, 0, 9))
    masks = jnp.concatenate([drawn(*place) for place in places])
    boxes = np.full((4, 4), np.nan)
    boxes[2], boxes[3] = (0, 0, 11, 11), (0, 0, 9, 11)
    values = evaluate(heat, boxes=boxes, masks=masks)
    np.testing.assert_array_equal(values["pointing_object"], [1, 1, 1, 0])
    np.testing.assert_array_equal(values["pointing_object_small"], [1, np.nan, np.nan, 0])
    np.testing.assert_array_equal(values["pointing_box_small"], [np.nan, np.nan, np.nan, 1])


def test_levels_take_the_box_where_there_is_no_mask():
    heat = jnp.broadcast_to(jnp.where(drawn(0, 10, 0, 10), 0.3, 0.1), (2, 20, 20))
    masks = jnp.concatenate([drawn(0, 10, 0, 5), drawn(0, 0, 0, 0)])
    values = evaluate(heat, boxes=[[0, 0, 10, 20]] * 2, masks=masks)
    np.testing.assert_allclose(values["iou_at_0.5"], [0.5, 0.5])
    np.testing.assert_allclose(values["iou_mask"], [0, np.nan])  # nothing is above .5 unscaled


@jax.jit
def model(images):
    p = 0.1 + 0.8 * jnp.mean(images, axis=(1, 2, 3))
    return jnp.log(jnp.stack([p, 1 - p], axis=1))


def test_faithfulness_is_the_three_metrics_by_name(key):
    rng = np.random.default_rng(4)
    images = jnp.asarray(rng.random((2, 12, 12, 3)), jnp.float32)
    heat, targets = images[..., 1], jnp.array([0, 1])
    settings = {"steps": 6, "shares": (0.2, 0.5)}
    values = ev.evaluate_faithfulness(model, images, targets, heat, key=key, **settings)
    road = ev.road(model, images, targets, heat, key=key, shares=(0.2, 0.5))
    expected = {
        "insertion": ev.insertion(model, images, targets, heat, steps=6),
        "deletion": ev.deletion(model, images, targets, heat, steps=6),  # no ties
        "road_most_first": road.most_first,
        "road_least_first": road.least_first,
        "road_gap": road.gap,
    }
    assert set(values) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-5)
    told = ev.model_protocols(**settings)
    assert set(values) < set(told)
    assert "6 equal steps" in told["deletion"] and "20, 50 %" in told["road_gap"]


def test_every_number_says_how_and_which_way_is_better():
    sentences = ev.protocols() | ev.model_protocols(layers=["head"])
    assert set(sentences) == set(ev.BETTER)
    assert len(set(sentences.values())) == len(sentences) and all(sentences.values())
    assert {n for n, b in ev.BETTER.items() if b is None} == OF_MAP | {"p_full"}
    for name in ("deletion", "max_sensitivity", "road_most_first", "randomisation_ssim"):
        assert ev.BETTER[name] is False
    for name in ("iou_at_0.5", "road_gap", "part_deletion", "pointing_box_small"):
        assert ev.BETTER[name] is True
    assert "0.25 of the image" in sentences["pointing_box_small"]
    assert "(head)" in sentences["randomisation_ssim"]


def test_empty_and_broken_maps():
    # No pixel above 0.5; and a NaN.
    heat = jnp.full((2, 20, 20), 0.25).at[0, 3, 3].set(0.3).at[1, 0, 0].set(jnp.nan)
    truth = jnp.concatenate([drawn(2, 5, 2, 5)] * 2)
    boxes = jnp.array([[2.0, 2.0, 5.0, 5.0]] * 2)
    values = evaluate(heat, boxes=boxes, masks=truth, cues=truth)
    for name, (empty, broken) in values.items():
        if name.startswith("pointing"):
            assert (empty, broken) == (1, 0), name
            continue
        if name.startswith("iou_at") or name == "iou_best":
            assert empty == pytest.approx(1 / 9), name  # scaled, that one pixel is all there is
        assert jnp.isnan(broken), name
        if name in ("area", "blank", "iou_mask", "iou_box", "iou_cue", "cue_covered"):
            assert empty == 0, name
        elif name.startswith("in_") or name == "false_detection":
            assert empty == float(name == "false_detection"), name


def test_abstaining_wins_nothing():
    """Zeros, and a map whose spread is rounding, against a map of the object alone."""
    truth = drawn(5, 15, 5, 15)
    shown = truth.astype(jnp.float32)
    zeros, rounding = jnp.zeros(shown.shape), 0.3 + 1e-7 * shown
    for heat in (zeros, rounding):
        values = evaluate(heat, masks=truth, boxes=[[5, 5, 15, 15]], cues=truth)
        assert values["blank"] == 1
        undefined = {name for name, value in values.items() if jnp.isnan(value[0])}
        assert undefined <= {"gini", "pointing_object_small", "pointing_box_small"}
        assert values["energy_in_cue"][0] == pytest.approx(0.25, rel=1e-4)
        for name in ("in_cue", "in_object", "iou_mask", "iou_best", "pointing_cue"):
            assert values[name] == 0, name
    assert evaluate(shown, masks=truth)["in_object"] == 1


def test_baselines_can_be_evaluated_as_they_are():
    truth = drawn(5, 15, 5, 15)
    found = evaluate(ev.whole_object(truth), masks=truth)
    middle = evaluate(ev.center_box(1, 20, 20, area=0.25), masks=truth)
    everything = evaluate(ev.constant(1, 20, 20), masks=truth)
    assert found["iou_mask"] == middle["iou_mask"] == found["pointing_object"] == 1
    assert everything["in_object"] == pytest.approx(0.25)
    assert everything["pointing_object"] == 0


def test_interval_equals_scipy():
    values = np.random.default_rng(0).gamma(2.0, size=60)
    ours = ev.summarise(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile").confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.1 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.1 * width)
    assert ev.summarise(values) == ours  # seeded
    assert ev.summarise(values, seed=1) != ours
    narrow = ev.summarise(values, confidence=0.5)
    assert ours.low < narrow.low < narrow.high < ours.high


def test_interval_leaves_out_nan():
    values = np.array([0.2, np.nan, 0.6, 0.4, np.nan])
    ours = ev.summarise(jnp.asarray(values, jnp.float32))
    assert ours[3:] == (3, 5) and ours.mean == pytest.approx(0.4)
    assert ours[:3] == pytest.approx(ev.summarise(values[[0, 2, 3]])[:3], abs=1e-6)


def test_interval_of_too_few():
    nothing = ev.summarise(np.full(4, np.nan))
    assert np.isnan(nothing[:3]).all() and nothing[3:] == (0, 4)
    one = ev.summarise(np.array([0.5, np.nan]))
    assert one.mean == 0.5 and np.isnan([one.low, one.high]).all() and one[3:] == (1, 2)


def test_difference_is_paired():
    # b varies far more than a − b does: only a paired interval sees that a is better.
    rng = np.random.default_rng(0)
    b = rng.normal(0, 10, 50)
    a = b + rng.normal(0.5, 0.1, 50)
    a[3], b[7] = np.nan, np.nan
    difference = ev.difference_interval(a, b)
    assert difference[3:] == (48, 50)
    assert 0.4 < difference.low < 0.5 < difference.high < 0.6
    assert ev.difference_interval(b, a).high == pytest.approx(-difference.low, abs=0.02)
