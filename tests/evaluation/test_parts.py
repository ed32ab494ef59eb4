"""A model that adds up parts: what each is worth to it is known."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax, logsumexp

from fgjax.data.species.source import PARTS, SpeciesSource
from fgjax.evaluation import parts_protocol, single_part_deletion
from fgjax.evaluation.parts import part_attribution, part_drops

N, P, SIZE = 4, 5, 20


@pytest.fixture
def scene():
    """Five blocks of several sizes on black; without a part its block is black as well."""
    rng = np.random.default_rng(0)
    masks = np.zeros((N, P, SIZE, SIZE), bool)
    for part in range(P):
        masks[:, part, 4 * part : 4 * part + 3, : 3 + 3 * part] = True
    colours = rng.random((N, P, 1, 1, 3)).astype(np.float32)
    images = (masks[..., None] * colours).sum(1)
    without = images[:, None] * ~masks[..., None]
    present = np.ones((N, P), bool)
    present[1, 2] = present[2, 0] = present[2, 4] = False
    arrays = (images, without, masks, present)
    return tuple(jnp.asarray(a) for a in arrays)


WEIGHTS = np.random.default_rng(1).normal(size=(SIZE * SIZE * 3, 6)).astype(np.float32) / 9
TARGETS = jnp.array([3, 0, 5, 1])


def model(x):
    return jnp.tanh(x.reshape(len(x), -1) @ jnp.asarray(WEIGHTS))


@pytest.mark.parametrize("pool", ["sum", "mean"])
@pytest.mark.parametrize("score", ["log_odds", "logit"])
def test_equals_a_numpy_form(scene, pool, score):
    images, without, masks, present = (np.asarray(a) for a in scene)
    maps = np.random.default_rng(2).random((N, SIZE, SIZE)).astype(np.float32)
    ours = single_part_deletion(
        model, scene[0], TARGETS, jnp.asarray(maps), *scene[1:], pool=pool, score=score
    )

    def value(image, target):
        logits = np.tanh(image.ravel() @ WEIGHTS).astype(np.float64)
        others = np.delete(logits, target)
        return logits[target] - (logsumexp(others) if score == "log_odds" else 0)

    for i, target in enumerate(np.asarray(TARGETS)):
        drops = [value(images[i], target) - value(without[i, p], target) for p in range(P)]
        mass = [getattr(maps[i][masks[i, p]], pool)() for p in range(P)]
        here = present[i]
        np.testing.assert_allclose(ours.drops[i][here], np.array(drops)[here], atol=1e-5)
        np.testing.assert_allclose(ours.attribution[i][here], np.array(mass)[here], rtol=1e-5)
        assert np.isnan(ours.drops[i][~here]).all() and np.isnan(ours.attribution[i][~here]).all()
        expected = stats.spearmanr(np.array(drops)[here], np.array(mass)[here]).statistic
        assert ours.correlation[i] == pytest.approx(expected, abs=1e-6)
    assert {v.dtype for v in ours} == {jnp.dtype("float32")}


def test_a_perfect_map_and_its_opposite(scene):
    images, without, masks, present = scene
    drops = part_drops(model, images, TARGETS, without)
    perfect = jnp.sum(jnp.where(masks, drops[..., None, None], 0), axis=1)
    for maps, rho in ((perfect, 1), (-perfect, -1)):
        result = single_part_deletion(
            model, images, TARGETS, maps, without, masks, present, pool="mean"
        )
        np.testing.assert_allclose(result.correlation, rho, atol=1e-6)


def test_log_odds_order_the_parts_as_the_probability_does(scene):
    images, without, *_ = scene
    ours = part_drops(model, images, TARGETS, without)
    for i, target in enumerate(np.asarray(TARGETS)):
        after = log_softmax(np.asarray(model(without[i])), axis=1)[:, target]
        np.testing.assert_array_equal(np.argsort(ours[i]), np.argsort(-after))


def test_undefined_is_nan(scene):
    images, without, masks, present = scene
    maps = jnp.asarray(np.random.default_rng(3).random((N, SIZE, SIZE)), jnp.float32)
    maps = maps.at[0, 19, 19].set(jnp.nan)  # outside all parts
    present = present.at[1].set(False).at[1, 0].set(True)  # one part only
    targets = jnp.array([3, 0, 6, 1])  # the model has six classes
    result = single_part_deletion(model, images, targets, maps, without, masks, present)
    assert jnp.isnan(result.correlation).tolist() == [True, True, True, False]
    # Equal attributions, and a part that is hidden: `present` but without a pixel.
    flat = single_part_deletion(
        model, images, TARGETS, jnp.zeros_like(maps), without, masks, present
    )
    assert jnp.isnan(flat.correlation).all()
    hidden = single_part_deletion(
        model, images, TARGETS, maps, without, masks.at[3, 1].set(False), present, pool="mean"
    )
    assert jnp.isnan(hidden.drops[3]).tolist() == [False, True, False, False, False]
    assert jnp.isfinite(hidden.correlation[3])


def _never(images):
    raise AssertionError("the model was asked")


def test_drops_that_are_known_are_not_asked_for(scene):
    """They are the same for every map: a comparison finds them once an image."""
    images, without, masks, present = scene
    maps = jnp.asarray(np.random.default_rng(4).random((N, SIZE, SIZE)), jnp.float32)
    asked = (images, TARGETS, maps, without, masks, present)
    drops = part_drops(model, images, TARGETS, without)
    known = (images, TARGETS, maps, None, masks, present)
    ours = single_part_deletion(_never, *known, drops=drops)
    np.testing.assert_array_equal(ours.correlation, single_part_deletion(model, *asked).correlation)


def test_settings_are_checked_and_told(scene):
    images, without, masks, present = scene
    with pytest.raises(ValueError, match="pool='max'.*sum, mean"):
        part_attribution(images[..., 0], masks, pool="max")
    with pytest.raises(ValueError, match="score='p'.*log_odds, logit"):
        part_drops(model, images, TARGETS, without, score="p")
    told = parts_protocol(pool="mean", score="logit")
    assert "logit of the class" in told and "mean of the map" in told


def test_on_drawn_birds():
    """A model that looks at one colour of the cue alone: the drop is all on that part."""
    source = SpeciesSource(size=64, train=0, test=4)
    drawn = [(source.load(r), source.without_parts(r)) for r in source.records]
    images, without = (
        jnp.asarray(np.stack(a).astype(np.float32) / 255)
        for a in ([e.image for e, _ in drawn], [w.images for _, w in drawn])
    )
    masks, present = (
        jnp.asarray(np.stack(a))
        for a in ([w.masks for _, w in drawn], [w.present for _, w in drawn])
    )
    cues = jnp.stack([jnp.asarray(e.cue) for e, _ in drawn])

    def cue_only(x):
        seen = jnp.sum(jnp.where(cues[..., None], jnp.abs(x - images), 0), axis=(1, 2, 3))
        return jnp.stack([-seen, jnp.zeros_like(seen)], axis=1)

    zero = jnp.zeros(4, jnp.int32)
    heat = cues.astype(jnp.float32)
    result = single_part_deletion(cue_only, images, zero, heat, without, masks, present)
    assert result.drops.shape == (4, len(PARTS))
    assert (jnp.nanargmax(result.drops, 1) == jnp.nanargmax(result.attribution, 1)).all()
    assert (result.correlation > 0.3).all()
