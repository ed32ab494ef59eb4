"""Methods whose sensitivity is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.core.keys import image_keys
from fgjax.evaluation import max_sensitivity, sensitivity_protocol

IMAGES = jnp.asarray(np.random.default_rng(0).random((3, 8, 10, 3)), jnp.float32)
TARGETS = jnp.array([2, 0, 1])


def model(images):
    return images.mean((1, 2))


def red(model, images, targets):
    """A map linear in the image."""
    return images[..., 0]


def test_equals_numpy_over_the_images_that_were_drawn(key):
    seen = []

    def explain(model, images, targets):
        assert targets is TARGETS
        seen.append(np.asarray(images, np.float64))
        return jnp.sin(5 * images[..., 0]) * images[..., 1]

    ours = max_sensitivity(explain, model, IMAGES, TARGETS, key=key, radius=0.1, samples=6)
    assert ours.shape == (3,) and ours.dtype == jnp.float32 and len(seen) == 7
    np.testing.assert_array_equal(seen[0], IMAGES)
    maps = [np.sin(5 * x[..., 0]) * x[..., 1] for x in seen]
    size = np.linalg.norm(maps[0], axis=(1, 2))
    change = [np.linalg.norm(one - maps[0], axis=(1, 2)) / size for one in maps[1:]]
    np.testing.assert_allclose(ours, np.max(change, axis=0), rtol=1e-4)

    moves = np.stack(seen[1:]) - seen[0]
    assert 0.099 < np.abs(moves).max() <= 0.1 + 1e-6
    assert np.min(seen) >= 0 and np.max(seen) <= 1
    inner = (seen[0] > 0.1) & (seen[0] < 0.9)  # where nothing is cut
    even = moves[:, inner]
    assert even.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.03)  # of an even distribution
    assert len({one.tobytes() for one in moves}) == 6 and abs(even.mean()) < 0.003


def test_known_cases(key):
    settings = {"key": key, "samples": 8}
    # A map that ignores the image has 0; one times its radius moves by as much.
    still = max_sensitivity(
        lambda m, x, t: jnp.ones(x.shape[:3]), model, IMAGES, TARGETS, **settings
    )
    assert still.tolist() == [0, 0, 0]
    grey = jnp.full_like(IMAGES, 0.5)
    small, large = (
        max_sensitivity(red, model, grey, TARGETS, radius=r, **settings) for r in (0.01, 0.1)
    )
    np.testing.assert_allclose(large, 10 * small, rtol=1e-3)
    # ‖U(−r, r)‖ / ‖0.5‖ is near r/√3 / 0.5, and never above r / 0.5.
    assert (large > 0.1 / np.sqrt(3) / 0.5).all() and (large < 0.2).all()
    more = max_sensitivity(red, model, grey, TARGETS, key=key, radius=0.1, samples=20)
    assert (more >= large).all()


def test_an_images_value_does_not_depend_on_its_neighbours(key):
    keys = jax.random.split(key, 3)
    whole = max_sensitivity(red, model, IMAGES, TARGETS, key=keys, samples=3)
    alone = max_sensitivity(red, model, IMAGES[1:2], TARGETS[1:2], key=keys[1:2], samples=3)
    np.testing.assert_allclose(whole[1:2], alone, rtol=1e-6)
    folded = max_sensitivity(red, model, IMAGES[:1], TARGETS[:1], key=key, samples=3)
    both = max_sensitivity(red, model, IMAGES[:2], TARGETS[:2], key=key, samples=3)
    np.testing.assert_allclose(both[:1], folded, rtol=1e-6)


def test_undefined_is_nan(key):
    images = IMAGES.at[0, ..., 0].set(0)  # a map of zeros

    def breaks(model, images, targets):  # a NaN once the image moves
        moved = jnp.any(images[1] != IMAGES[1])
        return images[..., 0].at[1, 0, 0].set(jnp.where(moved, jnp.nan, 1.0))

    value = max_sensitivity(breaks, model, images, TARGETS, key=key, samples=2)
    assert jnp.isnan(value).tolist() == [True, True, False]


def test_settings_are_checked_and_told(key):
    for wrong in ({"radius": 0.0}, {"samples": 0}, {"radius": float("nan")}):
        with pytest.raises(ValueError, match="radius=.*samples="):
            max_sensitivity(red, model, IMAGES, TARGETS, key=key, **wrong)
    with pytest.raises(ValueError, match=r"2 keys for 3 images"):
        max_sensitivity(red, model, IMAGES, TARGETS, key=jax.random.split(key, 2))
    with pytest.raises(ValueError, match="typed key"):
        image_keys(jax.random.PRNGKey(0), 2)
    told = sensitivity_protocol(radius=0.05, samples=7)
    assert "7 images" in told and "0.05" in told
