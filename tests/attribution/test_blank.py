"""A model that sees nothing: every method that asks for scores has a blank map and says why."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
from fgjax.attribution.glas import mixture, search_points
from fgjax.core.floor import FLOOR

IMAGES = jnp.asarray(np.random.default_rng(0).random((2, 16, 16, 3)), jnp.float32)
TARGETS = jnp.zeros(2, jnp.int32)


def one_logit(images):
    """The softmax of one class is 1, whatever the logit."""
    return images.mean((1, 2, 3))[:, None]


def rounding(images):
    """0.7 with the last bits of float32 in disorder, as another order of sums leaves them."""
    noise = jnp.sin(1e4 * images.sum((1, 2, 3)))
    return (0.7 * (1 + 2e-7 * noise))[:, None]


METHODS = {
    "lime": fgjax.LimeConfig(samples=20, segments=6),
    "rise": fgjax.RiseConfig(masks=24),
    "glas": fgjax.GlasConfig(grid=3),
    "recursive_glas": fgjax.RecursiveGlasConfig(grid=3, rounds=2),
    "occlusion": fgjax.OcclusionConfig(window=100, stride=60),
    "extremal_perturbation": fgjax.ExtremalPerturbationConfig(steps=3, areas=(0.2,), cell=28),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", [one_logit, rounding])
def test_a_constant_model_has_blank_maps(method, model):
    score = "probability" if model is one_logit else "logit"
    config = type(METHODS[method])(**(vars(METHODS[method]) | {"score": score}))
    result = fgjax.METHODS[method](model, IMAGES, TARGETS, key=jax.random.key(0), config=config)
    assert not np.asarray(result.heatmap).any()
    assert (result.traces["spread"] <= FLOOR).all() and result.traces["spread"].shape == (2, 1)
    for name in ("light", "shadow", "round_1"):
        assert not np.asarray(result.maps.get(name, jnp.zeros(1))).any()


class Head:
    """Features that vary, and a head that does not read them."""

    def features(self, images):
        return images[:, ::4, ::4]

    def head(self, features):
        return jnp.zeros((len(features), 2))

    def __call__(self, images):
        return self.head(self.features(images))


jax.tree_util.register_pytree_node(Head, lambda h: ((), None), lambda *_: Head())


@pytest.mark.parametrize("weights", ["score", "softmax", "increase"])
def test_score_cam_of_a_constant_head(weights):
    config = fgjax.ScoreCamConfig(weights=weights)
    result = fgjax.score_cam(Head(), IMAGES, TARGETS, config=config)
    assert not np.asarray(result.heatmap).any() and (result.traces["spread"] == 0).all()


def test_equal_answers_fall_off_at_the_border_by_eq_3_and_do_not_as_a_weighted_mean():
    sizes, sigma = (20, 24), np.full(2, 6, np.float32)
    points = search_points(sizes, 4)
    values = jnp.full((1, 16), 0.3)
    raw = mixture(values, points, sigma, sizes)[0]
    assert raw[0, 0] < 0.8 * raw[10, 12]
    np.testing.assert_allclose(
        mixture(values, points, sigma, sizes, normalise="weights"), 0.3, rtol=1e-5
    )


def test_the_weighted_mean_in_numpy():
    rng = np.random.default_rng(1)
    sizes, points = (7, 9), search_points((7, 9), 3)
    values, alive = rng.random((1, 9)), rng.random((1, 9)) > 0.3
    y, x = (axis + 0.5 for axis in np.mgrid[:7, :9])
    weight = (
        np.exp(-((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2) / 4.0**2)
        * alive[0]
    )
    expected = (weight * values[0]).sum(-1) / weight.sum(-1)
    ours = mixture(
        jnp.asarray(values, jnp.float32), points, np.full(2, 4, np.float32), sizes,
        jnp.asarray(alive), normalise="weights",
    )  # fmt: skip
    np.testing.assert_allclose(ours[0], expected, rtol=1e-5)
    nobody = mixture(
        jnp.ones((1, 9)), points, np.full(2, 4, np.float32), sizes, jnp.zeros((1, 9), bool),
        normalise="weights",
    )  # fmt: skip
    assert jnp.isnan(nobody).all()
