"""Non-negative factors: known ones are found, and least squares against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from fgjax.models.composed.factorisation import factor_maps, factorise


@pytest.fixture(scope="module")
def known():
    """Cells that are mixtures of three factors; each factor is alone in some cells and has a
    channel of its own, so that no other three make them up."""
    rng = np.random.default_rng(0)
    w = rng.uniform(0, 2, (300, 3)) * (rng.random((300, 3)) < 0.5)
    h = rng.uniform(0, 1, (3, 8)) * (1 - np.pad(1 - np.eye(3), ((0, 0), (0, 5))))
    return w.astype(np.float32), h.astype(np.float32)


@pytest.fixture(scope="module")
def found(known):
    w, h = known
    key = jax.random.key(0)
    return [np.asarray(v) for v in factorise(jnp.asarray(w @ h), 3, key=key, sweeps=3000)]


def test_known_factors_are_found_up_to_order_and_length(known, found):
    length = np.linalg.norm(known[1], axis=1)
    cosines = found[1] @ (known[1] / length[:, None]).T
    order = cosines.argmax(0)
    assert sorted(order) == [0, 1, 2] and cosines.max(0).min() > 0.99999
    np.testing.assert_allclose(np.linalg.norm(found[1], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found[0][:, order], known[0] * length, atol=2e-3)
    assert min(v.min() for v in found) >= 0


def test_the_error_never_grows(known):
    v = known[0] @ known[1] + np.random.default_rng(1).uniform(0, 0.5, (300, 8))
    errors = []
    for sweeps in (1, 4, 16, 64):
        w, h = factorise(jnp.asarray(v, jnp.float32), 3, key=jax.random.key(1), sweeps=sweeps)
        errors.append(float(((v - np.asarray(w @ h)) ** 2).sum()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]


def test_maps_of_other_images_are_non_negative_least_squares(found):
    features = np.random.default_rng(2).normal(0.3, 1, (2, 3, 4, 8)).astype(np.float32)
    maps = np.asarray(factor_maps(jnp.asarray(features), jnp.asarray(found[1])))
    cells = np.maximum(features, 0).reshape(-1, 8)
    wanted = [nnls(found[1].T.astype(float), cell.astype(float))[0] for cell in cells]
    np.testing.assert_allclose(maps.reshape(-1, 3), wanted, atol=1e-4)
