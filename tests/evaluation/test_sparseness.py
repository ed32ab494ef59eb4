import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.evaluation import gini


def lorenz(values):
    """The Gini index as it was defined: twice the area between the Lorenz curve and equality."""
    values = np.sort(np.abs(values.ravel()).astype(np.float64))
    share = np.concatenate([[0], np.cumsum(values) / values.sum()])
    return 1 - 2 * np.trapezoid(share, np.linspace(0, 1, len(share)))


def test_equals_the_area_under_the_lorenz_curve():
    rng = np.random.default_rng(0)
    maps = np.stack([rng.random((31, 47)) ** k for k in (0.2, 1, 5, 30)]).astype(np.float32)
    maps[1] -= 0.5  # signed maps count by size
    ours = gini(jnp.asarray(maps))
    assert ours.dtype == jnp.float32 and ours.shape == (4,)
    np.testing.assert_allclose(ours, [lorenz(one) for one in maps], atol=1e-5)
    assert list(ours[2:]) == sorted(ours[2:])


def test_extremes_and_invariances():
    one = jnp.zeros((1, 10, 20)).at[0, 3, 4].set(0.2)
    assert gini(one)[0] == pytest.approx(1 - 1 / 200)
    assert gini(jnp.full((1, 224, 224), 0.3))[0] == pytest.approx(0, abs=1e-5)
    maps = jnp.asarray(np.random.default_rng(1).random((2, 9, 9)), jnp.float32)
    np.testing.assert_allclose(gini(7 * maps), gini(maps), rtol=1e-5)
    np.testing.assert_allclose(gini(jnp.repeat(maps, 3, axis=1)), gini(maps), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(gini)(maps), gini(maps), rtol=1e-6)


def test_undefined_is_nan():
    maps = jnp.ones((4, 5, 5)).at[0].set(0).at[1, 2, 2].set(jnp.nan).at[2, 2, 2].set(jnp.inf)
    assert jnp.isnan(gini(maps)).tolist() == [True, True, True, False]
