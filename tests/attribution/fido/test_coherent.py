"""What the default adds to Eqs. 1-10: falling temperature, smooth moves, smooth noise.

The schedule against its closed form, the noise against the theory of Gaussian fields, smooth moves
against plain descent blurred by SciPy, and all of it on a toy that specks can fool.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.ndimage import gaussian_filter, label

from fgjax.attribution.fido.concrete import concrete_dropout, simplified_concrete_dropout
from fgjax.attribution.fido.config import FidoConfig, fido_preset
from fgjax.attribution.fido.loop import settled, step_config
from fgjax.attribution.fido.method import fido
from fgjax.attribution.fido.step import TRACES, annealed, enough_score, next_price

# The schedule.


def test_the_temperature_falls_geometrically_and_stays():
    """t_k = t_0 (t_1 / t_0)^min(1, k / (anneal · steps)), k = 0 … steps - 1."""
    config = FidoConfig(steps=30, anneal=0.8, temperature=2.0, temperature_end=0.1)
    steps = np.arange(30)
    found = [annealed(2.0, 0.1, jnp.asarray(k), config) for k in steps]
    np.testing.assert_allclose(found, 2 * 0.05 ** np.minimum(1, steps / 24), rtol=1e-5)
    assert found[0] == 2 and found[24] == found[29]
    assert annealed(2.0, None, jnp.asarray(7), config) == 2.0
    assert annealed(2.0, 2.0, jnp.asarray(7), config) == 2.0


def test_how_many_steps_there_are_is_part_of_a_program_only_where_it_matters():
    plain, falling = fido_preset("soft"), FidoConfig()
    assert step_config(replace(plain, steps=7)) == step_config(plain)
    assert step_config(replace(falling, steps=7)) != step_config(falling)


def test_no_image_stops_before_the_temperature_has_fallen():
    still = np.zeros((29, len(TRACES)), np.float32)
    config = FidoConfig(steps=40, anneal=0.5, stop=1.0, warmup=2)
    assert not settled(still, config)
    assert settled(np.zeros((30, len(TRACES)), np.float32), config)
    assert settled(still, replace(config, temperature_end=None, sharpness=1.0, smoothing_end=None))


def test_what_is_enough():
    """In log odds: 0.5 above the image's own, and 4.6 below both it and 0, or what the infill
    leaves, where that is more; never above what the image itself has."""
    full, alone = jnp.asarray([2.0, -3.0, 2.0, -3.0]), jnp.asarray([-9.0, -9.0, -1.5, 4.0])
    scores = enough_score(full, alone, FidoConfig())
    expected = [[2.5, -4.6], [-2.5, -7.6], [2.5, -1.5], [-2.5, -3.0]]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    everything = enough_score(full[:1], alone[:1], fido_preset("soft"))
    np.testing.assert_array_equal(everything, [[np.inf, -np.inf]])


# The price.


@pytest.mark.parametrize(
    ("step", "met", "expected"),
    [
        (7, (1.0, 0.0), (1.0, 1.0)),  # a quarter of the steps: as it was
        (8, (1.0, 1.0), (np.exp(0.4 * 0.5), np.exp(0.4 * 0.15))),  # better than wanted: dearer
        (8, (0.25, 0.75), (np.exp(-0.8 * 0.25), np.exp(-0.8 * 0.1))),  # worse: cheaper, faster
        (20, (1.0, 1.0), (1.0, 1.0)),  # two thirds: no dearer any more
        (29, (0.25, 0.75), (np.exp(-0.8 * 0.25), np.exp(-0.8 * 0.1))),
    ],
)
def test_the_price_rises_while_the_masks_are_at_their_targets(step, met, expected):
    price = next_price(
        jnp.ones((1, 2)), jnp.asarray([met]), jnp.asarray([step]), FidoConfig(price_rate=0.4)
    )
    np.testing.assert_allclose(price, [expected], rtol=1e-6)


def test_the_price_stays_within_half_and_four_times():
    price, config = jnp.asarray([[3.9, 0.55]]), FidoConfig(price_rate=4.0)
    met, step = jnp.asarray([[1.0, 0.0]]), jnp.asarray([10])
    np.testing.assert_allclose(next_price(price, met, step, config), [[4.0, 0.5]])


@pytest.mark.slow
def test_a_region_too_dear_at_one_price_is_found_at_its_own(key):
    """A patch of 144 pixels, 7056 of a 224 px image, is worth 2.5 nats. At a price of 4.2 for
    all of it, nothing; at its own, which falls to half of that, most of it, and nothing else."""
    weights = np.zeros((SIDE, SIDE), np.float32)
    weights[PATCH] = 2.5 / 144
    model = Partial(seen, jnp.asarray(weights))
    config = replace(COHERENT, l1=6e-4, kept_margin=0.4, deleted_margin=0.5)
    found = {}
    for rate in (0.0, 0.4):
        result = fido(
            model, jnp.ones((1, SIDE, SIDE, 3)), jnp.asarray([1]), key=key,
            config=replace(config, price_rate=rate),
        )  # fmt: skip
        mask = np.asarray(result.maps["ssr"][0]) > 0.5
        found[rate] = mask[PATCH].mean(), mask.sum() / 144
    assert found[0.0][1] == 0
    assert found[0.4][0] > 0.6 and found[0.4][1] == found[0.4][0]


# Noise.


def test_smooth_noise_leaves_every_pixel_its_rate(key):
    """With ϑ = 0 and t = 1 the mask is η itself: uniform at every pixel, edges and corners too."""
    eta = simplified_concrete_dropout(key, jnp.zeros((24, 24)), 1.0, 4000, smoothing=30.0)
    for y, x in ((0, 0), (0, 12), (11, 7), (23, 23)):
        ordered = np.sort(np.asarray(eta[:, y, x]))
        np.testing.assert_allclose(ordered, (np.arange(4000) + 0.5) / 4000, atol=0.035)


def test_neighbours_go_together_as_a_gaussian_field_does(key):
    """The Gaussians behind η correlate by exp(-d² / 4σ²)."""
    from scipy.special import ndtri

    side, sigma = 48, 3.0  # in pixels: 14 px of a 224 px mask
    eta = simplified_concrete_dropout(key, jnp.zeros((side, side)), 1.0, 400, smoothing=14.0)
    field = ndtri(np.clip(np.asarray(eta, np.float64), 1e-7, 1 - 1e-7))[:, 12:-12]
    for distance in (1, 3, 6):
        product = field[:, :, 12:-18] * field[:, :, 12 + distance : side - 18 + distance]
        assert product.mean() == pytest.approx(np.exp(-(distance**2) / (4 * sigma**2)), abs=0.04)


def test_smooth_noise_is_the_same_for_both_samplers_and_comes_in_pairs(key):
    logits = jnp.linspace(-3, 3, 256).reshape(16, 16)
    options = dict(smoothing=40.0, antithetic=True)
    simple = simplified_concrete_dropout(key, logits, 0.7, 6, **options)
    detour = concrete_dropout(key, jax.nn.sigmoid(logits), 0.7, 6, **options)
    np.testing.assert_allclose(simple, detour, atol=1e-5)
    eta = simplified_concrete_dropout(key, jnp.zeros((16, 16)), 1.0, 6, **options)
    np.testing.assert_allclose(eta[:3] + eta[3:], 1, atol=1e-6)


# Specks and patches.

SIDE = 32
PATCH = (slice(8, 20), slice(10, 22))
SPECKS = tuple(
    (y, x) for y in (1, 5, 15, 24, 28) for x in (1, 5, 16, 26, 30) if not (y == 15 and x == 16)
)


def toy():
    """Class 1 is seen in a patch, a little a pixel, and in 24 single pixels, much each; either is
    enough. The specks are six times cheaper. A person can read the patch only."""
    weights = np.zeros((SIDE, SIDE), np.float32)
    weights[PATCH] = 12 / 144
    weights[tuple(np.transpose(SPECKS))] = 0.45
    return Partial(saturating, jnp.asarray(weights))


def saturating(weights, images):
    evidence = jnp.einsum("nhwc,hw->n", images, weights) / 3
    odds = 4 - 8 * jnp.exp(-evidence / 4)
    return jnp.stack([jnp.zeros_like(odds), odds], axis=1)


def seen(weights, images):
    odds = jnp.einsum("nhwc,hw->n", images, weights) / 3 - 6.0
    return jnp.stack([jnp.zeros_like(odds), odds], axis=1)


def cut(key, config):
    result = fido(toy(), jnp.ones((1, SIDE, SIDE, 3)), jnp.asarray([1]), key=key, config=config)
    return np.asarray(result.maps["ssr"][0]) > 0.5


COHERENT = FidoConfig(
    infill="zeros", infill_also=(), smoothing_end=12.0, l1=3e-4, kept_margin=1.0, price_rate=0.0
)


def test_specks_win_where_pixels_are_free_and_the_patch_where_masks_are_smooth(key):
    plain = cut(key, replace(COHERENT, smoothing=0.0, noise_smoothing=0.0))
    smooth = cut(key, COHERENT)
    specks = np.zeros((SIDE, SIDE), bool)
    specks[tuple(np.transpose(SPECKS))] = True
    patch = np.zeros((SIDE, SIDE), bool)
    patch[PATCH] = True
    assert plain[specks].mean() > 0.8, "the network can be had by specks: plain masks have them"
    assert plain[patch].mean() < 0.2 and label(plain, np.ones((3, 3)))[1] > 15
    assert smooth[specks].mean() < 0.2 and smooth[patch].mean() > 0.7
    assert smooth[patch].sum() > 0.8 * smooth.sum()
    shown = np.where(smooth, 1.0, 0.0)[None, ..., None] * np.ones(3)
    odds = np.asarray(toy()(jnp.asarray(shown, jnp.float32)))[0]
    assert odds[1] > 2.2, "cut, it is still nine tenths sure"


def test_a_smooth_gradient_is_the_gradient_of_a_smooth_mask():
    """Plain descent with smoothing moves ϑ as a field u with ϑ = G u would: G Gᵀ times the plain
    gradient for each half of the blur, here against finite differences of the loss itself."""
    rng = np.random.default_rng(0)
    model = Partial(seen, jnp.asarray(rng.normal(size=(SIDE, SIDE)), jnp.float32))
    image = jnp.asarray(rng.random((1, SIDE, SIDE, 3)), jnp.float32)
    config = fido_preset(
        "soft", steps=1, batch_size=2, infill="zeros", optimizer="sgd", learning_rate=1.0, warmup=0
    )
    config = replace(config, tv=0.0, l1=0.0, temperature=1.0, initial=0.5, smoothing=40.0)
    key = jax.random.key(3)
    result = fido(model, image, jnp.asarray([1]), key=key, config=config)
    moved = np.asarray(jax.scipy.special.logit(result.maps["sdr"][0]), np.float64)

    noise = jax.random.fold_in(jax.random.fold_in(key, 0), 0)
    draw = simplified_concrete_dropout(noise, jnp.zeros((2, SIDE, SIDE)), 1.0, 2)
    eta = np.asarray(jax.scipy.special.logit(draw), np.float64)[:, 1]
    weights = np.asarray(model.args[0], np.float64)
    seen_pixels = np.asarray(image[0], np.float64).mean(-1) * weights

    def loss(theta):
        z = 1 / (1 + np.exp(-(theta + eta)))
        return ((1 - z) * seen_pixels).sum((1, 2)).mean()

    direction = gaussian_filter(
        rng.normal(size=(SIDE, SIDE)), 40 * SIDE / 224, mode="constant", truncate=9.0
    )
    plain = np.zeros((SIDE, SIDE))
    for y, x in np.ndindex(SIDE, SIDE):
        step = np.zeros((SIDE, SIDE))
        step[y, x] = 1e-4
        plain[y, x] = (loss(step) - loss(-step)) / 2e-4
    expected = -gaussian_filter(plain, 40 * SIDE / 224, mode="mirror", truncate=9.0)
    expected *= SIDE**2 / 224**2
    np.testing.assert_allclose(moved, expected, atol=3e-6)
    assert (moved * direction).sum() == pytest.approx((expected * direction).sum(), rel=0.05)


# Scale.


@pytest.mark.slow
def test_smooth_masks_mean_the_same_at_another_resolution(key):
    """A disc as the evidence, at 32 and at 64 px: the same place and area."""
    areas = []
    for side in (32, 64):
        y, x = (np.mgrid[:side, :side] + 0.5) / side
        disc = (np.hypot(y - 0.4, x - 0.55) < 0.2).astype(np.float32)
        model = Partial(seen, jnp.asarray(12 * disc / disc.sum()))
        images = jnp.ones((1, side, side, 3))
        result = fido(model, images, jnp.asarray([1]), key=key, config=COHERENT)
        masks = [np.asarray(map_[0]) > 0.5 for map_ in result.maps.values()]
        areas.append([[m.mean(), (m & (disc > 0)).sum() / m.sum()] for m in masks])
    np.testing.assert_allclose(areas[0], areas[1], atol=0.04)
    assert np.asarray(areas)[..., 0].min() > 0.02 and np.asarray(areas)[..., 1].min() > 0.75


# Infills.


def test_what_is_found_holds_under_every_infill_it_was_sought_with(key):
    """Left half: white on white. Only a black infill takes it away; only a white one the right
    half's black. Under one infill half of the evidence seems free."""
    weights = np.zeros((SIDE, SIDE), np.float32)
    weights[12:20, 4:12] = 1 / 64
    weights[12:20, 20:28] = -1 / 64
    model = Partial(two_colours, jnp.asarray(weights))
    image = np.full((1, SIDE, SIDE, 3), 0.5, np.float32)
    image[0, 12:20, 4:12], image[0, 12:20, 20:28] = 1, 0
    found = {}
    for also in ((), ("grey",)):
        config = replace(COHERENT, infill=jnp.zeros(()), infill_also=also)
        result = fido(model, jnp.asarray(image), jnp.asarray([1]), key=key, config=config)
        mask = np.asarray(result.maps["ssr"][0]) > 0.5
        found[also] = mask[12:20, 4:12].mean(), mask[12:20, 20:28].mean()
    assert found[()][0] > 0.8 and found[()][1] < 0.1, "black where black was: nothing to keep"
    assert min(found[("grey",)]) > 0.6


def two_colours(weights, images):
    odds = 12 * jnp.einsum("nhwc,hw->n", images, weights) / 3 - 6.0
    return jnp.stack([jnp.zeros_like(odds), odds], axis=1)
