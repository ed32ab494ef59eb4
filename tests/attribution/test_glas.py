"""GLAS against NumPy forms of Eqs. 1-3 with whole masks, on images and on volumes, and on a
model whose answer is known."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.special import softmax

from fgjax.attribution.common.perturbation import (
    CLASS_SCORES,
    _scores,
    positive_part,
    scale_to_unit,
)
from fgjax.attribution.glas import (
    GLAS_PRESETS,
    GlasConfig,
    glas,
    glas_preset,
    mixture,
    search_points,
    sigmas_in_pixels,
)
from fgjax.attribution.glas_volume import glas_volume

HEIGHT, WIDTH = 12, 18
CONFIG = GlasConfig(
    grid=3, sigma_light=0.8, sigma_shadow=0.6, sigma_spatial=0.7, sigma_unit="cell", chunk_size=8
)


def linear(weights, images):
    axes = images.ndim - 1
    return jnp.tensordot(
        images.mean(-1), weights, axes=[list(range(1, axes)), list(range(axes - 1))]
    )


@pytest.fixture
def weights():
    return np.random.default_rng(1).normal(size=(HEIGHT, WIDTH, 3)).astype(np.float32)


@pytest.fixture
def images():
    return np.random.default_rng(0).random((3, HEIGHT, WIDTH, 3), np.float32)


TARGETS = np.array([0, 2, 1])


def numpy_probability(weights, image, target):
    axes = list(range(image.ndim - 1))
    logits = np.tensordot(image.mean(-1), np.float64(weights), axes=[axes, axes])
    return softmax(logits)[target]


def numpy_glas(weights, image, target, points, light, shadow, spatial):
    """Eqs. 1-3 as they stand: a mask of the image's size for every search point."""
    image = np.float64(image)
    grids = np.meshgrid(*(np.arange(s) + 0.5 for s in image.shape[:-1]), indexing="ij")
    bell = lambda point, sigma: np.exp(
        -sum((g - p) ** 2 / (2 * s**2) for g, p, s in zip(grids, point, sigma, strict=True))
    )
    p = lambda mask: numpy_probability(weights, image * mask[..., None], target)
    whole = p(np.ones(image.shape[:-1]))
    f_l = np.array([p(bell(point, light)) for point in points])
    f_s = np.array([abs(whole - p(1 - bell(point, shadow))) + 1e-5 for point in points])

    def maps(values):
        total = 0
        for point, value in zip(points, values, strict=True):
            squared = sum(
                (g - c) ** 2 / s**2 for g, c, s in zip(grids, point, spatial, strict=True)
            )
            total = total + np.exp(-squared) * value
        return total / len(points)

    unit = lambda m: (m - m.min()) / (m.max() - m.min())
    return (
        f_l,
        f_s,
        {k: unit(maps(v)) for k, v in dict(fusion=f_l * f_s, light=f_l, shadow=f_s).items()},
    )


# Where the light falls.


def test_search_points_are_the_centres_of_equal_cells():
    np.testing.assert_allclose(search_points((6, 9), 1), [[3, 4.5]])
    expected = [[1.5, 2.25], [1.5, 6.75], [4.5, 2.25], [4.5, 6.75]]
    np.testing.assert_allclose(search_points((6, 9), 2), expected)
    assert search_points((4, 4, 4), 2).shape == (8, 3)


def test_widths_in_cells_follow_the_cells_and_in_pixels_the_shorter_side():
    config = GlasConfig(grid=4, sigma_light=2.0, sigma_shadow=1.0, sigma_spatial=0.5)
    cells = sigmas_in_pixels(replace(config, sigma_unit="cell"), (8, 16))
    np.testing.assert_allclose([cells.light, cells.shadow, cells.spatial], [[4, 8], [2, 4], [1, 2]])
    pixels = sigmas_in_pixels(replace(config, sigma_unit="pixel"), (112, 448))
    np.testing.assert_allclose(pixels.light, [1, 1])
    assert pixels.spatial.dtype == np.float32


# The equations.


@pytest.mark.parametrize("unit", ["cell", "pixel"])
def test_the_method_in_numpy(weights, images, unit):
    config = CONFIG
    if unit == "pixel":
        config = replace(
            CONFIG, sigma_unit="pixel", sigma_light=50.0, sigma_shadow=40.0, sigma_spatial=60.0
        )
    weights = weights / 4  # else a class has p = 8e-16, and its shadows no more than λ's rounding
    points = search_points((HEIGHT, WIDTH), 3)
    sigmas = sigmas_in_pixels(config, (HEIGHT, WIDTH))
    result = glas(Partial(linear, jnp.asarray(weights)), images, TARGETS, config=config)
    assert set(result.maps) == {"light", "shadow"} and set(result.traces) == {"spread"}
    for i, target in enumerate(TARGETS):
        _, _, maps = numpy_glas(weights, images[i], target, points, *sigmas)
        for name, map_ in {"fusion": result.heatmap, **result.maps}.items():
            np.testing.assert_allclose(map_[i], maps[name], atol=2e-4, err_msg=f"{unit} {name}")


def test_light_and_shadow_find_the_region_that_the_class_is_read_from():
    """Class k is the brightness of region k; each factor alone finds it, and so do both.

    The other region is dark: Eq. 2 takes |·|, so that a shadow on the evidence for another
    class, which helps this one, counts as much as one on its own.
    """
    weights = np.zeros((24, 24, 2), np.float32)
    weights[2:8, 14:20, 0], weights[15:21, 3:9, 1] = 0.3, 0.3
    image = np.ones((2, 24, 24, 3), np.float32)
    image[0, 15:21, 3:9], image[1, 2:8, 14:20] = 0, 0
    config = replace(CONFIG, grid=6, sigma_light=1.0, sigma_shadow=1.0, sigma_spatial=1.0)
    result = glas(Partial(linear, jnp.asarray(weights)), image, np.array([0, 1]), config=config)
    for map_ in (result.heatmap, *result.maps.values()):
        for k, centre in enumerate([(4.5, 16.5), (17.5, 5.5)]):
            peak = np.unravel_index(np.argmax(map_[k]), (24, 24))
            assert np.abs(np.subtract(peak, centre)).max() <= 3
            assert map_[k].min() == 0 and map_[k].max() == pytest.approx(1)


def test_points_that_left_are_not_counted():
    points = np.array([[1.0, 1.0], [3.0, 3.0]], np.float32)
    values = jnp.asarray([[2.0, 5.0]])
    sigma, sizes = np.ones(2, np.float32), (4, 4)
    both = mixture(values, points, sigma, sizes)
    alone = mixture(values, points, sigma, sizes, jnp.asarray([[True, False]]))
    first = mixture(values[:, :1], points[:1], sigma, sizes)
    np.testing.assert_allclose(alone, first, rtol=1e-5)
    np.testing.assert_allclose(both[0, 1, 1], (2 * np.exp(-0.5) + 5 * np.exp(-4.5)) / 2, rtol=1e-5)
    assert np.isnan(mixture(values, points, sigma, sizes, jnp.zeros((1, 2), bool))).all()


@pytest.mark.parametrize("score", CLASS_SCORES)
def test_scores_of_a_class(score):
    logits = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
    targets = np.array([0, 2, 1, 1])
    p = softmax(np.float64(logits), axis=1)[np.arange(4), targets]
    chosen = np.float64(logits)[np.arange(4), targets]
    expected = {
        "probability": p,
        "log_probability": np.log(p),
        "log_odds": np.log(p / (1 - p)),
        "logit": chosen,
        "sigmoid": 1 / (1 + np.exp(-chosen)),
    }[score]
    found = CLASS_SCORES[score](jnp.asarray(logits), jnp.asarray(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# Models that return something else.


def captioner(weights, images):
    """Two words of a vocabulary of three, and something beside."""
    logits = linear(weights, images)
    return {"words": jnp.stack([logits, -logits], axis=1), "length": jnp.full(len(images), 2)}


def word(outputs, targets):
    place, token = targets
    return jax.nn.softmax(outputs["words"])[jnp.arange(len(place)), place, token]


def test_a_word_of_a_caption(weights, images):
    """At place 0 the caption's words are the classifier's classes."""
    config = replace(CONFIG, score=word)
    model = Partial(captioner, jnp.asarray(weights))
    result = glas(model, images, (np.zeros(3, np.int32), TARGETS), config=config)
    expected = glas(Partial(linear, jnp.asarray(weights)), images, TARGETS, config=CONFIG)
    np.testing.assert_allclose(result.heatmap, expected.heatmap, atol=1e-5)
    other = glas(model, images, (np.ones(3, np.int32), TARGETS), config=config)
    assert np.abs(other.heatmap - expected.heatmap).max() > 0.05


def overlap(outputs, targets):
    """Of a detector's box with the box that is explained."""
    low, high = (
        f(outputs[:, i : i + 2], targets[:, i : i + 2])
        for i, f in ((0, jnp.maximum), (2, jnp.minimum))
    )
    return jnp.prod(jnp.maximum(high - low, 0), axis=1)


def test_a_box_of_a_detector(images):
    """The detector's box grows with the brightness of the upper left quarter."""

    def detector(images):
        side = images[:, :6, :9].mean((1, 2, 3))
        return jnp.stack([side * 0, side * 0, side, side], axis=1)

    boxes = np.tile(np.float32([0, 0, 1, 1]), (3, 1))
    config = replace(CONFIG, grid=4, score=overlap)
    result = glas(detector, images, boxes, config=config)
    for map_ in result.heatmap:
        row, column = np.unravel_index(np.argmax(map_), map_.shape)
        assert row < 6 and column < 9


@pytest.mark.parametrize(
    ("score", "targets", "words"),
    [
        (lambda o, t: o, TARGETS, r"one number per image, shape \(3,\); it returned \(3, 3\)"),
        (lambda o, t: {"a": t}, TARGETS, "it returned {"),
        (word, (TARGETS[:2], TARGETS), "3 images, and targets with 2, 3 rows"),
        (lambda o, t: o[:, 0], 1, "targets with no rows"),
    ],
)
def test_a_score_function_that_does_not_fit(weights, images, untyped, score, targets, words):
    model = Partial(linear, jnp.asarray(weights))
    with pytest.raises(ValueError, match=words):
        glas(model, images, targets, config=replace(CONFIG, score=score))


def test_images_of_a_score_function_are_checked_too(weights, images, untyped):
    model, config = Partial(linear, jnp.asarray(weights)), replace(CONFIG, score=word)
    with pytest.raises(ValueError, match="span 0.*Divide them by 255"):
        glas(model, images * 255, TARGETS, config=config)
    with pytest.raises(ValueError, match="Of one image: images\\[None\\]"):
        glas(model, images[0], TARGETS, config=config)


# Chunks and neighbours.


@pytest.mark.parametrize("chunk_size", [1, 5, 19, 64, None])
def test_the_chunk_changes_nothing(weights, images, chunk_size):
    run = partial(glas, Partial(linear, jnp.asarray(weights)), images, TARGETS)
    expected, result = run(config=CONFIG), run(config=replace(CONFIG, chunk_size=chunk_size))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(result), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_an_images_map_is_its_own(weights, images):
    run = partial(glas, Partial(linear, jnp.asarray(weights)))
    for chunk_size in (8, 64):
        config = replace(CONFIG, chunk_size=chunk_size)
        together = run(images, TARGETS, config=config).heatmap
        for i in range(3):
            alone = run(images[i : i + 1], TARGETS[i : i + 1], config=config).heatmap
            np.testing.assert_allclose(alone[0], together[i], atol=1e-4)


def test_a_nan_spoils_its_own_image_only(weights, images):
    def model(x):
        bad = x[:, 0, 0, :1] > 0.9  # no light there, no answer
        return jnp.where(bad, jnp.nan, linear(weights, x))

    images[:, 0, 0] = np.array([0.5, 1.0, 0.5])[:, None]
    for chunk_size in (8, 64):
        config = replace(CONFIG, chunk_size=chunk_size)
        result = glas(model, images, TARGETS, config=config)
        for map_ in (result.heatmap, result.maps["shadow"]):
            assert np.isnan(map_[1]).all()
            assert np.isfinite(map_[np.array([0, 2])]).all()


def test_a_model_that_does_not_look_at_the_image_gives_a_symmetric_map(images):
    """Every point answers alike: the map is that of the points' places alone."""
    result = glas(lambda x: jnp.zeros((len(x), 2)), images, np.zeros(3, int), config=CONFIG)
    np.testing.assert_allclose(result.heatmap, result.heatmap[:, ::-1, ::-1], atol=1e-5)


def test_one_program_for_all_weights_images_and_widths(weights, images):
    glas(Partial(linear, jnp.asarray(weights)), images, TARGETS, config=CONFIG)
    so_far = _scores._cache_size()
    other = Partial(linear, jnp.asarray(weights[::-1].copy()))
    glas(other, images[:2], TARGETS[1:], config=replace(CONFIG, sigma_light=2.0))
    glas(other, images[::-1], TARGETS, config=replace(CONFIG, sigma_unit="pixel"))
    assert _scores._cache_size() == so_far


# Scaling.


def test_scaling():
    maps = jnp.asarray([[[1.0, 3.0]], [[2.0, 2.0]], [[jnp.nan, 1.0]], [[-jnp.inf, 1.0]]])
    np.testing.assert_array_equal(
        scale_to_unit(maps), [[[0, 1]], [[0, 0]], [[np.nan] * 2], [[np.nan] * 2]]
    )
    maps = jnp.asarray([[[-1.0, 4.0]], [[-2.0, 0.0]], [[jnp.nan, 1.0]], [[-jnp.inf, 1.0]]])
    np.testing.assert_array_equal(
        positive_part(maps), [[[0, 1]], [[0, 0]], [[np.nan] * 2], [[np.nan] * 2]]
    )


# Volumes.

SIZES = (5, 6, 7)
POINTS = np.array([[1.0, 2.0, 2.0], [4.0, 4.5, 5.0], [2.5, 5.0, 1.0], [5.0, 0.0, 7.0]], np.float32)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 0.5)])
def test_volumes_in_numpy(spacing):
    """Any points, any range of values, voxels that are not cubes."""
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(*SIZES, 2)).astype(np.float32) / 5
    volumes = 3 * rng.normal(size=(2, *SIZES, 1)).astype(np.float32)
    result = glas_volume(
        Partial(linear, jnp.asarray(weights)),
        volumes,
        np.array([1, 0]),
        POINTS,
        sigma_light=2.0,
        sigma_shadow=1.5,
        sigma_spatial=2.5,
        spacing=spacing,
        chunk_size=4,
    )
    widths = [np.full(3, sigma) / spacing for sigma in (2.0, 1.5, 2.5)]
    for i, target in enumerate((1, 0)):
        light, shadow, maps = numpy_glas(weights, volumes[i], target, POINTS, *widths)
        np.testing.assert_allclose(result.points["light"][i], light, rtol=1e-4)
        np.testing.assert_allclose(result.points["shadow"][i], shadow, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(result.points["fusion"][i], light * shadow, rtol=1e-3, atol=1e-6)
        for name, map_ in {"fusion": result.heatmap, **result.maps}.items():
            np.testing.assert_allclose(map_[i], maps[name], atol=1e-3, err_msg=name)


def test_the_region_of_an_atlas_that_the_class_is_read_from_ranks_first():
    weights = np.zeros((8, 8, 8, 2), np.float32)
    weights[5:8, 1:4, 4:7, 1] = 0.4
    centroids = np.array([[2, 2, 2], [6.5, 2.5, 5.5], [2, 6, 6], [6, 6, 2]], np.float32)
    volumes = np.ones((1, 8, 8, 8, 1), np.float32)
    model = Partial(linear, jnp.asarray(weights))
    result = glas_volume(
        model,
        volumes,
        np.array([1]),
        centroids,
        sigma_light=1.5,
        sigma_shadow=1.5,
        sigma_spatial=1.5,
    )
    for name, values in result.points.items():
        assert np.argmax(values[0]) == 1, name
    assert result.heatmap.shape == (1, 8, 8, 8)
    assert np.unravel_index(np.argmax(result.heatmap[0]), (8, 8, 8)) == (6, 2, 5)


def test_a_volume_with_a_score_function():
    brightness = lambda outputs, targets: outputs["mean"] * targets
    model = lambda v: {"mean": v[:, :3].mean((1, 2, 3, 4))}
    volumes = np.ones((2, *SIZES, 1), np.float32)
    run = partial(glas_volume, model, volumes, points=POINTS, score=brightness)
    result = run(targets=np.float32([1, 2]), sigma_light=1.0, sigma_shadow=1.0, sigma_spatial=1.0)
    np.testing.assert_allclose(result.points["light"][1], 2 * result.points["light"][0], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(points=POINTS[:, :2]), re.escape("(points 3); got shape (4, 2)")),
        (dict(points=POINTS[:0]), re.escape("got shape (0, 3)")),
        (dict(points=POINTS + [0, 0, 2]), r"search point 1 at \[4.0, 4.5, 7.0\]|search point 3 at"),
        (dict(sigma_shadow=0.0), "sigma_shadow=0.0: must be above 0"),
        (dict(spacing=(1.0, 0.0, 1.0)), "spacing=0.0: must be above 0"),
        (dict(score="odds"), "score='odds': one of .*Did you mean log_odds"),
        (dict(volumes=np.ones((2, 5, 6, 1))), "n d h w c with n > 0; got shape"),
        (dict(volumes=np.full((2, *SIZES, 1), np.nan)), "NaN or infinity"),
        (dict(targets=np.array([0, 2])), r"target 2 of volume 1 is outside.*\(0 to 1\)"),
        (dict(targets=np.array([0])), "one target per volume: 2 volumes"),
        (dict(model=lambda v: v), "must return logits n k"),
    ],
)
def test_volumes_that_make_no_sense(change, words, untyped):
    given = dict(
        model=Partial(linear, jnp.ones((*SIZES, 2))),
        volumes=np.ones((2, *SIZES, 1), np.float32),
        targets=np.array([0, 1]),
        points=POINTS,
    )
    with pytest.raises(ValueError, match=words):
        glas_volume(**{**given, **change})


# What is refused.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(grid=0), "grid=0: must be at least 1"),
        (dict(chunk_size=0), "chunk_size=0"),
        (dict(sigma_light=0.0), "sigma_light=0.0: must be above 0"),
        (dict(sigma_shadow=-1.0), "sigma_shadow=-1.0"),
        (dict(sigma_spatial=float("nan")), "sigma_spatial=nan"),
        (dict(sigma_unit="cells"), "sigma_unit='cells': one of pixel, cell. Did you mean cell"),
        (dict(score="prob"), "score='prob': one of probability, .*or a function"),
    ],
)
def test_settings_that_make_no_sense(change, words, untyped):
    with pytest.raises(ValueError, match=words):
        GlasConfig(**change)


@pytest.mark.parametrize(
    ("scale", "targets", "words"),
    [
        (2, TARGETS, "Normalisation belongs to the model"),
        (1, np.array([0, 3, 1]), r"target 3 of image 1 .*3 classes \(0 to 2\)"),
        (1, TARGETS[:2], "one target per image"),
    ],
)
def test_images_and_targets_that_do_not_fit(weights, images, scale, targets, words, untyped):
    with pytest.raises(ValueError, match=words):
        glas(Partial(linear, jnp.asarray(weights)), images * scale, targets, config=CONFIG)


def test_presets():
    assert glas_preset("default") == GlasConfig()
    paper = glas_preset("glas-2020-pixel", chunk_size=7)
    assert (paper.sigma_light, paper.sigma_shadow, paper.sigma_spatial) == (5, 3, 6)
    assert (paper.grid, paper.chunk_size, paper.sigma_unit) == (15, 7, "pixel")
    assert glas_preset("glas-2020-cell").sigma_unit == "cell"
    for name in GLAS_PRESETS:
        glas_preset(name)
    with pytest.raises(ValueError, match="Did you mean glas-2020-pixel"):
        glas_preset("glas2020-pixel")
    with pytest.raises(ValueError, match="GlasConfig has no k"):
        glas_preset("default", k=3)
