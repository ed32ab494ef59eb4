"""The recurrence, the attention and the losses against PyTorch's, and their gradients.

Needs the extra `parity`; see the README on how to install it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
from fgjax.models.composed.recurrent_attention import Recurrence, attend
from fgjax.models.composed.two_stream import Streams
from fgjax.training.objectives.ranking import StreamLoss

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install "fgjax[parity]"')
functional = torch.nn.functional

T, D, N, C = 10, 512, 4, 96


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ours_from(lstm) -> dict:
    """PyTorch's weights in Flax's layout: gates in the order i, f, g, o; the biases added up."""
    step = {}
    for layer in range(lstm.num_layers):
        kinds = {
            name: getattr(lstm, f"{name}_l{layer}").detach().numpy()
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        bias = kinds["bias_ih"] + kinds["bias_hh"]
        cell = {}
        for i, gate in enumerate("ifgo"):
            part = slice(i * lstm.hidden_size, (i + 1) * lstm.hidden_size)
            cell[f"i{gate}"] = {"kernel": kinds["weight_ih"][part].T}
            cell[f"h{gate}"] = {"kernel": kinds["weight_hh"][part].T, "bias": bias[part]}
        step[f"lstm{layer + 1}"] = cell
    return {"params": {"step": jax.tree.map(jnp.asarray, step)}}


@pytest.fixture(scope="module")
def lstm():
    torch.manual_seed(0)
    return torch.nn.LSTM(C, D, num_layers=2, batch_first=True)


@pytest.mark.slow
def test_two_stacked_lstms_over_ten_steps(lstm):
    features = draw(N, 3, 3, C)
    pooled = torch.from_numpy(features.mean((1, 2)))
    with torch.no_grad():
        expected = lstm(pooled[:, None].repeat(1, T, 1))[0].numpy()
    ours = jax.jit(Recurrence(T, D, 2).apply)(ours_from(lstm), features)
    assert ours.shape == (N, T, D)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.slow
def test_the_gradient_through_recurrence_and_attention(lstm):
    features, weights = draw(N, 1, 1, C), 0.1 * draw(T, D, seed=1)
    x = torch.from_numpy(features[:, 0, 0]).requires_grad_()
    w = torch.from_numpy(weights).requires_grad_()
    steps = lstm(x[:, None].repeat(1, T, 1))[0]
    alpha = functional.softmax((steps * w).sum(2), dim=1)
    ((alpha[..., None] * steps).sum(1) ** 2).sum().backward()
    variables = ours_from(lstm)

    def total(features, weights):
        steps = Recurrence(T, D, 2).apply(variables, features)
        return jnp.square(fgjax.soft_attention(steps, weights)).sum()

    by_features, by_weights = jax.jit(jax.grad(total, argnums=(0, 1)))(features, weights)
    np.testing.assert_allclose(by_features[:, 0, 0], x.grad.numpy(), atol=1e-5)
    np.testing.assert_allclose(by_weights, w.grad.numpy(), atol=1e-5)


def test_soft_attention():
    steps, weights = draw(N, T, D), 0.1 * draw(T, D, seed=1)
    s, w = torch.from_numpy(steps), torch.from_numpy(weights)
    alpha = functional.softmax(torch.einsum("ntd,td->nt", s, w), dim=1)
    expected = torch.bmm(alpha[:, None], s)[:, 0].numpy()
    np.testing.assert_allclose(fgjax.soft_attention(steps, weights), expected, atol=1e-5)


def test_attention_over_places():
    query, keys, values = draw(N, 24), draw(N, 7, 7, 24, seed=1), draw(N, 7, 7, 40, seed=2)
    expected = functional.scaled_dot_product_attention(
        torch.from_numpy(query)[:, None],
        torch.from_numpy(keys).reshape(N, 49, 24),
        torch.from_numpy(values).reshape(N, 49, 40),
    )[:, 0].numpy()
    np.testing.assert_allclose(attend(query, keys, values)[0], expected, atol=1e-5)


def test_ranking_loss():
    """PyTorch's margin loss of two inputs: max(0, -y (a - b) + margin) with y = 1."""
    p_global, p_local = (np.random.default_rng(i).random(64, np.float32) for i in (0, 1))
    a, b = torch.from_numpy(p_local).requires_grad_(), torch.from_numpy(p_global).requires_grad_()
    expected = functional.margin_ranking_loss(a, b, torch.ones(64), margin=0.5)
    expected.backward()
    ours, gradient = jax.value_and_grad(fgjax.ranking_loss, argnums=(0, 1))(p_global, p_local, 0.5)
    np.testing.assert_allclose(ours, expected.item(), atol=1e-5)
    np.testing.assert_allclose(gradient[0], b.grad.numpy(), atol=1e-5)
    np.testing.assert_allclose(gradient[1], a.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("every_step", "smoothing", "moves"),
    [(False, 0.0, False), (True, 0.1, False), (True, 0.0, True)],
)
def test_the_whole_loss_and_its_gradient(every_step, smoothing, moves):
    streams = Streams(draw(N, 20), draw(N, 20, seed=1), draw(N, T, 20, seed=2))
    labels = np.random.default_rng(3).integers(0, 20, N).astype(np.int32)
    g, local, each = (torch.from_numpy(z).requires_grad_() for z in streams)
    y = torch.from_numpy(labels).long()
    entropy = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    first = entropy(g, y)
    second = sum(entropy(each[:, t], y) for t in range(T)) / T if every_step else entropy(local, y)
    p_global, p_local = (z.softmax(1).gather(1, y[:, None])[:, 0] for z in (g, local))
    reference = p_global if moves else p_global.detach()
    third = functional.margin_ranking_loss(p_local, reference, torch.ones(N), margin=0.5)
    expected = first + 1.0 * second + 0.5 * third
    expected.backward()
    loss = StreamLoss(every_step=every_step, smoothing=smoothing, moves_reference=moves)
    ours, gradient = jax.jit(jax.value_and_grad(loss))(streams, jnp.asarray(labels))
    np.testing.assert_allclose(ours, expected.item(), atol=1e-5)
    for mine, theirs in zip(gradient, (g, local, each), strict=True):
        reference = np.zeros(theirs.shape) if theirs.grad is None else theirs.grad.numpy()
        np.testing.assert_allclose(mine, reference, atol=1e-5)
