import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from fgjax.evaluation.order import average_ranks, pixel_ranks, rank_correlation


def test_ranks_and_correlation_equal_scipy():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(6, 400)).astype(np.float32)
    b = (a + rng.normal(size=a.shape)).astype(np.float32)
    a[1], b[2] = np.round(a[1]), np.round(2 * b[2])  # ties
    b[3], b[4] = a[3], -a[4]
    np.testing.assert_allclose(average_ranks(jnp.asarray(a)), stats.rankdata(a, axis=1))
    ours = rank_correlation(jnp.asarray(a), jnp.asarray(b))
    expected = [stats.spearmanr(x, y).statistic for x, y in zip(a, b)]
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    np.testing.assert_allclose(ours[3:5], [1, -1], atol=1e-6)


def test_only_what_counts_is_ranked():
    rng = np.random.default_rng(1)
    a, b = np.round(rng.normal(size=(2, 30, 8)), 1).astype(np.float32)
    where = rng.random(a.shape) > 0.4
    where[:, :4] = True
    expected = [stats.spearmanr(x[w], y[w]).statistic for x, y, w in zip(a, b, where)]
    a, b = (jnp.where(where, values, jnp.nan) for values in (a, b))
    np.testing.assert_allclose(rank_correlation(a, b, jnp.asarray(where)), expected, atol=1e-6)


def test_what_has_no_order_has_no_correlation():
    rows = jnp.array(
        [[0.3] * 5, [1.0, 2, 3, 4, jnp.nan], [1.0, 2, 3, 4, jnp.inf], [1.0, 2, 3, 4, 5]]
    )
    rising = jnp.broadcast_to(rows[3:], rows.shape)
    assert jnp.isnan(rank_correlation(rows, rising)).tolist() == [True, True, True, False]
    assert jnp.isnan(rank_correlation(rising, rows)).tolist() == [True, True, True, False]
    # A long constant row, whose mean float32 cannot hold.
    flat = jnp.full((1, 50_001), 0.1)
    assert jnp.isnan(rank_correlation(flat, jnp.arange(50_001.0)[None])).all()
    # None and one that count.
    where = jnp.array([[False] * 5, [True] + [False] * 4])
    assert jnp.isnan(rank_correlation(rising[:2], rising[:2], where)).all()


def test_pixels_in_order_and_ties_at_random():
    values = jnp.asarray(np.random.default_rng(3).random((2, 5, 6)), jnp.float32)
    expected = 30 - stats.rankdata(values.reshape(2, -1), axis=1)
    np.testing.assert_array_equal(pixel_ranks(values).reshape(2, -1), expected)
    rounded = jnp.round(3 * values)
    ranks = pixel_ranks(rounded)
    for heat, rank in zip(np.asarray(rounded), np.asarray(ranks), strict=True):
        assert sorted(rank.ravel()) == list(range(30))
        assert (np.diff(heat.ravel()[np.argsort(rank.ravel())]) <= 0).all()


def test_the_order_of_ties_is_the_keys_and_of_nothing_else():
    """Row by row a constant map would be judged by where the object lies in the image."""
    flat = jnp.full((2, 20, 30), 0.4)
    ranks = pixel_ranks(flat)
    assert (ranks[0] == ranks[1]).all() and (pixel_ranks(flat[:1])[0] == ranks[0]).all()
    for half in (ranks[:, :10], ranks[:, :, :15]):  # 300 of 600, drawn without place
        assert abs(float((half < 300).mean()) - 0.5) < 0.1
    keys = jax.random.split(jax.random.key(1), 2)
    own = pixel_ranks(flat, keys)
    assert (own[0] != own[1]).any() and (own == pixel_ranks(flat, keys)).all()
    assert (pixel_ranks(flat[1:], keys[1:])[0] == own[1]).all()
