"""The losses of two streams, against the equations in NumPy and against a written-out case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import fgjax
from fgjax.models.composed.prototypes import Comparison
from fgjax.models.composed.two_stream import Streams
from fgjax.training.objectives.prototype_loss import PrototypeLoss, cluster_and_separation
from fgjax.training.objectives.ranking import StreamLoss


def test_ranking_loss_by_hand():
    p_global, p_local = jnp.asarray([0.9, 0.2, 0.5]), jnp.asarray([0.3, 0.9, 0.5])
    loss = fgjax.ranking_loss(p_global, p_local, 0.5)
    assert loss.shape == ()
    np.testing.assert_allclose(loss, (1.1 + 0 + 0.5) / 3, rtol=1e-6)


def test_ranking_loss_pulls_only_where_the_margin_is_missed():
    gradient = jax.grad(fgjax.ranking_loss, argnums=1)(
        jnp.asarray([0.9, 0.2]), jnp.asarray([0.3, 0.9]), 0.5
    )
    np.testing.assert_allclose(gradient, [-0.5, 0])


@pytest.fixture(scope="module")
def outputs():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return Streams(draw(6, 4), draw(6, 4), draw(6, 3, 4)), rng.integers(0, 4, 6).astype(np.int32)


def entropy(logits, labels):
    return -log_softmax(logits, axis=-1)[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("every_step", [False, True])
def test_the_whole_loss(outputs, every_step):
    streams, labels = outputs
    p = [softmax(z, axis=1)[np.arange(6), labels] for z in streams[:2]]
    local = entropy(streams.local_logits, labels)
    if every_step:
        local = np.mean([entropy(streams.step_logits[:, t], labels) for t in range(3)])
    ranking = np.maximum(0, p[0] - p[1] + 0.3).mean()
    expected = entropy(streams.global_logits, labels) + 0.7 * local + 0.2 * ranking
    loss = StreamLoss(local=0.7, ranking=0.2, margin=0.3, every_step=every_step)
    np.testing.assert_allclose(loss(streams, jnp.asarray(labels)), expected, rtol=1e-5)


def test_the_global_stream_is_a_reference_unless_told(outputs):
    """Its logits' gradient is that of its cross-entropy alone, (p - y)/n; where the margin is
    missed everywhere, the other reading shrinks that of the right class by 1 - λ p."""
    streams, labels = outputs
    p = softmax(np.asarray(streams.global_logits), axis=1)
    alone = (p - np.eye(4)[labels]) / 6

    def gradient(**more):
        loss = StreamLoss(ranking=0.5, margin=1.0, **more)
        whole = lambda z: loss(streams._replace(global_logits=z), jnp.asarray(labels))
        return np.asarray(jax.grad(whole)(streams.global_logits))

    np.testing.assert_allclose(gradient(), alone, atol=1e-6)
    right = np.arange(6), labels
    factor = gradient(moves_reference=True)[right] / alone[right]
    np.testing.assert_allclose(factor, 1 - 0.5 * p[right], rtol=1e-4)


def test_the_defaults_are_the_papers():
    assert (StreamLoss().local, StreamLoss().ranking, StreamLoss().margin) == (1.0, 0.5, 0.5)


def test_without_a_local_stream_it_is_the_cross_entropy(outputs):
    streams, labels = outputs
    alone = Streams(streams.global_logits, None, None)
    expected = entropy(streams.global_logits, labels)
    np.testing.assert_allclose(StreamLoss()(alone, jnp.asarray(labels)), expected, rtol=1e-5)


def test_cluster_and_separation_by_hand():
    distances = jnp.asarray([[1.0, 4.0, 2.0, 9.0], [8.0, 7.0, 6.0, 5.0]])
    near, far = cluster_and_separation(distances, jnp.asarray([0, 1]), 2)
    np.testing.assert_allclose([near, far], [(1 + 5) / 2, (2 + 7) / 2])
    logits = jnp.asarray([[1.0, 0.0], [0.0, 3.0]])
    loss = PrototypeLoss(0.8, 0.08)(Comparison(logits, distances), jnp.asarray([0, 1]))
    expected = np.log1p(np.exp([-1.0, -3.0])).mean() + 0.8 * 3 - 0.08 * 4.5
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    last = PrototypeLoss(0.0, 0.0, l1=0.1)(
        Comparison(logits, distances, jnp.float32(7)), jnp.asarray([0, 1])
    )
    np.testing.assert_allclose(last, np.log1p(np.exp([-1.0, -3.0])).mean() + 0.7, rtol=1e-5)
