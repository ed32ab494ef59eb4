import jax
import jax.numpy as jnp
import numpy as np

from fgjax.core.filters import total_variation


def test_equals_the_double_sum_of_eq_10():
    maps = np.random.default_rng(0).random((3, 5, 7)).astype(np.float32)
    expected = np.zeros(3)
    for i in range(5):
        for j in range(7):
            expected += (maps[:, i, j] - maps[:, i, j + 1]) ** 2 if j < 6 else 0
            expected += (maps[:, i, j] - maps[:, i + 1, j]) ** 2 if i < 4 else 0
    np.testing.assert_allclose(total_variation(jnp.asarray(maps)), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(total_variation)(jnp.asarray(maps)), expected, rtol=1e-5)


def test_a_box_costs_its_outline():
    box = jnp.zeros((1, 20, 20)).at[0, 5:9, 5:12].set(1)
    assert total_variation(box).tolist() == [2 * (4 + 7)]
    assert total_variation(jnp.full((1, 20, 20), 0.7)).tolist() == [0]
    assert jnp.isnan(total_variation(box.at[0, 0, 0].set(jnp.nan)))[0]
