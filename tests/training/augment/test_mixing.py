"""Mixed images are what their papers say, and so are the shares of their labels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import find_objects, label, uniform_filter

from fgjax.models.classifier import create_model
from fgjax.training.augment.geometry_and_light import Augmentation
from fgjax.training.augment.mixing import (
    MIXING,
    Mixing,
    attentive_cutmix,
    cutmix,
    mixup,
    saliency,
    saliency_mix,
)
from fgjax.training.classifier import Recipe, start, train_step
from fgjax.training.objectives.losses import cross_entropy, jensen_shannon
from fgjax.training.optimizer import make_optimizer


def images(n=32, height=28, width=36):
    return jnp.asarray(np.random.default_rng(0).random((n, height, width, 3)), jnp.float32)


def pasted(x, mixed):
    """Where the partner's pixels stand; elsewhere the image's own must."""
    own, partner, result = np.asarray(x), np.asarray(x)[mixed.partner], np.asarray(mixed.images)
    inside = (result != own).any(-1)
    np.testing.assert_array_equal(result[inside], partner[inside])
    return inside


def test_mixup_is_the_weighted_mean(key):
    x = images()
    mixed = jax.jit(partial(mixup, alpha=0.4))(key, x)
    own = np.asarray(mixed.share)[:, None, None, None]
    np.testing.assert_allclose(mixed.images, own * x + (1 - own) * x[mixed.partner], atol=1e-6)
    assert sorted(mixed.partner.tolist()) == list(range(32))
    draw = jax.jit(partial(mixup, alpha=0.4))
    shares = np.asarray(draw(key, images(4000, 1, 1)).share)
    assert abs(shares.mean() - 0.5) < 0.02
    assert abs(shares.var() - 0.25 / (2 * 0.4 + 1)) < 0.01  # of Beta(α, α)


@pytest.mark.parametrize("method", [cutmix, saliency_mix])
def test_a_box_of_the_partner_and_the_share_of_its_pixels(method, key):
    x = images()
    mixed = jax.jit(method)(key, x)
    inside = pasted(x, mixed)
    kept = np.asarray(mixed.partner) == np.arange(32)  # such an image is itself, whatever the box
    np.testing.assert_allclose(mixed.share[~kept], 1 - inside[~kept].mean((1, 2)), atol=1e-6)
    assert (~kept).sum() > 20
    for mask in inside[~kept]:
        if mask.any():
            (place,) = find_objects(label(mask)[0])
            assert mask[place].all()


def test_boxes_of_cutmix_have_beta_areas(key):
    wide, narrow = (jax.jit(partial(cutmix, alpha=alpha)) for alpha in (1.0, 200.0))
    shares = np.asarray(wide(key, images(1000, 20, 20)).share)
    # λ is uniform for α = 1; the border cuts boxes, so more of the image is left.
    assert 0.55 < shares.mean() < 0.75 and shares.min() < 0.2 and shares.max() > 0.98
    narrow = np.asarray(narrow(key, images(1000, 20, 20)).share)
    assert narrow.std() < 0.7 * shares.std() and narrow.min() > 0.4


def test_attentive_cutmix_pastes_the_most_attended_cells_where_they_lie(key):
    x = images(16, 28, 28)
    attention = np.random.default_rng(1).random((16, 7, 7)).astype(np.float32)
    mixed = jax.jit(partial(attentive_cutmix, patches=6))(key, x, jnp.asarray(attention))
    inside = pasted(x, mixed)
    partner = np.asarray(mixed.partner)
    for own, mask in enumerate(inside):
        if partner[own] == own:
            continue
        cells = mask.reshape(7, 4, 7, 4)
        assert (cells.any((1, 3)) == cells.all((1, 3))).all()
        found = np.flatnonzero(cells.all((1, 3)).reshape(-1))
        best = np.argsort(attention[partner[own]].reshape(-1))[-6:]
        assert set(found) == set(best)
    np.testing.assert_allclose(mixed.share, 1 - 6 / 49, atol=1e-6)


def test_saliency_is_the_difference_from_box_means():
    x = images(3, 64, 80)
    light = np.asarray(x, np.float64) @ np.array([0.299, 0.587, 0.114])
    expected = sum(
        np.abs(light - uniform_filter(light, (0, 2 * r + 1, 2 * r + 1), mode="nearest"))
        for r in (8, 4, 2)
    )
    np.testing.assert_allclose(jax.jit(saliency)(x), expected, atol=1e-5)


def test_saliency_mix_cuts_around_what_stands_out(key):
    x = np.full((8, 64, 64, 3), 0.3, np.float32)
    for i in range(8):
        x[i, 8 + 6 * i, 50 - 5 * i] = 1  # one bright pixel
    mixed = jax.jit(partial(saliency_mix, alpha=50.0))(key, jnp.asarray(x))
    for own, partner in enumerate(np.asarray(mixed.partner)):
        # The box is half of the image: the pixel is in it, and stays where it was.
        assert mixed.images[own, 8 + 6 * partner, 50 - 5 * partner, 0] == 1


def test_by_name_and_probability(key):
    x = images(8)
    np.testing.assert_array_equal(Mixing()(key, x).images, x)
    draw = jax.jit(Mixing("cutmix", probability=0.5))
    taken = [draw(jax.random.key(i), x) for i in range(40)]
    count = sum(bool((mixed.share < 1).any()) for mixed in taken)
    assert 10 < count < 30
    for mixed in taken:
        if (mixed.share == 1).all():
            np.testing.assert_array_equal(mixed.images, x)


def test_the_mixed_loss_is_linear_in_the_labels(key):
    """With one-hot targets mixed first, and cross-entropy after."""
    x, labels = images(16), jnp.arange(16) % 5
    mixed = jax.jit(mixup)(key, x)
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(16, 5)), jnp.float32)
    smooth = 0.1
    target = np.eye(5)[np.asarray(labels)] * (1 - smooth) + smooth / 5
    share = np.asarray(mixed.share)[:, None]
    target = share * target + (1 - share) * target[mixed.partner]
    expected = -(target * np.asarray(jax.nn.log_softmax(logits))).sum(1).mean()
    np.testing.assert_allclose(Mixing("mixup").loss(logits, labels, mixed, smooth), expected,
                               rtol=1e-5)  # fmt: skip
    alone = Mixing()(key, x)
    np.testing.assert_allclose(
        Mixing().loss(logits, labels, alone, smooth), cross_entropy(logits, labels, smooth).mean()
    )


def test_augmix_adds_twelve_times_the_divergence():
    labels, logits = jnp.arange(4) % 3, np.random.default_rng(2).normal(size=(12, 3))
    logits = jnp.asarray(logits, jnp.float32)
    views = jnp.stack([logits[:4], logits[4:8], logits[8:]])
    expected = cross_entropy(logits[:4], labels) + 12 * jensen_shannon(views)
    alone = Mixing()(jax.random.key(0), images(4))
    np.testing.assert_allclose(
        Mixing("augmix").loss(logits, labels, alone, 0.0), expected.mean(), rtol=1e-5
    )


@pytest.mark.slow
def test_augmix_makes_two_versions_of_each(key):
    x = images(4, 16, 16)
    mixed = Mixing("augmix")(key, x)
    assert mixed.images.shape == (12, 16, 16, 3)
    np.testing.assert_array_equal(mixed.images[:4], x)
    assert (mixed.images[4:8] != mixed.images[8:]).any()


@pytest.fixture(scope="module")
def model():
    return create_model("toys:MICRO", 2, size=16)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXING)
def test_every_mixing_learns(model, name):
    rng, labels = np.random.default_rng(0), jnp.arange(8, dtype=jnp.int32) % 2
    pixels = rng.integers(0, 120, (8, 16, 16, 3), np.uint8)
    pixels[::2, ..., 0] += 100
    pixels[1::2, ..., 2] += 100
    recipe = Recipe(make_optimizer(30, 3e-3), Augmentation(flip=False), mix=Mixing(name))
    state = jax.tree.map(jnp.array, start(model, recipe))
    losses = []
    for _ in range(12):
        state, loss = train_step(
            state, jnp.asarray(pixels), labels, jax.random.key(0), network=model.network,
            mean=model.mean, std=model.std, recipe=recipe,
        )  # fmt: skip
        losses.append(float(loss))
    assert np.isfinite(losses).all() and np.mean(losses[-4:]) < np.mean(losses[:4])
