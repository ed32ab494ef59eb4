"""Training learns, goes on where it was left, and leaves the model's own arrays alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

from fgjax.models.classifier import create_model
from fgjax.training.checkpoints import load_tree, save_tree
from fgjax.training.classifier import make_optimizer, measure, start, train, train_step

BATCH = 8


def two_colours(n=32, side=16):
    """Reddish and bluish noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(n, dtype=np.int32) % 2
    images = rng.integers(0, 120, (n, side, side, 3), np.uint8)
    images[labels == 0, ..., 0] += 100
    images[labels == 1, ..., 2] += 100
    return images, labels


IMAGES, LABELS = two_colours()


def train_batches(epoch):
    order = np.random.default_rng(epoch).permutation(len(LABELS))
    for i in range(0, len(LABELS), BATCH):
        yield IMAGES[order[i : i + BATCH]], LABELS[order[i : i + BATCH]]


def validation_batches():
    for i in range(0, 20, BATCH):  # the last one is short
        yield IMAGES[i : min(i + BATCH, 20)], LABELS[i : min(i + BATCH, 20)]


@pytest.fixture(scope="module")
def model():
    return create_model("resnet_tiny", 2, size=16)


@pytest.fixture(scope="module")
def optimizer():
    return make_optimizer(12, 3e-3, warmup=0.1, weight_decay=1e-4, adam_eps=1e-8)


@pytest.fixture(scope="module")
def whole(model, optimizer):
    """Three epochs in one go."""
    results = []
    state = learn(model, optimizer, on_epoch=lambda result, state: results.append(result))
    return state, results


def learn(model, optimizer, **options):
    options = {"epochs": 3, **options}
    return train(
        model,
        train_batches,
        validation_batches,
        key=jax.random.key(1),
        batch_size=BATCH,
        optimizer=optimizer,
        smoothing=0.1,
        shift=0.1,
        light=0.1,
        **options,
    )


def test_it_learns_two_colours(whole):
    state, results = whole
    assert [r.epoch for r in results] == [0, 1, 2]
    assert int(state.step) == 12
    assert results[-1].validation_accuracy == 1.0
    assert results[-1].train_loss < results[0].train_loss
    assert results[-1].validation_loss < results[0].validation_loss


def test_the_models_arrays_survive_the_donated_steps(model, whole):
    images = jnp.asarray(IMAGES[:2], jnp.float32) / 255
    assert np.isfinite(jax.jit(lambda m, x: m(x))(model, images)).all()
    trained = whole[0].variables["params"]["classifier"]["kernel"]
    assert (trained != model.variables["params"]["classifier"]["kernel"]).any()


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(model, optimizer, whole, tmp_path):
    class Killed(Exception):
        pass

    def save_and_die(result, state):
        save_tree(tmp_path / "state", state)
        raise Killed

    with pytest.raises(Killed):
        learn(model, optimizer, on_epoch=save_and_die)
    state = load_tree(tmp_path / "state", start(model, optimizer))
    assert int(state.step) == 4
    state = learn(model, optimizer, state=state, first_epoch=1)
    assert jax.tree.structure(state) == jax.tree.structure(whole[0])
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(whole[0]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_training_compiles_one_step(model, optimizer, whole):
    compiled = train_step._cache_size()
    learn(model, optimizer, epochs=1)
    assert train_step._cache_size() == compiled


def test_measure_is_exact_with_a_short_last_batch(model):
    loss, accuracy = measure(model, validation_batches(), BATCH)
    logits = jax.jit(lambda m, x: m(x))(model, jnp.asarray(IMAGES[:20], jnp.float32) / 255)
    log_p = log_softmax(np.asarray(logits, np.float64), axis=1)
    np.testing.assert_allclose(loss, -log_p[np.arange(20), LABELS[:20]].mean(), rtol=1e-4)
    assert accuracy == (np.asarray(logits).argmax(1) == LABELS[:20]).mean()


def test_optimizer_warms_up_cools_down_and_decays_kernels_alone():
    optimizer = make_optimizer(10, 0.5, warmup=0.2, weight_decay=0.1, adam_eps=1e-8)
    params = {"layer": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
    state = optimizer.init(params)
    still = jax.tree.map(jnp.zeros_like, params)
    update = jax.jit(optimizer.update)
    moves = []
    for _ in range(11):
        with jax.numpy_dtype_promotion("standard"):  # optax's own sums need it
            updates, state = update(still, state, params)
        np.testing.assert_array_equal(updates["layer"]["bias"], 0)
        moves.append(-float(updates["layer"]["kernel"][0]) / 0.1)
    # Without a gradient only the decay is left: rate times 0.1 times 1.
    rising, falling = [0, 0.25], [0.25 * (1 + np.cos(np.pi * i / 8)) for i in range(9)]
    np.testing.assert_allclose(moves, rising + falling, atol=1e-6)


def test_a_step_is_one_of_gradient_descent(model):
    """Written out; images that are their own mirror image, because flips are always on."""
    descent = optax.sgd(0.1)
    images = np.maximum(IMAGES[:BATCH], IMAGES[:BATCH, :, ::-1])
    labels = jnp.asarray(LABELS[:BATCH])

    def loss(params):
        x = model.normalise(jnp.asarray(images, jnp.float32) / 255)
        logits, _ = model.network.apply(
            {**model.variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        return -jax.nn.log_softmax(logits)[jnp.arange(BATCH), labels].mean()

    before = model.variables["params"]
    value, gradient = jax.jit(jax.value_and_grad(loss))(before)
    state, ours = train_step(
        jax.tree.map(jnp.array, start(model, descent)),
        jnp.asarray(images),
        labels,
        jax.random.key(0),
        network=model.network,
        optimizer=descent,
        mean=model.mean,
        std=model.std,
    )
    np.testing.assert_allclose(ours, value, rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, before, gradient)
    after = state.variables["params"]
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.abs(gradient["classifier"]["kernel"]).max() > 1e-3
