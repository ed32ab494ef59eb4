"""Prompts in a frozen transformer's last block, against the block written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, softmax

import fgjax
from fgjax.core.features import Features
from fgjax.models.composed.prompts import PromptNet
from fgjax.models.registry import NETWORKS

SIDE, CELLS, HEADS, WIDTH, CLASSES = 32, 16, 2, 24, 3


@pytest.fixture(scope="module")
def model():
    """Every weight is drawn: a fresh network has biases of 0 and scales of 1."""
    made = fgjax.create_model("prompts", CLASSES, backbone="toys:TOKENS", size=SIDE)
    rng = np.random.default_rng(1)
    stir = lambda leaf: leaf + jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32)
    return made.replace(variables=jax.tree.map(stir, made.variables))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((2, SIDE, SIDE, 3), np.float32))


@pytest.fixture(scope="module")
def found(model, images):
    """Logits, what goes into the last block, and the answers."""

    @jax.jit
    def all_of(model, images):
        features = model.features(images)
        return model(images), features, model.ask(features)

    return jax.tree.map(np.asarray, all_of(model, images))


def norm(x, weights):
    spread = np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return (x - x.mean(-1, keepdims=True)) / spread * weights["scale"] + weights["bias"]


def dense(x, weights):
    return x @ weights["kernel"] + weights["bias"]


def last_block(x, block):
    """Eq. 3 for all tokens of one image."""
    q, k, v = np.split(dense(norm(x, block["norm1"]), block["attention"]["qkv"]), 3, axis=-1)
    out, weights = [], []
    for head in np.split(np.arange(WIDTH), HEADS):
        w = softmax(q[:, head] @ k[:, head].T / np.sqrt(len(head)), axis=-1)
        weights.append(w)
        out.append(w @ v[:, head])
    x = x + dense(np.concatenate(out, axis=-1), block["attention"]["proj"])
    y = dense(norm(x, block["norm2"]), block["mlp"]["fc1"])
    return x + dense(y * (1 + erf(y / np.sqrt(2))) / 2, block["mlp"]["fc2"]), np.stack(weights)


def test_prompts_answer_as_written_out(model, found):
    logits, features, asked = found
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), model.variables["params"])
    trunk = params["trunk"]
    assert "classifier" not in trunk and features.grid.shape == (2, 4, 4, WIDTH)
    for i in range(2):
        # The order of tokens does not matter: here the prompts come last.
        own = np.concatenate([features.grid[i].reshape(CELLS, -1), features.tokens[i]])
        z, weights = last_block(np.concatenate([own, params["class_prompts"]]), trunk["blocks_1"])
        scores = norm(z[-CLASSES:], trunk["norm"]) @ params["classifier"]["kernel"][:, 0]
        np.testing.assert_allclose(asked.logits[i], scores, rtol=1e-4, atol=1e-4)
        looked = asked.weights[i][..., -CELLS:]
        np.testing.assert_allclose(looked, weights[:, -CLASSES:, :CELLS], atol=1e-5)
    np.testing.assert_allclose(asked.weights.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(logits, asked.logits)
    assert np.ptp(asked.logits, axis=1).min() > 1e-3  # classes differ, though w is one for all


def test_a_tap_changes_what_a_prompt_looks_at_and_no_other(model, found):
    _, features, asked = found
    tap = np.zeros_like(asked.weights)
    tap[:, :, 1, -CELLS:] = 0.05
    changed = jax.jit(lambda m, f, t: m.ask(f, t))(model, features, tap)
    moved = np.abs(np.asarray(changed.logits) - asked.logits)
    assert moved[:, 1].min() > 1e-3 and moved[:, [0, 2]].max() < 1e-5


@pytest.mark.parametrize(
    ("backbone", "size", "tokens", "grid"),
    [
        ("vit_small_patch16_dinov3", 64, 5, 4),
        ("vit_base_patch16_siglip_gap_224", 64, 0, 4),
    ],
)
def test_it_goes_with_transformers_of_every_kind(backbone, size, tokens, grid):
    """Without a class token, too, what prompts see is what goes into the last block."""
    network = PromptNet(4, backbone)
    image = jnp.zeros((1, size, size, 3))
    logits, variables = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), image))
    assert logits.shape == (1, 4)
    look = lambda v: network.apply(v, image, method="features")
    features = jax.eval_shape(look, variables)
    assert isinstance(features, Features)
    width = variables["params"]["class_prompts"].shape[1]
    assert features.grid.shape == (1, grid, grid, width) and features.tokens.shape[1] == tokens


def test_other_networks_take_no_prompts():
    assert not any(n.startswith(("resnet", "swin", "prompts")) for n, network in NETWORKS.items()
                   if NETWORKS["prompts"].fits(network))  # fmt: skip
    with pytest.raises(
        ValueError, match="no prompts are given to 'resnet18': one of vit_base_patch14"
    ):
        fgjax.create_model("prompts", 3, backbone="resnet18", size=32)
    with pytest.raises(ValueError, match="prompts has patches of 8 px: a size of 36"):
        fgjax.create_model("prompts", 3, backbone="vit_tiny", size=36)
