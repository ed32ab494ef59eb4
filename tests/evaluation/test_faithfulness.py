"""Models whose answers are known: one whose *probability* is linear in the pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from scipy.special import softmax

from fgjax.evaluation import deletion, dimmed_drop, insertion, kept_and_deleted, pixel_ranks
from fgjax.evaluation.faithfulness import baseline_images, curve_protocol

SIZE = (3, 8, 10, 3)


@jax.jit
def linear(images):
    """p(class 0) = 0.1 + 0.8 · mean pixel: logits are log-probabilities."""
    p = 0.1 + 0.8 * jnp.mean(images, axis=(1, 2, 3))
    return jnp.log(jnp.stack([p, 1 - p], axis=1))


@pytest.fixture
def images():
    return jnp.asarray(np.random.default_rng(0).random(SIZE), jnp.float32)


@pytest.fixture
def maps():
    return jnp.asarray(np.random.default_rng(1).random(SIZE[:3]), jnp.float32)


FIRST = jnp.zeros(3, jnp.int32)


@pytest.mark.parametrize("steps", [1, 7, 80])
def test_straight_curve(steps, maps):
    # White on black: every pixel counts the same, so p rises straight from 0.1 to 0.9 in any
    # order and at any number of steps, divisor of the 80 pixels or not.
    white = jnp.ones(SIZE)
    up = insertion(linear, white, FIRST, maps, steps=steps, baseline="zero")
    down = deletion(linear, white, FIRST, maps, steps=steps, baseline="zero")
    np.testing.assert_allclose(up, 0.5, atol=1e-5)
    np.testing.assert_allclose(down, 0.5, atol=1e-5)


def test_bent_curve_in_closed_form():
    # A quarter of the image is white. Most important first, p rises for a quarter of the way
    # and stays: 0.1 + 0.2 · (1 − 1/8). Least important first: 0.1 + 0.2 / 8.
    image = jnp.zeros((2, 8, 10, 3)).at[:, :4, :5].set(1)
    right = image[..., 0]
    maps = jnp.stack([right[0], 1 - right[1]])
    up = insertion(linear, image, FIRST[:2], maps, steps=20, baseline="zero")
    np.testing.assert_allclose(up, [0.1 + 0.2 * 7 / 8, 0.1 + 0.2 / 8], atol=1e-5)
    down = deletion(linear, image, FIRST[:2], maps, steps=20, baseline="zero")
    np.testing.assert_allclose(down, [0.1 + 0.2 / 8, 0.1 + 0.2 * 7 / 8], atol=1e-5)


def test_equals_a_numpy_form_with_any_model(images, maps):
    maps = jnp.round(maps * 4) / 4  # many ties
    weights = np.random.default_rng(2).normal(size=(240, 5)).astype(np.float32)
    targets = jnp.array([4, 0, 2])

    def model(x):
        return jnp.tanh(x.reshape(len(x), -1) - 0.5) @ jnp.asarray(weights)

    def area(before, after, steps):
        result = []
        for x, y, heat, target in zip(before, after, np.asarray(maps), np.asarray(targets)):
            # Highest first, ties in the order that is told of.
            order = np.argsort(pixel_ranks(jnp.asarray(heat)[None]).ravel())
            assert (np.diff(heat.ravel()[order]) <= 0).all()
            share, curve = [], []
            for step in range(steps + 1):
                count = step * 80 // steps
                mix = np.array(x).reshape(80, 3)
                mix[order[:count]] = np.array(y).reshape(80, 3)[order[:count]]
                share.append(count / 80)
                curve.append(softmax(np.tanh(mix.ravel() - 0.5) @ weights)[target])
            result.append(np.trapezoid(curve, share))
        return result

    other = jnp.flip(images, axis=2)
    up = insertion(model, images, targets, maps, steps=9, baseline=other)
    down = deletion(model, images, targets, maps, steps=9, baseline=other)
    np.testing.assert_allclose(up, area(other, images, 9), rtol=2e-4)
    np.testing.assert_allclose(down, area(images, other, 9), rtol=2e-4)
    assert up.dtype == down.dtype == jnp.float32


def test_the_model_sees_whole_batches_of_one_shape(images, maps):
    shapes = []

    def model(x):
        shapes.append(x.shape)
        return linear(x)

    insertion(model, images, FIRST, maps, steps=6)
    assert shapes == [SIZE] * 7


@pytest.mark.parametrize("corner", [(0, 0), (5, 5)])
def test_a_constant_map_is_not_judged_by_the_objects_corner(corner):
    """White pixels in one corner of a black image: p falls straight, in whichever it is."""
    y, x = corner
    image = jnp.zeros((1, 8, 10, 3)).at[:, y : y + 3, x : x + 5].set(1)
    flat = jnp.full((1, 8, 10), 0.5)
    keys = jax.random.split(jax.random.key(0), 16)
    down = [
        float(deletion(linear, image, FIRST[:1], flat, steps=20, baseline="zero", key=k)[0])
        for k in keys
    ]
    straight = 0.1 + 0.8 * 15 / 80 / 2
    assert abs(np.mean(down) - straight) < 0.01
    assert np.std(down) > 1e-4


def test_p_full_is_not_asked_for_again(images, maps):
    asked = []

    def model(x):
        asked.append(len(x))
        return linear(x)

    p = 0.1 + 0.8 * jnp.mean(images, axis=(1, 2, 3))
    for function in (insertion, deletion):
        whole = function(model, images, FIRST, maps, steps=5)
        assert len(asked) == 6
        np.testing.assert_allclose(
            function(model, images, FIRST, maps, steps=5, p_full=p), whole, rtol=1e-5
        )
        assert len(asked) == 11
        asked.clear()
    whole = dimmed_drop(model, images, FIRST, maps)
    given = dimmed_drop(model, images, FIRST, maps, p_full=p)
    np.testing.assert_allclose(given, whole, rtol=1e-5, atol=1e-7)
    assert len(asked) == 3


def test_dimmed_by_the_inverse_heat_map(images, maps):
    found = dimmed_drop(linear, images, FIRST, maps.at[2, 0, 0].set(jnp.nan))
    x, s = np.asarray(images, np.float64), np.asarray(maps, np.float64)
    expected = 0.8 * (x.mean((1, 2, 3)) - (x * (1 - s)[..., None]).mean((1, 2, 3)))
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-4)
    assert jnp.isnan(found[2])
    assert jnp.isnan(dimmed_drop(linear, images, FIRST + 2, maps)).all()


def test_undefined_is_nan(images, maps):
    broken = maps.at[1, 2, 3].set(jnp.nan)
    targets = jnp.array([0, 0, 2])  # the model has two classes
    for function in (insertion, deletion):
        value = function(linear, images, targets, broken, steps=4)
        assert jnp.isnan(value).tolist() == [False, True, True]
    none = jnp.array([-1, 0, 1])
    assert jnp.isnan(insertion(linear, images, none, maps, steps=4)).tolist() == [True] + 2 * [
        False
    ]


def test_steps_and_baselines_are_checked(images, maps):
    with pytest.raises(ValueError, match="steps=0"):
        insertion(linear, images, FIRST, maps, steps=0)
    with pytest.raises(ValueError, match="'grey'.*blur, mean, zero"):
        deletion(linear, images, FIRST, maps, baseline="grey")


def test_baselines(images):
    assert not baseline_images(images, "zero").any()
    mean = baseline_images(images, "mean")
    np.testing.assert_allclose(mean[1, 4, 4], np.asarray(images)[1].mean((0, 1)), rtol=1e-5)
    sigma = 10 * min(SIZE[1:3]) / 224
    radius = max(1, round(3.2 * sigma))
    blur = np.asarray(images, np.float64)
    for axis in (1, 2):
        blur = ndimage.gaussian_filter1d(blur, sigma, axis, mode="mirror", radius=radius)
    np.testing.assert_allclose(baseline_images(images, "blur"), blur, rtol=1e-4)


def test_kept_and_deleted_in_closed_form():
    # White image, black infill, a map on 20 of 80 pixels: means 1, 1/4 and 3/4.
    region = jnp.zeros((3, 8, 10), bool).at[:, 2:6, 3:8].set(True)
    white, black = jnp.ones(SIZE), jnp.zeros(SIZE)
    for maps in (region, region.astype(jnp.float32)):
        result = kept_and_deleted(linear, white, FIRST, maps, black)
        np.testing.assert_allclose(result.p_full, 0.9, atol=1e-5)
        np.testing.assert_allclose(result.p_kept, 0.3, atol=1e-5)
        np.testing.assert_allclose(result.p_deleted, 0.7, atol=1e-5)
        assert {value.dtype for value in result} == {jnp.dtype("float32")}


def test_kept_and_deleted_blends_a_soft_map(images, maps):
    infill = jnp.flip(images, axis=1)
    result = kept_and_deleted(linear, images, FIRST, maps, infill)
    x, y, m = (np.asarray(a, np.float64) for a in (images, infill, maps[..., None]))
    kept = 0.1 + 0.8 * (m * x + (1 - m) * y).mean((1, 2, 3))
    deleted = 0.1 + 0.8 * ((1 - m) * x + m * y).mean((1, 2, 3))
    np.testing.assert_allclose(result.p_kept, kept, rtol=1e-5)
    np.testing.assert_allclose(result.p_deleted, deleted, rtol=1e-5)


def test_kept_and_deleted_of_nothing_and_of_nan(images):
    infill = jnp.zeros(SIZE)
    maps = jnp.zeros(SIZE[:3]).at[0].set(jnp.nan)
    result = kept_and_deleted(linear, images, FIRST, maps, infill)
    assert jnp.isnan(result.p_kept)[0] and jnp.isnan(result.p_deleted)[0]
    np.testing.assert_allclose(result.p_kept[1:], 0.1, atol=1e-5)
    np.testing.assert_allclose(result.p_deleted[1:], result.p_full[1:], atol=1e-6)


def test_protocol_names_steps_and_baseline():
    assert "50 equal steps" in curve_protocol(50, "blur")
    assert "mean colour" in curve_protocol(50, "mean")
