"""The recurrence and its readouts, against loops written out in NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, softmax

import fgjax
from fgjax.models.composed.recurrent_attention import (
    ReadOut,
    Recurrence,
    attend,
    attention_weights,
    spatial_basis,
    split_map,
)


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


def draw(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def test_soft_attention_is_the_weighted_sum_of_the_steps(rng):
    steps, weights = draw(rng, 3, 5, 4), draw(rng, 5, 4)
    alpha = softmax((steps * weights[None]).sum(2), axis=1)
    np.testing.assert_allclose(attention_weights(steps, weights), alpha, atol=1e-6)
    expected = (alpha[..., None] * steps).sum(1)
    np.testing.assert_allclose(fgjax.soft_attention(steps, weights), expected, atol=1e-6)


def test_soft_attention_by_hand():
    """Two steps whose scores are 0 and log 3 count a quarter and three quarters."""
    steps = jnp.asarray([[[0.0, 8.0], [1.0, 4.0]]])
    weights = jnp.asarray([[5.0, 0.0], [np.log(3.0), 0.0]], jnp.float32)
    np.testing.assert_allclose(fgjax.soft_attention(steps, weights), [[0.75, 5.0]], rtol=1e-6)


def cell(params, state, x):
    """A long short-term memory cell as Hochreiter & Schmidhuber's equations have it."""
    c, h = state
    gates = {
        g: x @ params[f"i{g}"]["kernel"] + h @ params[f"h{g}"]["kernel"] + params[f"h{g}"]["bias"]
        for g in "ifgo"
    }
    c = expit(gates["f"]) * c + expit(gates["i"]) * np.tanh(gates["g"])
    return (c, h := expit(gates["o"]) * np.tanh(c)), h


def randomised(variables, seed=1):
    """Biases start at 0, where a mistake with them would not show."""
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [0.3 * draw(rng, *leaf.shape) for leaf in leaves])


def test_the_recurrence_is_the_same_feature_through_stacked_cells(rng):
    net = Recurrence(steps=4, hidden=6, layers=2)
    features = draw(rng, 3, 2, 2, 5)
    variables = randomised(jax.eval_shape(net.init, jax.random.key(0), features))
    params = variables["params"]["step"]
    states, expected = [(np.zeros((3, 6)), np.zeros((3, 6)))] * 2, []
    for _ in range(4):
        x = features.mean((1, 2))
        for layer in range(2):
            states[layer], x = cell(params[f"lstm{layer + 1}"], states[layer], x)
        expected.append(x)
    ours = jax.jit(net.apply)(variables, features)
    assert ours.shape == (3, 4, 6)
    np.testing.assert_allclose(ours, np.stack(expected, axis=1), atol=1e-6)


def test_self_attention_asks_with_the_state_and_feeds_the_answer(rng):
    net = Recurrence(steps=3, hidden=6, self_attention=True, key_share=0.25, waves=2)
    features = draw(rng, 2, 3, 2, 8)
    variables = randomised(jax.eval_shape(net.init, jax.random.key(0), features))
    p = variables["params"]["step"]
    dense = lambda name, x: x @ p[name]["kernel"] + p[name]["bias"]
    relu = lambda x: np.maximum(x, 0)
    basis = np.broadcast_to(spatial_basis(3, 2, 2), (2, 3, 2, 4))
    keys = np.concatenate([features[..., :2], basis], -1).reshape(2, 6, 6)
    values = np.concatenate([features[..., 2:], basis], -1).reshape(2, 6, 10)
    states, expected = [(np.zeros((2, 6)), np.zeros((2, 6)))] * 2, []
    for _ in range(3):
        query = dense("query3", relu(dense("query2", relu(dense("query1", states[1][1])))))
        where = softmax((keys @ query[..., None])[..., 0] / np.sqrt(6), axis=1)
        x = dense("answer2", relu(dense("answer1", (where[..., None] * values).sum(1))))
        for layer in range(2):
            states[layer], x = cell(p[f"lstm{layer + 1}"], states[layer], x)
        expected.append(x)
    ours = jax.jit(net.apply)(variables, features)
    np.testing.assert_allclose(ours, np.stack(expected, axis=1), atol=1e-5)


def test_a_sharp_query_picks_one_place(rng):
    values = draw(rng, 1, 2, 2, 3)
    keys = np.zeros((1, 2, 2, 2), np.float32)
    keys[0, 1, 0] = [1, 0]
    answer, where = attend(jnp.asarray([[100.0, 0.0]]), keys, values)
    np.testing.assert_allclose(answer[0], values[0, 1, 0], atol=1e-5)
    assert where.shape == (1, 2, 2) and float(where.sum()) == pytest.approx(1)
    np.testing.assert_allclose(where[0, 1, 0], 1, atol=1e-5)


def test_the_basis_is_orthogonal_and_split_leaves_every_channel_once():
    basis = spatial_basis(5, 4, 4).reshape(20, 16)
    product = basis.T @ basis
    np.testing.assert_allclose(product - np.diag(np.diag(product)), 0, atol=1e-5)
    assert np.diag(product).min() > 1
    features = np.arange(2 * 5 * 4 * 8, dtype=np.float32).reshape(2, 5, 4, 8)
    keys, values = split_map(jnp.asarray(features), 0.25, 4)
    assert keys.shape[-1] == 2 + 16 and values.shape[-1] == 6 + 16
    joined = np.concatenate([keys[..., :2], values[..., :6]], axis=-1)
    np.testing.assert_array_equal(joined, features)


def read(readout, steps, **options):
    net = ReadOut(readout, **options)
    variables = jax.jit(net.init)(jax.random.key(0), steps)
    return np.asarray(jax.jit(net.apply)(variables, steps)), variables


def test_readouts(rng):
    steps = draw(rng, 2, 5, 3)
    np.testing.assert_array_equal(read("last", steps)[0], steps[:, 4])
    summed = read("sum", steps, first=2, last=4)[0]
    np.testing.assert_allclose(summed, steps[:, 1] + steps[:, 2] + steps[:, 3], rtol=1e-6)
    np.testing.assert_array_equal(read("sum", steps, first=3, last=3)[0], steps[:, 2])
    attended, variables = read("attention", steps)
    np.testing.assert_allclose(attended, steps.mean(1), atol=1e-6)  # before it has learned
    assert variables["params"]["weights"].shape == (5, 3)


def test_only_the_features_are_in_the_scan():
    """The program of a whole two-stream network: no convolution inside a loop, and each stream's
    convolutions are there once, however many steps there are."""

    def convolutions(jaxpr, inside=False):
        found = []
        for equation in jaxpr.eqns:
            name = equation.primitive.name
            if name == "conv_general_dilated":
                found.append(inside)
            for value in equation.params.values():
                for part in value if isinstance(value, (tuple, list)) else [value]:
                    part = getattr(part, "jaxpr", part)
                    if hasattr(part, "eqns"):
                        found += convolutions(part, inside or name in ("scan", "while"))
        return found

    counts, scans = [], []
    for steps in (2, 7):
        options = dict(backbone="toys:MICRO", steps=steps, hidden=4, patch_size=32)
        model = jax.eval_shape(lambda: fgjax.create_model("two_stream", 3, **options))  # noqa: B023
        jaxpr = jax.make_jaxpr(lambda m, x: m(x))(model, jnp.zeros((1, 64, 64, 3))).jaxpr
        counts.append(len(found := convolutions(jaxpr)))
        assert not any(found)
        scans.append("scan" in str(jaxpr))
    alone = jax.eval_shape(lambda: fgjax.create_model("toys:MICRO", 3))
    jaxpr = jax.make_jaxpr(lambda m, x: m(x))(alone, jnp.zeros((1, 64, 64, 3))).jaxpr
    assert counts == [2 * len(convolutions(jaxpr))] * 2 and all(scans)


def test_a_convolution_in_a_loop_would_be_seen():
    """That the test above can fail."""

    class Looped(nn.Module):
        @nn.compact
        def __call__(self, x):
            def body(module, carry, _):
                return nn.Conv(3, (3, 3))(carry), None

            loop = nn.scan(
                body, variable_broadcast="params", split_rngs={"params": False}, length=2
            )
            return loop(self, x, None)[0]

    x = jnp.zeros((1, 8, 8, 3))
    net = Looped()
    jaxpr = jax.make_jaxpr(net.apply)(net.init(jax.random.key(0), x), x).jaxpr
    inner = [e.params["jaxpr"].jaxpr for e in jaxpr.eqns if e.primitive.name == "scan"]
    assert "conv_general_dilated" in str(inner[0])
