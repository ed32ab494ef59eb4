"""FIDO on models whose answer is known, and against a NumPy form of the whole method.

The toy: class k is the mean brightness of patch k of an image that is white on its
patches and grey elsewhere. With a black infill, keeping patch k keeps class k.
"""

import re
from dataclasses import replace
from functools import partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial
from scipy.ndimage import gaussian_filter
from scipy.special import expit, logsumexp, softmax

from fgjax.attribution.fido.concrete import simplified_concrete_dropout
from fgjax.attribution.fido.method import TRACES, FidoConfig, fido, fido_preset, fido_step
from fgjax.models.classifier import Classifier

SIDE = 8
PATCHES = ((slice(1, 4), slice(1, 4)), (slice(4, 7), slice(3, 8)))
GAIN = 40.0


def patch_weights(side=SIDE, patches=PATCHES) -> np.ndarray:
    """`h w k`: logits are the sum of weights times brightness."""
    weights = np.zeros((side, side, len(patches)), np.float32)
    for k, patch in enumerate(patches):
        weights[(*patch, k)] = 1
    return GAIN * weights / weights.sum((0, 1))


def linear(weights, images):
    return jnp.einsum("nhwc,hwk->nk", images, weights) / images.shape[-1] - GAIN / 2


def patch_model(**options):
    return Partial(linear, jnp.asarray(patch_weights(**options)))


def patch_image(side=SIDE, patches=PATCHES) -> np.ndarray:
    image = np.full((side, side, 3), 0.5, np.float32)
    for patch in patches:
        image[patch] = 1
    return image


def inside(k) -> np.ndarray:
    where = np.zeros((SIDE, SIDE), bool)
    where[PATCHES[k]] = True
    return where


CONFIG = fido_preset("soft", infill="zeros", learning_rate=10.0, l1=1e-4, tv=1e-3, initial=0.5)
"""Eqs. 1-10 and nothing else; what the default adds is tested in `test_coherent.py`."""
SHORT = replace(CONFIG, steps=4, batch_size=4)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.random((3, SIDE, SIDE, 3), np.float32))


# What the maps mean.


@pytest.mark.parametrize(
    ("sampler", "score", "antithetic"),
    [
        ("simplified", "log_odds", False),
        ("original", "log_odds", False),
        ("simplified", "leaking", False),
        ("original", "leaking", True),
    ],
)
def test_sign_ssr_keeps_and_sdr_destroys_the_evidence(key, sampler, score, antithetic):
    """Either map, and so their joint, is above 1/2 on the target's patch and nowhere else."""
    images = jnp.asarray(np.stack([patch_image()] * 2))
    config = replace(CONFIG, sampler=sampler, score=score, antithetic=antithetic)
    result = fido(patch_model(), images, jnp.asarray([0, 1]), key=key, config=config)
    for k in range(2):
        for name, map_ in {"joint": result.heatmap, **result.maps}.items():
            np.testing.assert_array_equal(map_[k] > 0.5, inside(k), err_msg=f"{name} of {k}")
    assert (result.traces["p_kept"][:, -1] > 0.95).all()
    assert (result.traces["p_deleted"][:, -1] < 0.05).all()


def test_the_heatmap_is_the_joint_mask_of_equation_9(key, images):
    result = fido(patch_model(), images, jnp.zeros(3, jnp.int32), key=key, config=SHORT)
    assert set(result.maps) == {"ssr", "sdr"} and set(result.traces) == set(TRACES)
    assert result.heatmap.shape == (3, SIDE, SIDE) and result.traces["p_kept"].shape == (3, 4)
    # Written for keep rates (Eq. 9): SSR keeps `ssr`, SDR keeps 1 - sdr.
    keep_ssr, keep_sdr = np.asarray(result.maps["ssr"]), 1 - np.asarray(result.maps["sdr"])
    np.testing.assert_allclose(result.heatmap, np.sqrt(keep_ssr * (1 - keep_sdr)), atol=1e-5)


def test_nothing_is_found_when_the_infill_is_the_image_itself(key, images):
    """No mask changes the score, so only the price of importance is left."""
    config = replace(CONFIG, infill="original")
    result = fido(patch_model(), images, jnp.zeros(3, jnp.int32), key=key, config=config)
    assert max(m.max() for m in result.maps.values()) < 0.5
    np.testing.assert_allclose(np.ptp(result.heatmap, axis=(1, 2)), 0, atol=1e-5)


def test_initial_importance(key, images):
    config = replace(CONFIG, steps=1, initial=0.2, learning_rate=1e-9)
    result = fido(patch_model(), images, jnp.zeros(3, jnp.int32), key=key, config=config)
    for map_ in (result.heatmap, *result.maps.values()):
        np.testing.assert_allclose(map_, 0.2, rtol=1e-5)


# Against NumPy.


def enlarging(small: int, large: int) -> np.ndarray:
    """The matrix of linear interpolation between pixel centres, constant beyond the last."""
    place = (np.arange(large) + 0.5) * small / large - 0.5
    share = np.maximum(1 - np.abs(place[:, None] - np.arange(small)), 0)
    return share / share.sum(1, keepdims=True)


def numpy_fido(weights, image, infill, target, key, config):
    """The whole method for one image and a linear model, every gradient written by hand."""
    height, width, _ = image.shape
    side = config.mask_size or height
    up = enlarging(side, height) if config.mask_size else np.eye(height)
    enlarge = lambda maps: up @ maps @ up.T
    reduce = lambda grads: up.T @ grads @ up  # the transpose of `enlarge`
    reference = 224 * 224 / (height * width)
    sign = np.array([-1.0, 1.0])[:, None, None]  # SSR, SDR
    start = np.log(config.initial / (1 - config.initial))
    logits = np.broadcast_to(sign * start, (2, side, side)).copy()
    first, second = np.zeros_like(logits), np.zeros_like(logits)
    traces = []
    full = np.einsum("hwc,hwk->k", image, weights) / 3 - GAIN / 2
    full = full[target] - logsumexp(np.delete(full, target))
    high = np.inf if config.kept_margin is None else full + config.kept_margin
    alone = np.einsum("hwc,hwk->k", infill, weights) / 3 - GAIN / 2
    alone = alone[target] - logsumexp(np.delete(alone, target))
    low = -np.inf
    if config.deleted_margin is not None:
        low = max(min(full, 0) - config.deleted_margin, min(alone, full, 0))
    price = np.ones(2)
    fills = [
        infill,
        *(np.broadcast_to(image.mean((0, 1)), image.shape) for _ in config.infill_also),
    ]
    fills = np.stack([fills[i % len(fills)] for i in range(config.batch_size)])[:, None]
    progress = lambda step: min(1, step / (config.anneal * config.steps))
    between = lambda start, end, step: start * ((end or start) / start) ** progress(step)
    for step in range(config.steps):
        t = between(config.temperature, config.temperature_end, step)
        sharp = between(1.0, config.sharpness, step)
        z = np.asarray(
            simplified_concrete_dropout(
                jax.random.fold_in(key, step),
                jnp.asarray(sharp * logits, jnp.float32),
                t,
                config.batch_size,
                antithetic=config.antithetic,
                smoothing=config.noise_smoothing,
            ),
            np.float64,
        )
        masks = enlarge(z)[..., None]
        phi = (1 - masks) * image + masks * fills
        outputs = np.einsum("sohwc,hwk->sok", phi, weights) / 3 - GAIN / 2
        p = softmax(outputs, axis=-1)
        others = np.delete(outputs, target, axis=-1)
        p_others = softmax(others, axis=-1)
        if config.score == "log_odds":
            score = outputs[..., target] - logsumexp(others, axis=-1)
            d_score = np.insert(-p_others, target, 1.0, axis=-1)
        else:
            chosen = p[..., target]
            score = np.log(chosen) - np.log(2 - chosen)
            d_log_p = np.eye(p.shape[-1])[target] - p
            d_score = d_log_p * (1 + chosen / (2 - chosen))[..., None]
        # What is beyond enough counts for nothing.
        counts = np.stack([score[:, 0] < high, score[:, 1] > low], axis=1)
        d_score = d_score * counts[..., None]
        met = np.stack([score[:, 0] >= high - 0.5, score[:, 1] <= low + 0.5], axis=1).mean(0)
        score = np.stack([np.minimum(score[:, 0], high), np.maximum(score[:, 1], low)], axis=1)
        # d score / d mask, through φ, then d mask / d ϑ = z (1 - z) / t.
        brightness = (fills - image).mean(-1)
        d_mask = np.einsum("sok,hwk->sohw", d_score, weights) * brightness
        gradient = sign * (reduce(d_mask) * z * (1 - z) / t).mean(0)

        rate = expit(sign * sharp * logits)
        importance = enlarge(rate)
        l1 = importance.sum((-2, -1)) * reference
        down = importance[:, 1:] - importance[:, :-1]
        across = importance[:, :, 1:] - importance[:, :, :-1]
        d_tv = np.zeros_like(importance)
        if config.tv_norm == "squared":
            tv = (down**2).sum((1, 2)) + (across**2).sum((1, 2))
            d_down, d_across = 2 * down, 2 * across
        else:
            scale = np.sqrt(reference)
            tv = (np.abs(down).sum((1, 2)) + np.abs(across).sum((1, 2))) * scale
            d_down, d_across = np.sign(down) * scale, np.sign(across) * scale
        d_tv[:, 1:] += d_down
        d_tv[:, :-1] -= d_down
        d_tv[:, :, 1:] += d_across
        d_tv[:, :, :-1] -= d_across
        ramp = min(1.0, step / config.warmup) if config.warmup else 1.0
        paid = config.l1 * price[:, None, None]
        d_importance = ramp * (paid * reference + config.tv * d_tv)
        gradient += reduce(d_importance) * rate * (1 - rate) * sign

        losses = sign[:, 0, 0] * score.mean(0) + ramp * (config.l1 * l1 + config.tv * tv)
        traces.append(np.concatenate([p[..., target].mean(0), losses, l1, tv]))
        for k, wanted in enumerate((0.5, 0.85)):
            change = config.price_rate * (met[k] - wanted)
            change *= 2 if change < 0 else 1
            if step < config.steps / 4 or (step >= 2 / 3 * config.steps and change > 0):
                change = 0
            if config.kept_margin is not None:
                price[k] = np.clip(price[k] * np.exp(change), 0.5, 4)
        gradient *= sharp * side * side / 224**2
        if config.smoothing:
            sigma = between(config.smoothing, config.smoothing_end, step) * side / 224
            sigmas = (0, sigma, sigma)
            gradient = gaussian_filter(gradient, sigmas, mode="mirror", truncate=9.0)
        if config.optimizer == "sgd":
            logits -= config.learning_rate * gradient
        else:
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            move = first / (1 - 0.9 ** (step + 1))
            size = np.sqrt(second / (1 - 0.999 ** (step + 1))) + config.adam_eps
            logits -= config.learning_rate * move / size
    importance = enlarge(expit(sign * sharp * logits))
    return importance, np.array(traces)


VARIANTS = {
    "plain": {},
    "a falling temperature": dict(temperature_end=0.2, anneal=0.5),
    "rates that sharpen": dict(sharpness=3.0, anneal=0.7),
    "smooth moves": dict(smoothing=60.0, smoothing_end=20.0, tv=0.05),
    "smooth at one width, smooth noise": dict(smoothing=30.0, noise_smoothing=40.0),
    "up to what is enough": dict(kept_margin=4.0, deleted_margin=1.0, warmup=2, learning_rate=30.0),
    "a price of its own": dict(
        kept_margin=4.0, deleted_margin=1.0, price_rate=0.8, warmup=2, learning_rate=30.0
    ),
    "no price without a margin": dict(price_rate=0.8),
    "under two infills": dict(infill_also=("mean",), temperature=0.5),
    "all of it": dict(
        temperature_end=0.3,
        sharpness=3.0,
        smoothing=60.0,
        smoothing_end=30.0,
        noise_smoothing=30.0,
        kept_margin=4.0,
        deleted_margin=4.6,
        price_rate=0.4,
        infill_also=("mean", "mean"),
        learning_rate=30.0,
        l1=2e-4,
    ),
    "gradient descent at once": dict(optimizer="sgd", learning_rate=3e4, warmup=0),
    "leaking score, cold, in pairs": dict(score="leaking", temperature=0.3, antithetic=True),
    "coarse, from 0.3": dict(mask_size=3, initial=0.3, warmup=2),
    "absolute differences": dict(tv_norm="absolute", tv=0.05, steps=4, initial=0.3),
    "coarse absolute, small eps": dict(
        mask_size=5, tv_norm="absolute", tv=0.05, adam_eps=1e-4, learning_rate=0.3
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_method_in_numpy(key, images, name):
    changes = {"steps": 7, "l1": 2e-3, "tv": 0.5, **VARIANTS[name]}
    config = replace(SHORT, **changes)
    weights = np.random.default_rng(1).normal(size=(SIDE, SIDE, 3)).astype(np.float32)
    model = Partial(linear, jnp.asarray(weights))
    result = fido(model, images[:2], jnp.asarray([2, 0]), key=key, config=config)
    for i, target in enumerate((2, 0)):
        image = np.asarray(images[i], np.float64)
        maps, traces = numpy_fido(
            weights, image, 0 * image, target, jax.random.fold_in(key, i), config
        )
        np.testing.assert_allclose(result.maps["ssr"][i], maps[0], atol=2e-4)
        np.testing.assert_allclose(result.maps["sdr"][i], maps[1], atol=2e-4)
        assert np.ptp(maps[0]) > 0.01  # the masks have moved
        for j, trace in enumerate(TRACES):
            np.testing.assert_allclose(
                result.traces[trace][i], traces[:, j], rtol=2e-3, atol=2e-3, err_msg=trace
            )


def test_the_regularisers_wait_for_the_warmup(key, images):
    """The loss without its data term, step by step: 0, 1/3, 2/3, 1, 1 of λ·L1 + TV."""
    config = replace(CONFIG, steps=5, warmup=3, infill="original", l1=2e-3, tv=0.1)
    targets = jnp.zeros(3, jnp.int32)
    model = patch_model()
    traces = fido(model, images, targets, key=key, config=config).traces
    logits = np.asarray(model(images), np.float64)
    data = -(logits[:, 0] - logits[:, 1])[:, None]  # the infill is the image: no mask matters
    price = np.asarray(config.l1 * traces["l1_ssr"] + config.tv * traces["tv_ssr"])
    ramp = (traces["loss_ssr"] - data) / price
    np.testing.assert_allclose(ramp, np.tile([0, 1 / 3, 2 / 3, 1, 1], (3, 1)), atol=1e-4)


# Scale.


def test_one_setting_means_the_same_at_another_resolution(key):
    """With the same coarse mask, the same noise: maps and traces of 16 and 32 px agree."""
    results = []
    for side in (16, 32):
        scaled = [tuple(slice(s.start * side // 8, s.stop * side // 8) for s in p) for p in PATCHES]
        image = jnp.asarray(patch_image(side, scaled))[None]
        config = replace(CONFIG, mask_size=8, tv=0.05, steps=12)
        model = patch_model(side=side, patches=scaled)
        results.append(fido(model, image, jnp.asarray([0]), key=key, config=config))
    small, large = results
    for name in ("ssr", "sdr"):
        pooled = np.asarray(large.maps[name]).reshape(16, 2, 16, 2).mean((1, 3))
        np.testing.assert_allclose(small.maps[name][0], pooled, atol=0.05)
    for name in ("l1_ssr", "l1_sdr", "tv_ssr", "tv_sdr"):
        np.testing.assert_allclose(
            small.traces[name], large.traces[name], rtol=0.15, atol=0.02, err_msg=name
        )


@pytest.mark.slow
def test_full_masks_mean_the_same_at_another_resolution(key):
    """Every pixel has its own noise, so only averages over places agree."""
    areas = []
    for side in (16, 32):
        scaled = [tuple(slice(s.start * side // 8, s.stop * side // 8) for s in p) for p in PATCHES]
        image = jnp.asarray(patch_image(side, scaled))[None]
        config = replace(CONFIG, tv=0.0, steps=10)
        model = patch_model(side=side, patches=scaled)
        result = fido(model, image, jnp.asarray([0]), key=key, config=config)
        areas.append(
            [np.asarray(m)[0][s].mean() for m in result.maps.values() for s in (*scaled, ...)]
        )
    np.testing.assert_allclose(areas[0], areas[1], atol=0.03)
    assert areas[0][0] - areas[0][1] > 0.3  # the target's patch stands out


@pytest.mark.slow
def test_absolute_differences_of_a_smooth_mask_do_not_depend_on_the_resolution(key):
    values = []
    for side in (16, 64):
        image = jnp.zeros((1, side, side, 3)).at[:, :, : side // 2].set(1)
        weights = np.zeros((side, side, 2), np.float32)
        weights[..., 0] = GAIN / side**2
        model = Partial(linear, jnp.asarray(weights))
        config = replace(SHORT, mask_size=4, tv_norm="absolute", l1=1e-3)
        traces = fido(model, image, jnp.asarray([0]), key=key, config=config).traces
        values.append(float(traces["tv_ssr"][0, -1]))
    assert values[0] > 0
    assert values[1] == pytest.approx(values[0], rel=0.1)


def test_coarse_masks_are_smooth_and_fit_the_image(key):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.random((1, 24, 36, 3), np.float32))
    weights = jnp.asarray(rng.normal(size=(24, 36, 2)), jnp.float32)
    model = Partial(linear, weights)
    steep = {}
    for mask_size in (4, None):
        config = replace(SHORT, mask_size=mask_size, steps=8, l1=0.0, tv=0.0)
        map_ = fido(model, image, jnp.asarray([0]), key=key, config=config).heatmap[0]
        assert map_.shape == (24, 36)
        steep[mask_size] = np.abs(np.diff(map_, 2, axis=1)).mean() / np.ptp(map_)
    assert steep[4] < 0.2 * steep[None]


# Images and keys.


@pytest.mark.parametrize("infill", ["blur", "patches"])
def test_an_images_map_is_its_own(key, images, infill):
    """However the images are grouped, the last group ragged or not."""
    targets = jnp.asarray([0, 1, 0])
    run = partial(fido, patch_model(), key=key)
    one, *others = (
        run(images, targets, config=replace(SHORT, infill=infill, images_per_step=size))
        for size in (1, 2, 3, 7)
    )
    for other in others:
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4)
    moved = run(images.at[0].set(0.1), targets, config=replace(SHORT, infill=infill))
    np.testing.assert_allclose(moved.heatmap[1:], one.heatmap[1:], atol=1e-5)
    assert np.abs(moved.heatmap[0] - one.heatmap[0]).max() > 1e-3


def test_a_key_per_image_or_one_folded_with_its_place(key, images):
    targets = jnp.zeros(3, jnp.int32)
    folded = jnp.stack([jax.random.fold_in(key, i) for i in range(3)])
    run = partial(fido, patch_model(), config=SHORT)
    one = run(images, targets, key=key)
    np.testing.assert_array_equal(one.heatmap, run(images, targets, key=folded).heatmap)
    alone = run(images[2:], targets[2:], key=folded[2:])
    np.testing.assert_allclose(alone.heatmap, one.heatmap[2:], atol=1e-6)
    twins = jnp.stack([images[0]] * 2)
    result = run(twins, targets[:2], key=key)
    assert np.abs(result.heatmap[0] - result.heatmap[1]).max() > 1e-4  # keys differ


def test_the_same_key_gives_the_same_maps(key, images):
    run = partial(fido, patch_model(), images, jnp.zeros(3, jnp.int32), config=SHORT)
    np.testing.assert_array_equal(run(key=key).heatmap, run(key=key).heatmap)
    assert (run(key=key).heatmap != run(key=jax.random.key(1)).heatmap).any()


def test_the_given_arrays_survive(key, images):
    model, targets = patch_model(), jnp.zeros(3, jnp.int32)
    fido(model, images, targets, key=key, config=SHORT)
    for array in (images, targets, *jax.tree.leaves(model)):
        assert not array.is_deleted()


@pytest.mark.parametrize(
    "poison",
    [
        lambda bad, logits: logits * jnp.where(bad, jnp.nan, 1),
        # Here NaN is in the value alone: every gradient is finite.
        lambda bad, logits: jnp.where(bad, jnp.nan, logits),
    ],
)
def test_a_nan_spoils_its_own_image_only(key, images, poison):
    def model(x):
        bad = x[:, 0, 0, 0] > 0.5  # the corner is not masked: the infill has it too
        return poison(bad[:, None], linear(patch_weights(), x))

    corner = jnp.asarray([0.0, 1.0, 0.0])
    images = images.at[:, 0, 0, 0].set(corner)
    infill = jnp.zeros_like(images).at[:, 0, 0, 0].set(corner)
    config = replace(SHORT, infill=infill, images_per_step=3)
    result = fido(model, images, jnp.zeros(3, jnp.int32), key=key, config=config)
    for map_ in (result.heatmap, *result.maps.values()):
        assert np.isnan(map_[1]).all()
        assert np.isfinite(map_[np.array([0, 2])]).all()


# Models.


class Dense(nn.Module):
    num_classes: int = 2

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))


class EquinoxDense(eqx.Module):
    layer: eqx.nn.Linear

    def __call__(self, x):
        return jax.vmap(self.layer)(x.reshape(len(x), -1))


def call_nnx(graph, state, x):
    return nnx.merge(graph, state)(x.reshape(len(x), -1))


def every_kind_of_model():
    """One and the same function of the image, as each library writes it."""
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(SIDE * SIDE * 3, 2)), jnp.float32)
    bias = jnp.asarray([0.3, -0.2])
    variables = {"params": {"Dense_0": {"kernel": kernel, "bias": bias}}}

    yield "function", lambda x: x.reshape(len(x), -1) @ kernel + bias[None]
    yield "linen", Partial(Dense().apply, variables)
    layer = eqx.nn.Linear(SIDE * SIDE * 3, 2, key=jax.random.key(0))
    layer = eqx.tree_at(lambda m: (m.weight, m.bias), layer, (kernel.T, bias))
    yield "equinox", EquinoxDense(layer)
    module = nnx.Linear(SIDE * SIDE * 3, 2, rngs=nnx.Rngs(0))
    nnx.update(module, nnx.State({"kernel": nnx.Param(kernel), "bias": nnx.Param(bias)}))
    yield "nnx", Partial(call_nnx, *nnx.split(module))
    yield "classifier", Classifier(variables, Dense(), mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.mark.parametrize("name", ["linen", "equinox", "nnx", "classifier"])
def test_every_kind_of_model(key, images, name):
    models = dict(every_kind_of_model())
    run = partial(fido, images=images, targets=jnp.asarray([0, 1, 1]), key=key, config=SHORT)
    expected, result = run(models["function"]), run(models[name])
    assert np.ptp(expected.heatmap) > 0.1
    np.testing.assert_allclose(result.heatmap, expected.heatmap, atol=1e-5)
    compiled_so_far = fido_step._cache_size()
    run(models[name])
    assert fido_step._cache_size() == compiled_so_far


def test_parameters_are_arguments_not_constants(key, images):
    """Other weights, other images, targets and keys: another answer from the same program."""
    targets = jnp.asarray([0, 1, 0])
    first = fido(patch_model(), images, targets, key=key, config=SHORT)
    compiled_so_far = fido_step._cache_size()
    other = Partial(linear, jnp.asarray(patch_weights()[::-1].copy()))
    second = fido(other, images, targets, key=key, config=SHORT)
    assert np.abs(first.heatmap - second.heatmap).max() > 0.05
    fido(other, images[:, ::-1], 1 - targets, key=jax.random.key(5), config=SHORT)
    fido(other, images[:2], targets[:2], key=key, config=replace(SHORT, infill="mean"))
    assert fido_step._cache_size() == compiled_so_far


# What is refused.


@pytest.mark.parametrize("target", [-1, 2])
def test_a_target_outside_the_models_classes(key, images, target):
    with pytest.raises(ValueError, match=rf"target {target} of image 1 .*2 classes \(0 to 1\)"):
        fido(patch_model(), images, jnp.asarray([0, target, 0]), key=key, config=SHORT)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x * 255, "span 0.* to 2.*Divide them by 255"),
        (lambda x: x - 0.5, "in \\[0, 1\\]"),
        (lambda x: x.at[0, 0, 0, 0].set(jnp.nan), "span nan"),
        (lambda x: x[:0], "n > 0"),
    ],
)
def test_images_that_are_not_rgb_in_0_1(key, images, change, words):
    bad = change(images)
    with pytest.raises(ValueError, match=words):
        fido(patch_model(), bad, jnp.zeros(len(bad), jnp.int32), key=key, config=SHORT)


def test_targets_of_another_length(key, images, untyped):
    with pytest.raises(ValueError, match="one target per image: 3 images"):
        fido(patch_model(), images, jnp.zeros(2, jnp.int32), key=key, config=SHORT)


def test_keys_of_another_number(key, images):
    keys = jax.random.split(key, 2)
    with pytest.raises(ValueError, match="2 keys for 3 images"):
        fido(patch_model(), images, jnp.zeros(3, jnp.int32), key=keys, config=SHORT)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: x.mean((1, 2, 3)),
        lambda x: x,
        lambda x: jnp.zeros((1, 2)),
        lambda x: (x.mean((1, 2)), x),
    ],
)
def test_a_model_that_does_not_return_logits(key, images, model):
    with pytest.raises(ValueError, match="must return logits n k"):
        fido(model, images, jnp.zeros(3, jnp.int32), key=key, config=SHORT)


def test_a_model_that_cannot_be_called(key, images):
    with pytest.raises(TypeError, match="must be callable .* got dict"):
        fido({"w": 1}, images, jnp.zeros(3, jnp.int32), key=key, config=SHORT)


def test_one_class_has_no_odds(key, images):
    with pytest.raises(ValueError, match="at least two classes"):
        fido(lambda x: x.mean((1, 2, 3))[:, None], images, jnp.zeros(3, jnp.int32), key=key)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(steps=0), "steps=0: must be at least 1"),
        (dict(batch_size=0), "batch_size=0"),
        (dict(temperature=0.0), "temperature=0.0: must be above 0"),
        (dict(temperature_end=0.0), "temperature_end=0.0: must be above 0, or left out"),
        (dict(sharpness=0.0), "sharpness=0.0: must be above 0"),
        (dict(smoothing_end=-1.0), "smoothing_end=-1.0"),
        (dict(smoothing=-1.0), "smoothing=-1.0: must not be negative"),
        (dict(noise_smoothing=-1.0), "noise_smoothing=-1.0"),
        (dict(anneal=0.0), "anneal=0.0: a share of the steps"),
        (dict(kept_margin=float("nan")), "kept_margin=nan: a finite number"),
        (dict(infill_also=("blur", "gray")), "infill_also='gray': .*Did you mean grey"),
        (dict(learning_rate=-1.0), "learning_rate=-1.0"),
        (dict(adam_eps=0.0), "adam_eps=0.0"),
        (dict(blur_sigma=float("nan")), "blur_sigma=nan"),
        (dict(l1=-1e-3), "l1=-0.001: must not be negative"),
        (dict(tv=-1.0), "tv=-1.0"),
        (dict(price_rate=-0.1), "price_rate=-0.1: must not be negative"),
        (dict(warmup=-1), "warmup=-1"),
        (dict(mask_size=0), "mask_size=0: must be at least 1, or left out"),
        (dict(images_per_step=0), "images_per_step=0"),
        (dict(initial=1.0), "initial=1.0: a probability strictly between"),
        (dict(antithetic=True, batch_size=7), "batch_size=7: antithetic masks come in pairs"),
        (dict(sampler="simple"), "sampler='simple': one of simplified, original"),
        (dict(score="odds"), "score='odds': one of log_odds, leaking"),
        (dict(optimizer="adam"), "optimizer='adam': one of adamw, sgd"),
        (dict(tv_norm="l2"), "tv_norm='l2': one of squared, absolute"),
        (dict(infill="blurred"), "infill='blurred': .*Did you mean blur"),
    ],
)
def test_settings_that_make_no_sense(change, words, untyped):
    with pytest.raises(ValueError, match=words):
        FidoConfig(**change)


def test_presets():
    assert fido_preset("default") == FidoConfig()
    paper = fido_preset("korsch-2023")
    assert (paper.temperature, paper.score, paper.l1) == (0.1, "log_odds", 1e-3)
    released = fido_preset("fido-pytorch")
    assert (released.temperature, released.score, released.tv_norm) == (1.0, "leaking", "absolute")
    chang = fido_preset("chang-2019", steps=7)
    assert (chang.sampler, chang.mask_size, chang.steps) == ("original", 56, 7)
    assert chang.batch_size == 32
    for name in ("soft", "korsch-2023", "fido-pytorch", "chang-2019"):
        config = fido_preset(name)
        new = (config.temperature_end, config.sharpness, config.smoothing, config.noise_smoothing)
        assert new == (None, 1.0, 0.0, 0.0), (
            "what was published had one temperature and no smoothing"
        )
        assert (config.kept_margin, config.deleted_margin, config.infill_also) == (None, None, ())
        assert config.price_rate == 0
    with pytest.raises(ValueError, match="preset='korsch2023'.*Did you mean korsch-2023"):
        fido_preset("korsch2023")
    with pytest.raises(ValueError, match=re.escape("FidoConfig has no lr, step")):
        fido_preset("default", lr=1, step=2)
