"""XRAI: regions ranked as by the slow way of its definition, on attributions that add up."""

import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
from fgjax.attribution.xrai import rank_regions, segments_of


def slowly(attribution, segments, least):
    """Every step looks at every segment anew."""
    covered = np.zeros(attribution.shape, bool)
    out, left = np.zeros(attribution.shape), list(range(len(segments)))
    while True:
        left = [k for k in left if (segments[k] & ~covered).sum() >= least]
        if not left:
            break
        best = max(left, key=lambda k: attribution[segments[k] & ~covered].mean())
        fresh = segments[best] & ~covered
        out[fresh], covered = attribution[fresh].mean(), covered | fresh
        left.remove(best)
    if not covered.all():
        out[~covered] = attribution[~covered].mean()
    return out


@pytest.mark.parametrize("least", [1, 6])
def test_regions_are_ranked_as_by_the_definition(least):
    rng = np.random.default_rng(least)
    attribution = rng.normal(size=(12, 15)).astype(np.float32)
    segments = np.zeros((40, 12, 15), bool)
    for segment in segments:  # rectangles that overlap
        y, x = rng.integers(0, 9), rng.integers(0, 11)
        segment[y : y + rng.integers(1, 6), x : x + rng.integers(1, 7)] = True
    found = rank_regions(attribution, segments, least)
    np.testing.assert_allclose(found, slowly(attribution, segments, least), atol=1e-6)


def test_the_sum_is_kept():
    """Each region has its own mean, so that the map sums to the attribution."""
    rng = np.random.default_rng(7)
    attribution = rng.normal(size=(10, 10)).astype(np.float32)
    segments = rng.random((20, 10, 10)) > 0.6
    assert rank_regions(attribution, segments, 3).sum() == pytest.approx(
        attribution.sum(), abs=1e-4
    )


@pytest.fixture(scope="module")
def image():
    """Four flat quarters of different colours, and a little noise."""
    image = np.zeros((48, 48, 3), np.float32)
    image[:24, :24], image[:24, 24:], image[24:, :24] = (0.9, 0.2, 0.2), (0.2, 0.8, 0.2), 0.5
    return np.clip(image + np.random.default_rng(0).normal(0, 0.01, image.shape), 0, 1).astype(
        np.float32
    )


def test_segments_follow_the_edges_and_leave_nothing_out(image):
    plain = fgjax.XraiConfig(dilation=0)
    found = segments_of(image, plain)
    assert found.any(0).all()
    quarter = np.zeros((48, 48), bool)
    quarter[:24, :24] = True
    overlap = [(s & quarter).sum() / (s | quarter).sum() for s in found]
    assert max(overlap) > 0.8  # the segments are of an enlarged, blurred image
    assert segments_of(image, fgjax.XraiConfig(dilation=14)).sum() > 1.1 * found.sum()


def test_the_quarter_that_decides_is_the_hottest_and_all_adds_up(image):
    def model(images):
        score = images[:, :24, :24, 0].mean((1, 2))
        return jnp.stack([5 * score, 0 * score], axis=1)

    images = jnp.asarray(image)[None]
    config = fgjax.XraiConfig(steps=2, pool="sum", dilation=0)
    found = fgjax.xrai(model, images, jnp.array([0]), config=config)
    heat = np.asarray(found.heatmap[0])
    assert heat[2:22, 2:22].min() > 0.8 and heat[26:].max() < 0.1 and heat[:, 26:].max() < 0.1
    # From black and from white: 5 (mean - 0) and 5 (mean - 1), and half of their sum.
    score = float(model(images)[0, 0])
    wanted = (score + (score - 5)) / 2
    assert float(found.maps["integrated"].sum()) == pytest.approx(wanted, abs=1e-3)
    assert float(found.maps["signed"].sum()) == pytest.approx(wanted, abs=1e-2)


def test_settings_that_cannot_be_meant(untyped):
    for wrong in (dict(steps=0), dict(scales=()), dict(pool="mean"), dict(dilation=-1)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fgjax.XraiConfig(**wrong)
