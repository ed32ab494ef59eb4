"""KernelSHAP against Shapley values by their definition, over all orders."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
from fgjax.attribution.kernel_shap import coalitions, shapley_values

KEY = jax.random.key(0)


def by_orders(value, count):
    """The mean, over all orders, of what each player adds."""
    total = np.zeros(count)
    orders = list(itertools.permutations(range(count)))
    for order in orders:
        shown = np.zeros(count, bool)
        for player in order:
            before = value(shown)
            shown[player] = True
            total[player] += value(shown) - before
    return total / len(orders)


def test_all_sets_give_the_values_of_the_definition():
    rng = np.random.default_rng(0)
    table = rng.normal(size=2**5)  # any game at all
    value = lambda shown: table[(shown * 2 ** np.arange(5)).sum()]
    shown, weight = coalitions(KEY, 5, 32)
    found = shapley_values(shown, weight, np.array([value(row) for row in shown]))
    np.testing.assert_allclose(found, by_orders(value, 5), atol=1e-10)
    # What is left over counts for nothing.
    shown, weight = coalitions(KEY, 5, 50)
    again = shapley_values(shown, weight, np.array([value(row) for row in shown]))
    np.testing.assert_allclose(again, found, atol=1e-10)


def test_few_sets_are_exact_for_what_adds_up():
    worth = np.random.default_rng(1).normal(size=20)
    shown, weight = coalitions(KEY, 20, 60)
    found = shapley_values(shown, weight, 3.0 + shown @ worth)
    np.testing.assert_allclose(found, worth, atol=1e-9)


def test_sets_are_drawn_by_the_kernel_and_in_pairs():
    count, samples = 12, 4000
    shown, weight = coalitions(KEY, count, samples)
    assert not shown[0].any() and shown[1].all() and weight[:2].sum() == 0
    np.testing.assert_array_equal(shown[2::2], ~shown[3::2])
    sizes = np.bincount(shown[2:].sum(1), minlength=count + 1)[1:count] / (samples - 2)
    chance = 1 / (np.arange(1, count) * (count - np.arange(1, count)))
    np.testing.assert_allclose(sizes, chance / chance.sum(), atol=0.02)
    # Of a size, every superpixel is shown as often.
    one = shown[2:][shown[2:].sum(1) == 1]
    np.testing.assert_allclose(one.mean(0), 1 / count, atol=0.045)


def test_draws_come_near_the_values_of_a_game_with_interactions():
    rng = np.random.default_rng(2)
    pairs, worth = rng.normal(size=(8, 8)) / 4, rng.normal(size=8)
    value = lambda shown: shown @ worth + shown @ pairs @ shown
    shown, weight = coalitions(KEY, 8, 200)
    found = shapley_values(shown, weight, np.array([value(row) for row in shown * 1.0]))
    # A pair's worth is shared between the two.
    exact = worth + (pairs + pairs.T).sum(1) / 2
    np.testing.assert_allclose(found, exact, atol=0.15)
    assert found.sum() == pytest.approx(value(np.ones(8)) - value(np.zeros(8)))


def model(images):
    """Class 0: how light the left half is. Class 1: how light the right one."""
    half = images.shape[2] // 2
    left, right = images[:, :, :half].mean((1, 2, 3)), images[:, :, half:].mean((1, 2, 3))
    return 4 * jnp.stack([left, right], axis=1)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(3)
    return jnp.asarray(0.5 + rng.random((2, 24, 24, 3)) / 2, jnp.float32)


def test_maps_of_a_linear_model_add_up_and_lie_where_they_should(images):
    config = fgjax.KernelShapConfig(samples=40, segments=6, infill="zeros", score="logit")
    found = fgjax.kernel_shap(model, images, jnp.array([0, 1]), key=KEY, config=config)
    for i, target in enumerate((0, 1)):
        signed, of = np.asarray(found.maps["signed"][i]), np.asarray(found.maps["segments"][i])
        values = [signed[of == s][0] for s in np.unique(of)]
        assert sum(values) == pytest.approx(float(model(images)[i, target]), rel=1e-4)
        share = np.zeros((24, 24, 3))  # what each pixel adds to the mean of its half
        half = slice(0, 12) if target == 0 else slice(12, 24)
        share[:, half] = 4 * np.asarray(images[i])[:, half] / (24 * 12 * 3)
        wanted = [share[of == s].sum() for s in np.unique(of)]
        np.testing.assert_allclose(values, wanted, atol=1e-4)
        assert float(found.heatmap[i].max()) == pytest.approx(1)


def test_an_image_does_not_depend_on_those_beside_it(images):
    config = fgjax.KernelShapConfig(samples=12, segments=6)
    both = fgjax.kernel_shap(model, images, jnp.array([0, 1]), key=KEY, config=config)
    key = jax.random.fold_in(KEY, 1)[None]
    one = fgjax.kernel_shap(model, images[1:], jnp.array([1]), key=key, config=config)
    np.testing.assert_allclose(both.maps["signed"][1], one.maps["signed"][0], atol=1e-5)


def test_settings_that_cannot_be_meant(untyped):
    for wrong in (dict(samples=3), dict(segments=0), dict(infill="zero"), dict(compactness=0.0)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fgjax.KernelShapConfig(**wrong)


def test_one_superpixel_has_all_and_nan_is_said():
    shown, weight = coalitions(KEY, 1, 4)
    assert shapley_values(shown, weight, np.array([1.0, 3.0, 1.0, 1.0])) == [2.0]
    shown, weight = coalitions(KEY, 3, 8)
    assert np.isnan(shapley_values(shown, weight, np.full(8, np.nan))).all()
