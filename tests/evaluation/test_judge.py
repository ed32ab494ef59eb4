"""Every number of given maps, from arrays and from files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
from fgjax.attribution.common.infill import make_infill
from fgjax.attribution.common.types import Attribution
from fgjax.evaluation import deletion, evaluate_maps, gini, insertion
from fgjax.evaluation.hard_masks import judge_cut
from fgjax.evaluation.judge import BLUR_SIGMA
from fgjax.evaluation.needed_part import where_needed

SIDE, COUNT = 32, 9  # a batch of 8, and one; the programs are those of the runs that are tested
TARGETS = [0, 1, 2, 0, 1, 2, 0, 1, 2]


@jax.tree_util.Partial
def model(images):
    """The share of each colour in the upper half."""
    return 20 * images[:, : SIDE // 2].mean((1, 2))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((COUNT, SIDE, SIDE, 3), np.float32)


@pytest.fixture(scope="module")
def signed():
    return np.random.default_rng(1).normal(0, 2, (COUNT, SIDE, SIDE)).astype(np.float32)


@pytest.fixture(scope="module")
def masks():
    masks = np.zeros((COUNT, SIDE, SIDE), bool)
    masks[:, 2:9, 3:12] = True
    return masks


@pytest.fixture(scope="module")
def values(images, signed, masks):
    return fgjax.evaluate(
        model, images, TARGETS, signed, scale="absolute", masks=masks, steps=4, regions=False
    )


def test_each_is_the_number_of_its_own_function(values, images, signed, masks):
    heat = jnp.asarray(np.abs(signed) / np.abs(signed).max((1, 2), keepdims=True))
    x, y = jnp.asarray(images), jnp.asarray(TARGETS, jnp.int32)
    wanted = {
        "insertion": insertion(model, x, y, heat, steps=4),
        "deletion": deletion(model, x, y, heat, steps=4),
        "gini": gini(heat),
    }
    places = evaluate_maps(heat, masks=jnp.asarray(masks))
    wanted |= {k: places[k] for k in ("iou_mask", "pointing_object", "energy_in_object")}
    keys = jax.random.split(jax.random.key(0), COUNT)
    blurred = make_infill("blur", x, keys, blur_sigma=BLUR_SIGMA)
    wanted |= judge_cut(model, x, y, heat, heat, blurred)
    for name, value in wanted.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    assert all(value.shape == (COUNT,) for value in values.values())


@pytest.mark.slow
def test_files_and_results_of_a_method_are_the_same(values, images, signed, masks, tmp_path):
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "targets.npy", np.array(TARGETS))
    np.save(tmp_path / "maps.npy", signed)
    paths = [tmp_path / f"{name}.npy" for name in ("images", "targets", "maps")]
    about = dict(scale="absolute", masks=masks, steps=4, regions=False)
    for maps in (paths[2], Attribution(jnp.asarray(signed), {})):
        again = fgjax.evaluate(model, str(paths[0]), paths[1], maps, **about)
        assert again.keys() == values.keys()
        for name, value in values.items():
            np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_ssr_and_sdr_are_asked_what_is_theirs(images, masks):
    """The upper half suffices and destroys, the lower does neither."""
    upper = np.zeros((COUNT, SIDE, SIDE), np.float32)
    upper[:, : SIDE // 2] = 1
    result = Attribution(jnp.asarray(upper * 0), {"ssr": jnp.asarray(upper),
                                                 "sdr": jnp.asarray(1 - upper)})  # fmt: skip
    found = fgjax.evaluate(model, images, TARGETS, result, steps=0, regions=False, infill="zeros")
    np.testing.assert_allclose(found["p_kept"], found["p_full"], rtol=1e-5)
    np.testing.assert_allclose(found["p_deleted"], found["p_full"], rtol=1e-5)
    assert "iou_mask_ssr" in found and "insertion" not in found


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(maps=np.zeros((COUNT, 7, 7), np.float32)), "of the image's height and width"),
        (dict(maps=np.zeros((COUNT, 3, SIDE, SIDE), np.float32)), "sum or average the channels"),
        (dict(maps=np.full((COUNT, SIDE, SIDE), 2.0)), "importance is in"),
        (dict(maps="nowhere.npy"), "maps=nowhere.npy: not readable"),
        (dict(targets=np.zeros(COUNT)), "whole numbers; they are float64"),
        (dict(targets=[3] * COUNT), "outside the model's 3 classes"),
        (dict(images=np.full((COUNT, SIDE, SIDE, 3), 9.0)), "RGB in"),
        (dict(names=["a"]), "1 names for 9 images"),
        (dict(masks=np.zeros((1, 2, 2), bool)), "masks of shape"),
        (dict(landmarks=np.zeros((COUNT, 2, 2))), "x, y, visible"),
    ],
)
def test_what_does_not_fit_is_told(change, message, images, untyped):
    given = dict(images=images, targets=TARGETS, maps=np.zeros((COUNT, SIDE, SIDE))) | change
    with pytest.raises(ValueError, match=message):
        fgjax.evaluate(model, given.pop("images"), given.pop("targets"), given.pop("maps"), **given)


def test_the_overlap_where_the_model_needs_the_part(images):
    """The model reads the upper half: a cue there is needed, one in the lower half is not."""
    cues = np.zeros((COUNT, SIDE, SIDE), bool)
    cues[:4, : SIDE // 2], cues[4:8, SIDE // 2 :] = True, True  # of the ninth nothing is known
    maps = np.zeros((COUNT, SIDE, SIDE), np.float32)
    maps[:, : SIDE // 4] = 1
    bright = images * 0.1
    for i, target in enumerate(TARGETS):
        bright[i, ..., target] += 0.8
    found = fgjax.evaluate(
        model, bright, TARGETS, maps, cues=cues, steps=0, regions=False, infill="zeros"
    )
    np.testing.assert_allclose(found["p_without_cue"][:4], 1 / 3, rtol=1e-5)
    np.testing.assert_allclose(found["p_without_cue"][4:8], found["p_full"][4:8], rtol=1e-5)
    np.testing.assert_allclose(found["iou_cue_needed"][:4], 0.5)
    assert np.isnan(found["iou_cue_needed"][4:]).all() and np.isnan(found["p_without_cue"][8])
    np.testing.assert_allclose(found["iou_cue"][:8], [0.5] * 4 + [0.0] * 4)
    unsure = where_needed(jnp.ones(2), jnp.array([0.4, 0.6]), jnp.zeros(2))
    np.testing.assert_array_equal(unsure, [np.nan, 1])  # a share of little p says nothing
