"""HiResCAM, LayerCAM and Finer-CAM, against their formulas in NumPy and finite differences.

The features are as large as the image, so that nothing is enlarged.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
from fgjax.attribution.finer_cam import difference

SIDE, CHANNELS, CLASSES = 6, 4, 5
TARGETS = jnp.array([3, 0], jnp.int32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Head:
    """Features of a pixel alone; a head that reads every place by itself, or their mean."""

    kernel: jax.Array  # 3 k
    weights: jax.Array  # h w k c, or k c
    bias: jax.Array

    def features(self, images):
        return jnp.tanh(jnp.einsum("nhwc,ck->nhwk", images, self.kernel, precision="highest"))

    def head(self, features):
        if self.weights.ndim == 2:
            features = features.mean((1, 2))
            return jnp.einsum("nk,kc->nc", features, self.weights, precision="highest") + self.bias
        return jnp.einsum("nhwk,hwkc->nc", features, self.weights, precision="highest") + self.bias

    def __call__(self, images):
        return self.head(self.features(images))


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


KERNEL, BIAS = draw(3, CHANNELS), draw(1, CLASSES)
PLACES = Head(KERNEL, draw(SIDE, SIDE, CHANNELS, CLASSES), BIAS)
POOLED = Head(KERNEL, 3 * draw(CHANNELS, CLASSES), BIAS)
IMAGES = jnp.asarray(np.random.default_rng(1).random((2, SIDE, SIDE, 3)), jnp.float32)


def scaled(signed):
    high = signed.max((1, 2), keepdims=True)
    return np.maximum(signed, 0) / high


def gradients():
    """Of the head that reads places, by a weight for each: the features and ∂s_c/∂A."""
    weights = np.asarray(PLACES.weights)
    own = np.stack([weights[..., int(target)] for target in TARGETS])
    return np.asarray(PLACES.features(IMAGES)), own


def test_hires_cam_adds_up_to_the_score():
    features, gradient = gradients()
    found = fgjax.hires_cam(PLACES, IMAGES, TARGETS)
    wanted = (features * gradient).sum(-1)
    np.testing.assert_allclose(found.maps["signed"], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.heatmap, scaled(wanted), rtol=1e-4, atol=1e-5)
    scores = np.asarray(PLACES(IMAGES) - BIAS)[np.arange(2), np.asarray(TARGETS)]
    np.testing.assert_allclose(found.maps["signed"].sum((1, 2)), scores, rtol=1e-4)


def test_hires_cam_behind_pooling_is_grad_cam():
    ours = fgjax.hires_cam(POOLED, IMAGES, TARGETS)
    theirs = fgjax.grad_cam(POOLED, IMAGES, TARGETS)
    np.testing.assert_allclose(ours.heatmap, theirs.heatmap, rtol=1e-4, atol=1e-5)
    averaged = fgjax.grad_cam(PLACES, IMAGES, TARGETS)
    assert np.abs(averaged.heatmap - fgjax.hires_cam(PLACES, IMAGES, TARGETS).heatmap).max() > 0.1


def test_layer_cam_weighs_by_positive_gradients():
    features, gradient = gradients()
    found = fgjax.layer_cam(PLACES, IMAGES, TARGETS)
    wanted = (features * np.maximum(gradient, 0)).sum(-1)
    np.testing.assert_allclose(found.maps["signed"], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.heatmap, scaled(wanted), rtol=1e-4, atol=1e-5)


def released(logits, target, rivals, strength):
    """The weighted target of the authors' code, of one image, in plain words."""
    order = sorted(range(len(logits)), key=lambda k: abs(logits[k] - logits[target]))
    near = [k for k in order if k != target][:rivals]
    p = np.exp(logits - logits.max())
    p /= p.sum()
    total = sum(p[k] * (logits[target] - strength * logits[k]) for k in near)
    return total / sum(p[k] for k in near)


def test_the_difference_is_that_of_the_authors_code():
    logits = np.asarray(draw(7, CLASSES), np.float64)
    targets = np.arange(7) % CLASSES
    for rivals, strength in ((3, 1.0), (2, 0.6), (9, 0.3)):
        found = difference(jnp.asarray(logits, jnp.float32), targets, rivals=rivals,
                           strength=strength)  # fmt: skip
        wanted = [released(row, t, rivals, strength) for row, t in zip(logits, targets)]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_finer_cam_differentiates_through_the_weights():
    """Against finite differences of the authors' target by each channel's mean, in float64."""
    features = np.asarray(POOLED.features(IMAGES), np.float64)
    weights, bias = np.asarray(POOLED.weights, np.float64), np.asarray(BIAS, np.float64)[0]
    found = fgjax.finer_cam(POOLED, IMAGES, TARGETS)
    for i, target in enumerate(np.asarray(TARGETS)):
        mean = features[i].mean((0, 1))
        score = lambda x, t=target: released(x @ weights + bias, t, 3, 1.0)
        step = 1e-6 * np.eye(CHANNELS)
        gradient = np.array([(score(mean + s) - score(mean - s)) / 2e-6 for s in step])
        wanted = features[i] @ gradient / SIDE**2
        np.testing.assert_allclose(found.maps["signed"][i], wanted, rtol=1e-3, atol=1e-6)


def test_finer_cam_with_equal_weights_is_a_difference_of_class_maps():
    config = fgjax.FinerCamConfig(rivals=4, strength=0.5, weigh="equal")
    found = fgjax.finer_cam(POOLED, IMAGES, TARGETS, config=config)
    features, weights = np.asarray(POOLED.features(IMAGES)), np.asarray(POOLED.weights)
    for i, target in enumerate(np.asarray(TARGETS)):
        others = np.delete(weights, target, axis=1).mean(1)
        wanted = features[i] @ (weights[:, target] - 0.5 * others) / SIDE**2
        np.testing.assert_allclose(found.maps["signed"][i], wanted, rtol=1e-4, atol=1e-6)
    none = fgjax.FinerCamConfig(strength=0.0, weigh="equal")
    plain = fgjax.finer_cam(POOLED, IMAGES, TARGETS, config=none)
    theirs = fgjax.grad_cam(POOLED, IMAGES, TARGETS)
    np.testing.assert_allclose(plain.heatmap, theirs.heatmap, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit(untyped):
    with pytest.raises(ValueError, match="finer_cam needs the model's last feature map"):
        fgjax.finer_cam(lambda x: x.mean((1, 2)), IMAGES, jnp.array([0, 1]))
    one = Head(KERNEL, POOLED.weights[:, :1], BIAS[:, :1])
    with pytest.raises(ValueError, match="one class only"):
        fgjax.finer_cam(one, IMAGES, jnp.array([0, 0]))
    for wrong in (dict(rivals=0), dict(strength=-1.0), dict(weigh="equally")):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fgjax.FinerCamConfig(**wrong)


def test_nan_stays_with_its_image():
    broken = jnp.asarray(np.stack([np.full((SIDE, SIDE, 3), 0.5), np.zeros((SIDE, SIDE, 3))]),
                         jnp.float32)  # fmt: skip
    model = Head(KERNEL, POOLED.weights, BIAS.at[0, 1].set(jnp.nan))
    for method in (fgjax.finer_cam,):
        assert np.isnan(method(model, broken, TARGETS).heatmap).all()
    clean = fgjax.finer_cam(POOLED, broken, TARGETS).heatmap
    assert np.isfinite(clean).all() and (clean[1] == 0).all()  # features of black are 0
