"""Masks made hard, on a model whose answer is known: its logit is the light in one square."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from skimage.measure import label

from fgjax.evaluation.hard_masks import (
    BETTER,
    OTHERS,
    judge_cut,
    judge_hard,
    largest_pieces,
    protocols,
)

SIDE, GAIN, OFFSET = 8, 12.0, 2.0
SQUARE = np.zeros((SIDE, SIDE), np.float32)
SQUARE[2:5, 3:6] = 1


def logit(images):
    """How bright the square is, in NumPy."""
    return GAIN * (images.mean(-1) * SQUARE).sum((1, 2)) / SQUARE.sum() - OFFSET


@jax.jit
def model(images):
    bright = (images.mean(-1) * SQUARE[None]).sum((1, 2)) / SQUARE.sum()
    return jnp.stack([GAIN * bright - OFFSET, jnp.zeros_like(bright)], axis=1)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    bright = rng.uniform(0.6, 1, (2, SIDE, SIDE, 3)).astype(np.float32)
    return bright * np.array([1.0, 0.25], np.float32)[:, None, None, None]


@pytest.fixture(scope="module")
def judged(images):
    """The first image's map is the square; the second's is everything but the square."""
    maps = jnp.asarray(np.stack([SQUARE, 1 - SQUARE]))
    keys = jax.random.split(jax.random.key(0), 2)
    black = jnp.zeros_like(images)
    found = judge_hard(model, jnp.asarray(images), jnp.zeros(2, jnp.int32), maps, maps, black, keys)
    return {name: np.asarray(value) for name, value in found.items()}


def p(images):
    return expit(logit(images.astype(np.float64)))


def test_the_cut_shows_and_replaces_what_the_map_says(judged, images):
    square = SQUARE[None, ..., None]
    kept = np.concatenate([(images * square)[:1], (images * (1 - square))[1:]])
    gone = np.concatenate([(images * (1 - square))[:1], (images * square)[1:]])
    np.testing.assert_allclose(judged["p_full"], p(images), rtol=1e-5)
    np.testing.assert_allclose(judged["p_kept"], p(kept), rtol=1e-5)
    np.testing.assert_allclose(judged["p_deleted"], p(gone), rtol=1e-5)
    assert judged["p_kept"][0] > 0.99 and judged["p_deleted"][0] < 0.2


def test_only_sure_images_have_a_share(judged):
    assert judged["p_full"][1] < 0.7 and judged["kept_share"][0] == pytest.approx(1, abs=1e-3)
    low = judge_cut(
        model,
        jnp.full((1, SIDE, SIDE, 3), 0.1),
        jnp.zeros(1, jnp.int32),
        *[jnp.ones((1, SIDE, SIDE))] * 2,
        jnp.zeros((1, SIDE, SIDE, 3)),
    )
    assert float(low["p_full"][0]) < 0.5 and np.isnan(low["kept_share"][0])


def test_a_hard_map_is_its_own_draw(judged):
    """Probabilities of 0 and 1 leave nothing to chance."""
    for how in ("kept", "deleted"):
        np.testing.assert_allclose(judged[f"p_{how}_bernoulli"], judged[f"p_{how}"], rtol=1e-6)


def test_a_soft_map_pays_when_it_is_drawn(images):
    """Half of every pixel, everywhere: cut at 0.5 it shows nothing; drawn, half of the light."""
    half = jnp.full((2, SIDE, SIDE), 0.5)
    keys = jax.random.split(jax.random.key(0), 2)
    black = jnp.zeros_like(images)
    found = judge_hard(model, jnp.asarray(images), jnp.zeros(2, jnp.int32), half, half, black, keys)
    np.testing.assert_allclose(found["p_kept"], expit(-OFFSET), rtol=1e-5)
    np.testing.assert_allclose(found["p_deleted"], p(images), rtol=1e-5)
    drawn = np.asarray(found["p_kept_bernoulli"])
    assert (drawn > expit(-OFFSET)).all() and (drawn < p(images)).all()
    assert not found["area_ssr"].any() and np.isnan(found["five_pieces_ssr"]).all()


def test_a_shuffled_square_loses_what_the_square_keeps(judged):
    assert judged["p_kept_shuffled"][0] < judged["p_kept"][0] - 0.3
    assert judged["area_ssr"][0] == pytest.approx(SQUARE.mean())


def test_bright_infills_keep_what_black_does_not(judged):
    """The model sees light, and the mean colour is bright: deleting by it destroys nothing."""
    assert judged["p_deleted_mean"][0] > 0.9 > judged["p_deleted"][0]
    assert set(OTHERS) == {n.removeprefix("p_kept_") for n in judged if n.startswith("p_kept_")} - {
        "bernoulli", "shuffled",
    }  # fmt: skip


def test_an_undefined_map_has_undefined_numbers(images):
    maps = jnp.asarray(np.stack([SQUARE, SQUARE])).at[1, 0, 0].set(jnp.nan)
    black = jnp.zeros_like(images)
    found = judge_cut(model, jnp.asarray(images), jnp.zeros(2, jnp.int32), maps, maps, black)
    assert np.isfinite(found["p_kept"][0]) and np.isnan(found["p_kept"][1])


def test_the_protocol_names_infills_that_were_optimised_on():
    said = protocols(0.5, "blur", ("blurs", "mean"))
    seen = {n.removeprefix("p_kept_") for n in said if "optimised on" in said[n]} & set(OTHERS)
    assert seen == {"half_blur", "double_blur", "mean"}


def test_every_number_says_how_it_was_measured(judged):
    assert set(judged) == set(protocols(0.5, "black")) == set(BETTER)
    assert BETTER["p_kept_mean"] and BETTER["p_deleted_mean"] is False
    assert BETTER["p_kept_shuffled"] is None and BETTER["five_pieces_sdr"]


def test_pieces_are_those_of_another_implementation():
    rng = np.random.default_rng(3)
    for density in (0.1, 0.3, 0.6):
        mask = rng.random((20, 24)) < density
        sizes = np.sort(np.bincount(label(mask, connectivity=2).ravel())[1:])[::-1]
        for count in (1, 5):
            assert largest_pieces(mask, count) == pytest.approx(sizes[:count].sum() / mask.sum())
