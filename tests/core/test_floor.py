"""What is rounding and what is a spread, by hand; and that no scale makes a map of rounding."""

import jax.numpy as jnp
import numpy as np

from fgjax.attribution.common.perturbation import positive_part, scale_to_unit, spread_of
from fgjax.core.floor import FLOOR, is_flat


def test_a_spread_is_held_against_the_size():
    rows = jnp.array([[1, 1 + 1e-6], [1, 1 + 1e-5], [0, 0], [-3, -3], [1e-9, 2e-9], [jnp.nan, 1]])
    assert is_flat(rows).tolist() == [True, False, True, True, False, False]
    # A difference of scores of size 1 rounds as they do.
    assert is_flat(rows, jnp.ones(6)).tolist() == [True, False, True, True, True, False]
    assert not is_flat(jnp.array([[jnp.inf, jnp.inf]]))[0]
    assert 8 * np.finfo(np.float32).eps < FLOOR < 1e-5


def test_rounding_is_scaled_to_nothing():
    rounding = jnp.array([[[1.0, 1.0 + 1e-6], [1.0 - 5e-7, 1.0]]])
    assert not scale_to_unit(rounding).any()
    assert scale_to_unit(rounding + 1e-4 * jnp.eye(2)[None]).max() == 1
    # Nowhere positive but for rounding.
    assert not positive_part(jnp.array([[[-1.0, 1e-7]]])).any()
    np.testing.assert_allclose(positive_part(jnp.array([[[-1.0, 1e-4]]])), [[[0, 1]]])
    # Small, and all there is.
    np.testing.assert_allclose(positive_part(jnp.array([[[0.0, 3e-12]]])), [[[0, 1]]])


def test_what_was_made_of_nothing_is_nothing():
    maps, silent = jnp.array([[[0.0, 3e-32]], [[0.0, 1.0]]]), jnp.array([True, False])
    for scale in (scale_to_unit, positive_part):
        assert scale(maps, silent).tolist() == [[[0, 0]], [[0, 1]]]
        assert jnp.isnan(scale(maps.at[0, 0, 0].set(jnp.nan), silent)[0]).all()


def test_spread_is_a_share_of_the_largest():
    np.testing.assert_allclose(spread_of(jnp.array([[2.0, 4.0], [0, 0]])), [[0.5], [0]])
