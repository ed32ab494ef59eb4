"""Attention methods on a toy whose weights are drawn, against NumPy and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from fgjax.attribution.attention import (
    AttentionRolloutConfig,
    attention_relevance,
    attention_rollout,
)
from fgjax.attribution.cam import feature_gradient, grad_cam
from fgjax.core.features import Attended, Features
from fgjax.models.classifier import create_model

SIDE, BLOCK, WIDTH = 16, 4, 3
CELLS = (SIDE // BLOCK) ** 2
TARGETS = jnp.asarray([1, 0])


@struct.dataclass
class Looks:
    """A class token and cells that are block means; two rounds of attention with drawn scores."""

    scores: jax.Array  # of two rounds, two heads, every pair of tokens
    head_weights: jax.Array

    def features(self, images):
        n, h, w, c = images.shape
        grid = images.reshape(n, h // BLOCK, BLOCK, w // BLOCK, BLOCK, c).mean((2, 4))
        return Features(grid, jnp.zeros((n, 1, c)))

    def attend(self, images, taps=None):
        grid, token = self.features(images)
        x = jnp.concatenate([token, grid.reshape(len(grid), CELLS, -1)], axis=1)
        made = []
        for i, scores in enumerate(self.scores):
            weights = jnp.broadcast_to(jax.nn.softmax(scores), (len(x), *scores.shape))
            weights = weights if taps is None else weights + taps[i]
            x = x + (weights @ x[:, None]).mean(1)
            made.append(weights)
        readout = jnp.zeros((len(x), CELLS + 1)).at[:, 0].set(1)
        return Attended(x[:, 0] @ self.head_weights, made, readout)

    def __call__(self, images):
        return self.attend(images).logits


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    scores = jnp.asarray(rng.normal(size=(2, 2, CELLS + 1, CELLS + 1)) * 2, jnp.float32)
    return Looks(scores, jnp.asarray(rng.normal(size=(WIDTH, 3)), jnp.float32))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(1).random((2, SIDE, SIDE, 3), np.float32))


def enlarged(cells):
    from fgjax.attribution.cam import enlarge

    return enlarge(jnp.asarray(cells.reshape(-1, 4, 4), jnp.float32), SIDE, SIDE)


@pytest.mark.parametrize("fuse", ["mean", "max"])
def test_rollout_is_the_product_of_the_blocks(model, images, fuse):
    result = attention_rollout(model, images, TARGETS, config=AttentionRolloutConfig(fuse))
    product = np.eye(CELLS + 1)
    for scores in np.asarray(model.scores, np.float64):
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        weights = getattr(weights, fuse)(0)
        weights /= weights.sum(-1, keepdims=True)
        product = (weights + np.eye(CELLS + 1)) / 2 @ product
    expected = enlarged(np.tile(product[0, 1:], (2, 1)))
    np.testing.assert_allclose(result.maps["cells"], expected, rtol=1e-4)
    assert float(result.heatmap.max()) == pytest.approx(1)


def test_relevance_weighs_attention_by_its_finite_difference(model, images):
    result = attention_relevance(model, images, TARGETS)
    weights = [np.asarray(w, np.float64) for w in model.attend(images).weights]
    grid, token = model.features(images)
    x = np.concatenate([token, np.asarray(grid).reshape(2, CELLS, -1)], axis=1).astype(np.float64)

    def scores(weights):
        out = x
        for w in weights:
            out = out + (w @ out[:, None]).mean(1)
        logits = out[:, 0] @ np.asarray(model.head_weights, np.float64)
        return logits[np.arange(2), np.asarray(TARGETS)]

    found = np.stack([np.eye(CELLS + 1)] * 2)
    for i, block in enumerate(weights):
        gradient = np.zeros_like(block)
        # The score is linear in each block's weights: any step gives the derivative.
        for place in np.ndindex(block.shape[1:]):
            moved = block.copy()
            moved[(slice(None), *place)] += 1
            both = [moved if j == i else w for j, w in enumerate(weights)]
            gradient[(slice(None), *place)] = scores(both) - scores(weights)
        found = found + np.maximum(gradient * block, 0).mean(1) @ found
    expected = enlarged(found[:, 0, 1:])
    np.testing.assert_allclose(result.maps["cells"], expected, rtol=1e-3, atol=1e-6)


def test_a_network_without_attention_is_told_so():
    cnn = create_model("resnet_tiny", 3, size=32)
    images = jnp.full((1, 32, 32, 3), 0.5)
    for method in (attention_rollout, attention_relevance):
        with pytest.raises(ValueError, match="resnet_tiny has no attend.* a ViT of fgjax has"):
            method(cnn, images, jnp.asarray([0]))


def test_cams_use_the_grid_of_a_tuple(images):
    """The head reads the token, which attends to the cells: w is known in closed form."""

    @struct.dataclass
    class ByToken:
        head_weights: jax.Array

        def features(self, images):
            grid = images.reshape(2, 4, BLOCK, 4, BLOCK, 3).mean((2, 4))
            return (grid, jnp.ones((2, 1, 3)))

        def head(self, features):
            grid, tokens = features
            mixed = tokens[:, 0] + (grid.reshape(2, -1, 3) * jnp.arange(16.0)[None, :, None]).sum(1)
            return mixed @ self.head_weights

        def __call__(self, images):
            return self.head(self.features(images))

    weights = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2)), jnp.float32)
    model = ByToken(weights)
    grid, gradient = feature_gradient(model, images, TARGETS)
    w = np.asarray(weights).T[np.asarray(TARGETS)]
    expected = np.arange(16.0).reshape(1, 4, 4, 1) * w[:, None, None]
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
    signed = (np.asarray(grid) * 7.5 * w[:, None, None]).sum(-1)
    found = grad_cam(model, images, TARGETS).maps["signed"]
    np.testing.assert_allclose(found, enlarged(signed), rtol=1e-4, atol=1e-4)
