"""Training learns, goes on where it was left, and leaves the model's own arrays alone."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from scipy.special import log_softmax

from fgjax.models.classifier import Classifier, create_model
from fgjax.training import classifier
from fgjax.training.augment.geometry_and_light import Augmentation
from fgjax.training.checkpoints import load_tree, save_tree
from fgjax.training.classifier import Recipe, measure, start, train, train_step
from fgjax.training.optimizer import make_optimizer

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
    return create_model("toys:MICRO", 2, size=16)


@pytest.fixture(scope="module")
def recipe():
    optimizer = make_optimizer(12, 3e-3, warmup=0.1, weight_decay=1e-4)
    return Recipe(optimizer, Augmentation(shift=0.1, light=0.1), smoothing=0.1)


@pytest.fixture(scope="module")
def whole(model, recipe):
    """Three epochs in one go."""
    results = []
    state = learn(model, recipe, on_epoch=lambda result, state: results.append(result))
    return state, results


def learn(model, recipe, **options):
    options = {"epochs": 3, **options}
    return train(
        model,
        train_batches,
        validation_batches,
        key=jax.random.key(1),
        batch_size=BATCH,
        recipe=recipe,
        **options,
    )


def test_it_learns_two_colours(whole):
    state, results = whole
    assert [r.epoch for r in results] == [0, 1, 2]
    assert int(state.step) == 12
    assert results[-1].validation_accuracy == 1.0
    assert results[-1].train_loss < results[0].train_loss
    assert results[-1].validation_loss < results[0].validation_loss


def test_a_step_keeps_what_else_a_network_holds():
    """A collection beside parameters and statistics, such as a table that is given once."""

    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            scale = self.variable("constants", "scale", lambda: jnp.float32(3))
            return nn.Dense(2, name="classifier")(x.mean((1, 2))) * scale.value

    network = Scaled()
    model = Classifier(network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))), network)
    recipe = Recipe(optax.sgd(0.1), Augmentation(flip=False))
    state = jax.tree.map(jnp.array, start(model, recipe))
    state, _ = train_step(state, IMAGES[:2], LABELS[:2], jax.random.key(0), network=network,
                          mean=model.mean, std=model.std, recipe=recipe)  # fmt: skip
    assert float(state.variables["constants"]["scale"]) == 3


class Dense(nn.Module):
    """Without statistics of a batch, which several small batches do not have."""

    @nn.compact
    def __call__(self, x, train=False):
        hidden = jnp.tanh(nn.Dense(4, name="hidden")(x[:, ::4, ::4].reshape(len(x), -1)))
        return nn.Dense(2, name="classifier")(hidden)


@pytest.fixture(scope="module")
def dense():
    network = Dense()
    variables = network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    return Classifier(variables, network)


def many_steps(model, recipe, parts):
    """The states after every step."""
    state, seen = jax.tree.map(jnp.array, start(model, recipe)), []
    for part in parts:
        state, _ = train_step(
            state, IMAGES[part], LABELS[part], jax.random.key(0), network=model.network,
            mean=model.mean, std=model.std, recipe=recipe,
        )  # fmt: skip
        seen.append(jax.tree.map(np.array, state))
    return seen


@pytest.fixture(scope="module")
def averaged(dense):
    """Six small batches, two to a move of the weights, and their moving average."""
    optimizer = make_optimizer(6, 0.1, optimizer="sgd", schedule="constant", accumulate=2)
    recipe = Recipe(optimizer, Augmentation(flip=False), accumulate=2, average=0.3)
    return recipe, many_steps(dense, recipe, np.arange(24).reshape(6, 4))


def test_small_batches_together_are_a_large_one(dense, averaged):
    _, small = averaged
    optimizer = make_optimizer(3, 0.1, optimizer="sgd", schedule="constant")
    recipe = Recipe(optimizer, Augmentation(flip=False))
    large = many_steps(dense, recipe, np.arange(24).reshape(3, 8))
    for two, one in zip(small[1::2], large, strict=True):
        for a, b in zip(*(jax.tree.leaves(s.variables) for s in (two, one)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    moved = small[0].variables["params"]["hidden"]["kernel"]
    np.testing.assert_array_equal(moved, dense.variables["params"]["hidden"]["kernel"])
    assert (small[1].variables["params"]["hidden"]["kernel"] != moved).any()


def test_the_average_follows_the_weights(dense, averaged):
    """a = d a + (1 - d) w at every move, d = min(0.3, (1 + t) / (10 + t)), in NumPy."""
    _, states = averaged
    average = np.asarray(dense.variables["params"]["hidden"]["kernel"], np.float64)
    for number, state in enumerate(states):
        if number % 2:
            t = (number + 1) // 2
            decay = min(0.3, (1 + t) / (10 + t))
            now = state.variables["params"]["hidden"]["kernel"]
            average = decay * average + (1 - decay) * now
        kept = state.average["params"]["hidden"]["kernel"]
        np.testing.assert_allclose(kept, average, rtol=1e-6, atol=1e-7)
        assert state.judged is state.average
    assert np.abs(kept - now).max() > 1e-4


def test_a_training_with_an_average_goes_on_from_disk(dense, averaged, tmp_path):
    """To the bit, in the middle of a move, too; and the average is what is validated."""
    recipe, states = averaged
    save_tree(tmp_path / "state", jax.tree.map(jnp.asarray, states[2]))
    state = load_tree(tmp_path / "state", start(dense, recipe))
    seen = []
    state = train(
        dense,
        lambda epoch: iter([(IMAGES[i : i + 4], LABELS[i : i + 4]) for i in (12, 16, 20)]),
        validation_batches,
        key=jax.random.key(0),
        epochs=1,
        batch_size=BATCH,
        recipe=recipe,
        state=state,
        on_epoch=lambda result, state: seen.append(result.validation_loss),
    )
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(states[-1]), strict=True):
        np.testing.assert_array_equal(a, b)
    losses = [
        measure(dense.replace(variables=v), validation_batches(), BATCH)[0]
        for v in (state.average, state.variables)
    ]
    assert seen == losses[:1] and losses[0] != losses[1]


@pytest.mark.slow
def test_every_epoch_may_have_its_recipe_and_its_end(model, recipe):
    """The first epoch moves the last layer alone; then one weight is set by hand; then nothing
    but the stem's own moves."""
    kernel = lambda variables: np.asarray(variables["params"]["classifier"]["kernel"])
    stem = lambda variables: np.asarray(variables["params"]["stem"]["kernel"])
    only = {0: replace(recipe, frozen=("stem", "blocks")), 1: replace(recipe, frozen=("classif",))}
    seen = []

    def change(epoch, now):
        seen.append(now.variables)
        if epoch == 1:
            return None
        params = {**now.variables["params"]}
        params["classifier"] = {**params["classifier"], "kernel": jnp.ones_like(kernel({"params":
            params}))}  # fmt: skip
        return now.replace(variables={**now.variables, "params": params})

    learn(model, recipe, epochs=2, recipes=only.get, change=change)
    first, second = seen
    np.testing.assert_array_equal(stem(first), stem(model.variables))
    assert (kernel(first) != kernel(model.variables)).any()
    np.testing.assert_array_equal(kernel(second), 1)
    assert (stem(second) != stem(first)).any()


def test_of_no_images_nothing_is_measured(model):
    assert np.isnan(measure(model, iter(()), BATCH)).all()


def test_the_models_arrays_survive_the_donated_steps(model, whole):
    images = jnp.asarray(IMAGES[:2], jnp.float32) / 255
    assert np.isfinite(jax.jit(lambda m, x: m(x))(model, images)).all()
    trained = whole[0].variables["params"]["classifier"]["kernel"]
    assert (trained != model.variables["params"]["classifier"]["kernel"]).any()


@pytest.mark.slow
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(model, recipe, whole, tmp_path):
    class Killed(Exception):
        pass

    def save_and_die(result, state):
        save_tree(tmp_path / "state", state)
        raise Killed

    with pytest.raises(Killed):
        learn(model, recipe, on_epoch=save_and_die)
    state = load_tree(tmp_path / "state", start(model, recipe))
    assert int(state.step) == 4
    state = learn(model, recipe, state=state, first_epoch=1)
    assert jax.tree.structure(state) == jax.tree.structure(whole[0])
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(whole[0]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_training_compiles_one_step(model, recipe, whole):
    compiled = train_step._cache_size()
    # Another run makes its own recipe; equal settings are the same program.
    optimizer = make_optimizer(12, 3e-3, warmup=0.1, weight_decay=1e-4)
    again = Recipe(optimizer, Augmentation(shift=0.1, light=0.1), smoothing=0.1)
    learn(model, again, epochs=1)
    assert train_step._cache_size() == compiled


def test_measure_is_exact_with_a_short_last_batch(model):
    loss, accuracy = measure(model, validation_batches(), BATCH)
    logits = jax.jit(lambda m, x: m(x))(model, jnp.asarray(IMAGES[:20], jnp.float32) / 255)
    log_p = log_softmax(np.asarray(logits, np.float64), axis=1)
    np.testing.assert_allclose(loss, -log_p[np.arange(20), LABELS[:20]].mean(), rtol=1e-4)
    assert accuracy == (np.asarray(logits).argmax(1) == LABELS[:20]).mean()


def test_no_batch_of_validation_waits_for_the_one_before(model, monkeypatch):
    """Python looks at a value once, after the last."""
    looks, fetch = [], jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: looks.append(len(tree)) or fetch(tree))
    measure(model, validation_batches(), BATCH)
    assert looks == [3]


def test_batches_are_placed_before_they_are_used(model, recipe, monkeypatch):
    """Two of them wait on the device, in the order of the training and of the validation."""
    told = []

    def placed(batch):
        told.append("place")
        return batch

    step = classifier.train_step
    monkeypatch.setattr(
        classifier, "train_step", lambda *a, **k: told.append("step") or step(*a, **k)
    )
    learn(model, recipe, epochs=1, place=placed)
    assert told == ["place"] * 3 + ["step", "place", "step", "step", "step"]


def test_a_step_is_one_of_gradient_descent(model):
    """Written out."""
    descent = Recipe(optax.sgd(0.1), Augmentation(flip=False))
    images = IMAGES[:BATCH]
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
        recipe=descent,
        mean=model.mean,
        std=model.std,
    )
    np.testing.assert_allclose(ours, value, rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, before, gradient)
    after = state.variables["params"]
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.abs(gradient["classifier"]["kernel"]).max() > 1e-3


def step(model, recipe, images=None, labels=None):
    images = IMAGES[:BATCH] if images is None else images
    state = jax.tree.map(jnp.array, start(model, recipe))
    return train_step(
        state, jnp.asarray(images), jnp.asarray(LABELS[:BATCH]), jax.random.key(0),
        network=model.network, mean=model.mean, std=model.std, recipe=recipe,
    )  # fmt: skip


def flat(variables, collection):
    return flatten_dict(variables[collection], sep="/")


@pytest.mark.slow
def test_fixed_statistics_stay_and_are_those_that_normalise(model):
    """With them a training step computes the gradient of the model as it is used later."""
    recipe = Recipe(optax.sgd(0.1), Augmentation(flip=False), batch_norm="fixed")
    state, value = step(model, recipe)
    for path, after in flat(state.variables, "batch_stats").items():
        np.testing.assert_array_equal(after, flat(model.variables, "batch_stats")[path])
    labels = jnp.asarray(LABELS[:BATCH])

    def loss(params):
        now = model.replace(variables={**model.variables, "params": params})
        logits = now(jnp.asarray(IMAGES[:BATCH], jnp.float32) / 255)
        return -jax.nn.log_softmax(logits)[jnp.arange(BATCH), labels].mean()

    before = model.variables["params"]
    expected, gradient = jax.jit(jax.value_and_grad(loss))(before)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    after = flat(state.variables, "params")
    for path, g in flatten_dict(gradient, sep="/").items():
        moved = flatten_dict(before, sep="/")[path] - 0.1 * g
        np.testing.assert_allclose(after[path], moved, atol=1e-5)


@pytest.mark.slow
def test_frozen_modules_keep_weights_and_statistics_and_the_rest_learns(model):
    optimizer = make_optimizer(4, 0.1, weight_decay=0.5)  # decay alone would move a weight
    frozen = Recipe(optimizer, frozen=("stem",))
    state, _ = step(model, frozen)
    state = state.variables
    for collection in ("params", "batch_stats"):
        before = flat(model.variables, collection)
        for path, after in flat(state, collection).items():
            same = bool((after == before[path]).all())
            assert same == path.startswith("stem"), path


@pytest.mark.slow
def test_with_a_frozen_backbone_the_classifier_alone_learns(model):
    state, _ = step(model, Recipe(optax.sgd(0.1), frozen=("backbone",)))
    before = flat(model.variables, "params")
    moved = {p for p, v in flat(state.variables, "params").items() if (v != before[p]).any()}
    assert moved == {"classifier/kernel", "classifier/bias"}


@pytest.mark.slow
def test_bfloat16_steps_keep_float32_weights(model):
    half = model.replace(network=model.network.clone(dtype=jnp.bfloat16))
    with jax.numpy_dtype_promotion("standard"):  # Flax's own statistics need it
        state, loss = step(half, Recipe(optax.sgd(0.1)))
    assert loss.dtype == jnp.float32 and np.isfinite(loss)
    assert {v.dtype for v in jax.tree.leaves(state.variables)} == {np.dtype("float32")}


@pytest.mark.slow
def test_larger_images_are_cropped_for_training_and_in_the_middle_for_measuring(model):
    wide = np.random.default_rng(1).integers(0, 256, (BATCH, 24, 24, 3), np.uint8)
    wide[:, 4:20, 4:20] = IMAGES[:BATCH]
    loss, accuracy = measure(model, iter([(wide, LABELS[:BATCH])]), BATCH)
    expected = measure(model, iter([(IMAGES[:BATCH], LABELS[:BATCH])]), BATCH)
    np.testing.assert_allclose([loss, accuracy], expected, rtol=1e-6)
    middle = Recipe(optax.sgd(0.1), Augmentation(16, flip=False))
    np.testing.assert_allclose(
        step(model, middle, wide)[1], step(model, middle, IMAGES[:BATCH])[1], rtol=1e-6
    )


@pytest.mark.slow
def test_an_objective_of_what_another_method_returns(model):
    """The loss is the objective of that method's output, and its gradient moves the weights."""
    rate = 0.1

    def objective(features, labels):
        return (features.mean(axis=(1, 2, 3)) * labels.astype(jnp.float32)).sum()

    recipe = Recipe(optax.sgd(rate), Augmentation(flip=False), method="features",
                    objective=objective, batch_norm="fixed")  # fmt: skip
    images, labels = IMAGES[:BATCH], LABELS[:BATCH]
    state = jax.tree.map(jnp.array, start(model, recipe))
    kind = dict(network=model.network, mean=model.mean, std=model.std, recipe=recipe)
    after, loss = train_step(state, images, labels, jax.random.key(0), **kind)

    def expected(params):
        variables = {**model.variables, "params": params}
        features = model.replace(variables=variables).features(images.astype(np.float32) / 255)
        return objective(features, jnp.asarray(labels))

    value, grad = jax.jit(jax.value_and_grad(expected))(model.variables["params"])
    np.testing.assert_allclose(loss, value, rtol=1e-5)
    moved = jax.tree.map(lambda p, g: p - rate * g, model.variables["params"], grad)
    for a, b in zip(jax.tree.leaves(after.variables["params"]), jax.tree.leaves(moved)):
        np.testing.assert_allclose(a, b, atol=1e-5)
