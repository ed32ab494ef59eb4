"""Smallest regions of a model that can be solved by hand.

The toy sees the share of white pixels in the left half, s, and gives class 1 the log odds
GAIN·(s − 1/2). With a black infill p is a known function of the number of white pixels shown.
"""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.special import expit

from fgjax.attribution.common.types import Attribution
from fgjax.evaluation.smallest_regions import smallest_regions

SIDE, GAIN = 8, 10.0
HALF = SIDE * SIDE // 2
LEFT = np.broadcast_to(np.arange(SIDE) < SIDE // 2, (SIDE, SIDE))


def odds(weights, images):
    s = jnp.einsum("nhwc,hw->n", images, weights) / 3
    score = GAIN * (s - 0.5)
    return jnp.stack([jnp.zeros_like(score), score], axis=1)


MODEL = Partial(odds, jnp.asarray(LEFT / HALF, jnp.float32))


@pytest.fixture
def images():
    return jnp.ones((2, SIDE, SIDE, 3))


def p(count):
    """Of class 1 when so many pixels of the left half are shown."""
    return expit(GAIN * (count / HALF - 0.5))


def find(images, result, targets=(1, 1), **options):
    return smallest_regions(MODEL, images, jnp.asarray(targets), result, infill="zeros", **options)


def ranking(seed=0):
    """Left pixels before right ones, each half in random order."""
    noise = np.random.default_rng(seed).random((2, SIDE, SIDE))
    return jnp.asarray(LEFT + noise, jnp.float32)


def test_as_many_pixels_as_the_closed_form_says(images):
    """Kept and destroyed: the first count that fulfils the inequality, and its p."""
    found = find(images, ranking(), keep=0.9, destroy=0.1)
    counts = np.arange(HALF + 1)
    kept = counts[p(counts) >= 0.9 * p(HALF)].min()
    destroyed = counts[p(HALF - counts) <= 0.1 * p(HALF)].min()
    np.testing.assert_allclose(found.p_full, p(HALF), rtol=1e-5)
    for region, count, value in (
        (found.kept, kept, p(kept)),
        (found.destroyed, destroyed, p(HALF - destroyed)),
    ):
        assert np.asarray(region.reached).all()
        np.testing.assert_array_equal(region.mask.sum((1, 2)), count)
        np.testing.assert_allclose(region.area, count / SIDE**2, rtol=1e-6)
        np.testing.assert_allclose(region.p, value, rtol=1e-4)
        assert not np.asarray(region.mask & ~LEFT[None]).any()


def test_a_reversed_map_needs_the_other_half_first(images):
    """The control: the same numbers come from no map but a good one."""
    good, bad = find(images, ranking()), find(images, -ranking())
    for name in ("kept", "destroyed"):
        own, other = getattr(good, name).area, getattr(bad, name).area
        np.testing.assert_allclose(other, own + 0.5, atol=1 / SIDE**2)


def test_ssr_is_asked_what_keeps_and_sdr_what_destroys(images):
    maps = {"ssr": ranking(1), "sdr": -ranking(2)}
    both = find(images, Attribution(heatmap=jnp.zeros((2, SIDE, SIDE)), maps=maps))
    np.testing.assert_array_equal(both.kept.mask, find(images, maps["ssr"]).kept.mask)
    np.testing.assert_array_equal(both.destroyed.mask, find(images, maps["sdr"]).destroyed.mask)
    heatmap = find(images, Attribution(heatmap=maps["ssr"], maps={"light": maps["sdr"]}))
    np.testing.assert_array_equal(heatmap.kept.mask, both.kept.mask)


def test_not_reached_is_said(images):
    """Class 0 is what black means here: nothing that is blacked out brings it down."""
    found = find(images, ranking(), targets=(0, 1))
    np.testing.assert_array_equal(found.destroyed.reached, [False, True])
    assert np.isnan(found.destroyed.area[0]) and bool(found.destroyed.mask[0].all())
    np.testing.assert_allclose(found.destroyed.p[0], expit(GAIN / 2), rtol=1e-5)
    assert found.kept.area[0] == 0  # and blacked out altogether it stands


def test_a_nan_is_not_reached_and_spoils_no_neighbour(images):
    maps = ranking()
    found = find(images, maps.at[0, 0, 0].set(jnp.nan))
    whole = find(images, maps)
    for name in ("kept", "destroyed"):
        np.testing.assert_array_equal(getattr(found, name).reached, [False, True])
        np.testing.assert_array_equal(getattr(found, name).mask[1], getattr(whole, name).mask[1])


def test_any_infill(images):
    """White where white was: nothing is needed, and nothing destroys."""
    args = (MODEL, images, jnp.asarray([1, 1]), ranking())
    found = smallest_regions(*args, infill="original")
    np.testing.assert_array_equal(found.kept.area, 0)
    assert not np.asarray(found.destroyed.reached).any()
    array = smallest_regions(*args, infill=jnp.zeros((2, SIDE, SIDE, 3)))
    np.testing.assert_array_equal(array.kept.mask, find(images, ranking()).kept.mask)
    with pytest.raises(ValueError, match="random: give key"):
        smallest_regions(*args, infill="uniform")
    drawn = smallest_regions(*args, infill="uniform", key=jax.random.key(0))
    assert (np.asarray(drawn.kept.area) < np.asarray(array.kept.area)).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(keep=0.0), "keep=0.0: a share of the probability"),
        (dict(destroy=1.0), "destroy=1.0"),
        (dict(infill="blurred"), "Did you mean blur"),
    ],
)
def test_what_makes_no_sense(images, options, words):
    with pytest.raises(ValueError, match=words):
        smallest_regions(MODEL, images, jnp.asarray([1, 1]), ranking(), **options)


def test_maps_of_another_shape(images):
    """As a user sees it: without the tests' type checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match="do not fit images"):
            find(images, ranking()[:, :4])
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
