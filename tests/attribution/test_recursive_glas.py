"""Recursive GLAS against Algorithm 1 written in NumPy around GLAS, and on an image with two
objects of the class, of which one is seen first."""

from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.special import softmax

from fgjax.attribution.common.perturbation import _scores
from fgjax.attribution.glas import GLAS_PRESETS, GlasConfig, search_points, sigmas_in_pixels
from fgjax.attribution.recursive_glas import (
    RecursiveGlasConfig,
    after_rounds,
    recursive_glas,
    recursive_glas_preset,
)
from toys import linear

SIDE = 16
STRONG, WEAK = (slice(2, 6), slice(2, 6)), (slice(10, 14), slice(10, 14))
CONFIG = RecursiveGlasConfig(
    grid=4,
    sigma_light=0.7,
    sigma_shadow=0.7,
    sigma_spatial=0.7,
    sigma_unit="cell",
    rounds=3,
    stop=1e9,
    chunk_size=16,
)


@pytest.fixture
def weights():
    """Class 0 is the brightness of two patches, the first of which counts twice."""
    weights = np.zeros((SIDE, SIDE, 2), np.float32)
    weights[(*STRONG, 0)], weights[(*WEAK, 0)] = 0.3, 0.15
    return weights


@pytest.fixture
def images():
    """White, and noise."""
    noise = np.random.default_rng(0).random((1, SIDE, SIDE, 3), np.float32)
    return np.concatenate([np.ones((1, SIDE, SIDE, 3), np.float32), noise])


def numpy_recursive(weights, image, config):
    """Algorithm 1 with every mask and map of the image's size."""
    image, weights = np.float64(image), np.float64(weights)
    points = search_points((SIDE, SIDE), config.grid)
    sigmas = sigmas_in_pixels(config, (SIDE, SIDE))
    centre = np.arange(SIDE) + 0.5
    squared = [(centre[:, None] - y) ** 2 + (centre[None] - x) ** 2 for y, x in points]
    p = lambda x: softmax(np.einsum("hwc,hwk->k", x, weights) / 3)[0]
    alive = list(range(len(points)))
    output, trace = 0, []
    for _ in range(config.rounds):
        whole, total = p(image), 0
        for i in alive:
            light = p(image * np.exp(-squared[i] / (2 * sigmas.light[0] ** 2))[..., None])
            dark = p(image * (1 - np.exp(-squared[i] / (2 * sigmas.shadow[0] ** 2)))[..., None])
            total = total + np.exp(-squared[i] / sigmas.spatial[0] ** 2) * light * (
                abs(whole - dark) + 1e-5
            )
        found = total / len(alive)
        found = (found - found.min()) / (found.max() - found.min())
        output = output + found
        places = [tuple(points[i].astype(int)) for i in alive]
        alive = [i for i, at in zip(alive, places, strict=True) if not found[at] > config.threshold]
        image = image * (1 - found[..., None])
        trace.append((whole, found.mean() / p(image)))
        if trace[-1][1] >= config.stop or not alive:
            break
    return (output - output.min()) / (output.max() - output.min()), np.array(trace)


@pytest.mark.parametrize("threshold", [0.8, 0.3])
def test_algorithm_1_in_numpy(weights, images, threshold):
    config = replace(CONFIG, threshold=threshold)
    result = recursive_glas(
        Partial(linear, jnp.asarray(weights)), images, np.zeros(2, int), config=config
    )
    assert set(result.maps) == {"round_1", "round_2", "round_3"}
    for i in range(2):
        heatmap, trace = numpy_recursive(weights, images[i], config)
        np.testing.assert_allclose(result.heatmap[i], heatmap, atol=2e-3)
        np.testing.assert_allclose(result.traces["probability"][i], trace[:, 0], rtol=1e-4)
        np.testing.assert_allclose(result.traces["stop"][i], trace[:, 1], rtol=1e-3)


def test_the_second_object_comes_to_light_in_a_later_round(weights, images):
    result = recursive_glas(
        Partial(linear, jnp.asarray(weights)), images[:1], np.zeros(1, int), config=CONFIG
    )
    share = lambda map_: float(map_[0][WEAK].mean() / map_[0][STRONG].mean())
    assert share(result.maps["round_1"]) < 0.7
    assert share(result.maps["round_2"]) > 2 * share(result.maps["round_1"])
    assert share(result.heatmap) > share(result.maps["round_1"])
    assert (np.diff(result.traces["probability"][0]) < 0).all()  # what was found is dimmed


def test_the_first_round_is_glas(weights, images):
    from fgjax.attribution.glas import glas

    run = dict(model=Partial(linear, jnp.asarray(weights)), images=images, targets=np.zeros(2, int))
    plain = {f: getattr(CONFIG, f) for f in GlasConfig.__dataclass_fields__}
    once = recursive_glas(**run, config=replace(CONFIG, rounds=1))
    expected = glas(**run, config=GlasConfig(**plain))
    np.testing.assert_allclose(once.maps["round_1"], expected.heatmap, atol=1e-5)
    np.testing.assert_allclose(once.heatmap, expected.heatmap, atol=1e-5)


def test_it_stops_each_image_by_itself(weights, images):
    """At a limit between the two images' ratios one goes on, and the other does not."""
    run = partial(recursive_glas, Partial(linear, jnp.asarray(weights)), images, np.zeros(2, int))
    ratios = np.asarray(run(config=CONFIG).traces["stop"])[:, 0]
    result = run(config=replace(CONFIG, stop=float(ratios.mean())))
    stopped, going = np.argmax(ratios), np.argmin(ratios)
    assert (result.maps["round_2"][stopped] == 0).all()
    assert result.maps["round_2"][going].max() == pytest.approx(1)
    assert np.isnan(result.traces["probability"][stopped, 1:]).all()
    assert np.isfinite(result.traces["probability"][going, 1])
    np.testing.assert_allclose(result.heatmap[stopped], result.maps["round_1"][stopped], atol=1e-6)


def test_it_stops_when_no_search_point_is_left(weights, images):
    """One point, which the first round uses up."""
    config = replace(CONFIG, grid=1)
    result = recursive_glas(
        Partial(linear, jnp.asarray(weights)), images, np.zeros(2, int), config=config
    )
    assert (result.maps["round_2"] == 0).all()


def test_a_nan_spoils_its_own_image_only(weights, images):
    def model(x):
        return jnp.where(x[:, 0, 0, :1] > 0.99, jnp.nan, linear(weights, x))

    images[1, 0, 0] = 0.5
    result = recursive_glas(model, images, np.zeros(2, int), config=CONFIG)
    assert np.isnan(result.heatmap[0]).all() and np.isfinite(result.heatmap[1]).all()


@pytest.mark.parametrize("chunk_size", [3, 64, None])
def test_chunk_and_neighbours_change_nothing(weights, images, chunk_size):
    run = partial(recursive_glas, Partial(linear, jnp.asarray(weights)))
    expected = run(images, np.zeros(2, int), config=CONFIG)
    config = replace(CONFIG, chunk_size=chunk_size)
    alone = run(images[1:], np.zeros(1, int), config=config)
    np.testing.assert_allclose(alone.heatmap[0], expected.heatmap[1], atol=1e-3)


def brightness(outputs, targets):
    return outputs["score"] * targets


def test_a_score_function(weights, images):
    model = Partial(lambda w, x: {"score": jnp.exp(linear(w, x)[:, 0] / 5)}, jnp.asarray(weights))
    config = replace(CONFIG, score=brightness)
    result = recursive_glas(model, images, np.float32([1, 1]), config=config)
    found = result.maps["round_1"][0]
    assert found[STRONG].mean() > 2 * found.mean()


def test_rounds_and_images_share_their_programs(weights, images):
    run = partial(recursive_glas, targets=np.zeros(2, int), images=images)
    run(Partial(linear, jnp.asarray(weights)), config=replace(CONFIG, rounds=1))
    so_far = _scores._cache_size()
    run(Partial(linear, jnp.asarray(weights / 2)), config=CONFIG)
    assert _scores._cache_size() == so_far


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(rounds=0), "rounds=0: must be at least 1"),
        (dict(threshold=0.0), "threshold=0.0: must lie in"),
        (dict(threshold=1.5), "threshold=1.5"),
        (dict(stop=0.0), "stop=0.0: must be above 0"),
        (dict(grid=0), "grid=0"),
    ],
)
def test_settings_that_make_no_sense(change, words, untyped):
    with pytest.raises(ValueError, match=words):
        RecursiveGlasConfig(**change)


def test_presets():
    assert recursive_glas_preset("default") == RecursiveGlasConfig()
    for name in GLAS_PRESETS:
        made = recursive_glas_preset(name, rounds=2)
        assert (made.threshold, made.stop, made.rounds) == (0.8, 5.0, 2)


def test_a_row_for_what_was_found_after_each_round():
    """Table 3's iterations: the sum of the rounds so far, scaled; after the last it is O."""
    rng = np.random.default_rng(6)
    rounds = rng.random((3, 5, 6)).astype(np.float32)
    maps = {f"round_{i + 1}": m for i, m in enumerate(rounds)} | {"heatmap": rounds.sum(0)}
    found = after_rounds(maps)
    assert list(found) == ["round_1", "round_2"]
    two = rounds[:2].sum(0)
    np.testing.assert_allclose(found["round_2"], (two - two.min()) / np.ptp(two), rtol=1e-5)
    several = after_rounds({k: np.stack([m, 2 * m]) for k, m in maps.items()})
    np.testing.assert_allclose(several["round_1"][1], found["round_1"], atol=1e-6)
    nothing = after_rounds({"round_1": np.zeros((2, 2)), "round_2": np.zeros((2, 2))})
    assert not nothing["round_1"].any()
