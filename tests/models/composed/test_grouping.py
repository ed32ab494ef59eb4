"""Grouping against the equations in NumPy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import fgjax
from fgjax.models.composed.grouping import group_pixels, pixel_attribution, soft_centroids


def equations(x, d, sigma):
    """Eqs. 1 and 3 as they are written, float64."""
    scaled = (x[..., None, :] - d) / sigma[:, None]
    energy = -(scaled**2).sum(-1) / 2
    q = np.exp(energy - energy.max(-1, keepdims=True))
    q /= q.sum(-1, keepdims=True)
    z = (q[..., None] * scaled).sum((1, 2)) / q.sum((1, 2))[..., None]
    return q, z / np.linalg.norm(z, axis=-1, keepdims=True)


def draw(n=2, h=5, w=4, d=16, k=3, scale=1.0, offset=0.0):
    rng = np.random.default_rng(0)
    x = rng.normal(offset, scale, (n, h, w, d))
    return x, rng.normal(offset, scale, (k, d)), rng.uniform(0.5, 0.9, k)


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_it_is_the_paper_s_equations(offset):
    given = [v.astype(np.float32) for v in draw(offset=offset, scale=0.5)]
    q, z = fgjax.group_pixels(*map(jnp.asarray, given))
    wanted_q, wanted_z = equations(*(v.astype(np.float64) for v in given))
    np.testing.assert_allclose(q, wanted_q, atol=1e-5)
    np.testing.assert_allclose(z, wanted_z, atol=1e-5)
    np.testing.assert_allclose(q.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(z, axis=-1), 1, atol=1e-6)


def test_wide_features_of_a_relu():
    """As many as a ResNet has, and all positive: long vectors, of which little is left."""
    rng = np.random.default_rng(1)
    x = rng.gamma(1.0, 0.3, (1, 4, 4, 1024)).astype(np.float32)
    d = np.maximum(rng.normal(0, 0.05, (5, 1024)), 1e-5).astype(np.float32)
    sigma = np.full(5, 0.5, np.float32)
    q, z = group_pixels(*map(jnp.asarray, (x, d, sigma)))
    wanted_q, wanted_z = equations(*(v.astype(np.float64) for v in (x, d, sigma)))
    np.testing.assert_allclose(q, wanted_q, atol=5e-4)  # of exponents near 1000, in float32
    np.testing.assert_allclose(z, wanted_z, atol=1e-5)


@pytest.mark.parametrize("output", [0, 1])
def test_gradients_are_finite_differences(output):
    given = [jnp.asarray(v, jnp.float32) for v in draw(h=3, w=3, d=4, scale=0.5)]
    check_grads(jax.jit(lambda *a: group_pixels(*a)[output]), given, 1, ["rev"], 2e-2, 2e-2, 1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", ["one image", "one part", "far part", "on the part", "tiny sigma"])
def test_extremes_are_finite(dtype, case):
    x, d, sigma = (jnp.asarray(v, dtype) for v in draw(n=1, scale=0.5))
    if case == "one part":
        d, sigma = d[:1], sigma[:1]
    elif case == "far part":
        d = d.at[0].set(100.0)  # its q is 0 in float32 everywhere
    elif case == "on the part":
        x = jnp.broadcast_to(d[0], x.shape)
    elif case == "tiny sigma":
        sigma = sigma.at[0].set(1e-3)

    def total(x, d, sigma):
        q, z = group_pixels(x, d, sigma)
        return (jnp.cos(q).sum() + jnp.sin(3 * z).sum()), (q, z)

    both = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))
    (_, (q, z)), grads = both(x, d, sigma)
    for value in (q, z, *grads):
        assert np.isfinite(value.astype(jnp.float32)).all()
    np.testing.assert_allclose(q.sum(-1), 1, atol=1e-5)
    if case == "far part":
        assert float(q[..., 0].max()) == 0
        np.testing.assert_allclose(jnp.linalg.norm(z, axis=-1), 1, atol=1e-5)


def test_centroids_are_where_the_mass_is():
    q = np.zeros((1, 4, 6, 3), np.float32)
    q[0, 1, 4, 0] = 1  # one cell
    q[0, :, :, 1] = 1  # everywhere: the middle
    places = soft_centroids(jnp.asarray(q))
    np.testing.assert_allclose(places[0, :2], [[4.5, 1.5], [3, 2]], atol=1e-6)
    assert np.isnan(places[0, 2]).all()  # nowhere


def test_a_pixel_gets_the_attention_of_its_parts():
    rng = np.random.default_rng(0)
    q, a = rng.dirichlet(np.ones(3), (2, 4, 5)), rng.dirichlet(np.ones(3), 2)
    found = pixel_attribution(jnp.asarray(q, jnp.float32), jnp.asarray(a, jnp.float32))
    wanted = np.stack([(q[i].reshape(20, 3) @ a[i]).reshape(4, 5) for i in range(2)])
    np.testing.assert_allclose(found, wanted, atol=1e-6)
