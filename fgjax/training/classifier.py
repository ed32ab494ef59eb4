"""Training a classifier: pure steps, and a loop over epochs that can be resumed.

Nothing random hides in a generator: the order of epoch e is a function of (seed, e), the
augmentation of a step of (seed, step). So a run that is killed and goes on from its last
epoch computes what it would have computed.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jaxtyping import Array, Float, Int, Key, UInt8

from fgjax.models.classifier import Classifier
from fgjax.training.augment import random_flip, random_light, random_shift
from fgjax.training.losses import cross_entropy


class TrainState(NamedTuple):
    """What one step hands to the next; all arrays, so a checkpoint is the tree as it is."""

    step: Int[Array, ""]
    variables: Any
    optimizer: Any


class EpochResult(NamedTuple):
    """One epoch's figures: mean training loss, validation loss and accuracy."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float


def make_optimizer(
    steps: int, learning_rate: float, warmup: float, weight_decay: float, adam_eps: float
) -> optax.GradientTransformation:
    """AdamW under a linear warm-up and a cosine; decay on kernels only."""
    rising = max(1, round(warmup * steps))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, rising, max(steps, rising + 1), 0.0
    )

    def kernels(params):
        flat = traverse_util.flatten_dict(params)
        return traverse_util.unflatten_dict({path: path[-1] == "kernel" for path in flat})

    return optax.adamw(schedule, eps=adam_eps, weight_decay=weight_decay, mask=kernels)


def start(model: Classifier, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.int32(0), model.variables, optimizer.init(model.variables["params"]))


@partial(
    jax.jit,
    static_argnames=("network", "optimizer", "smoothing", "shift", "light", "mean", "std"),
    donate_argnames="state",
)
def train_step(
    state: TrainState,
    images: UInt8[Array, "n h w 3"],
    labels: Int[Array, "n"],
    key: Key[Array, ""],
    *,
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    smoothing: float = 0.0,
    shift: float = 0.0,
    light: float = 0.0,
) -> tuple[TrainState, Float[Array, ""]]:
    """One step on one batch; returns the next state (the given one is donated) and the loss."""
    keys = jax.random.split(jax.random.fold_in(key, state.step), 4)
    x = images.astype(jnp.float32) / 255
    x = random_light(keys[0], random_shift(keys[1], random_flip(keys[2], x), shift), light)
    x = (x - jnp.asarray(mean)[None, None, None]) / jnp.asarray(std)[None, None, None]

    def loss(params):
        logits, changed = network.apply(
            {**state.variables, "params": params},
            x,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": keys[3]},
        )
        return cross_entropy(logits, labels, smoothing).mean(), changed

    (value, changed), grad = jax.value_and_grad(loss, has_aux=True)(state.variables["params"])
    # Adam's bias correction mixes a float with an integer count; nothing else here may.
    with jax.numpy_dtype_promotion("standard"):
        updates, moments = optimizer.update(grad, state.optimizer, state.variables["params"])
    params = optax.apply_updates(state.variables["params"], updates)
    return TrainState(state.step + 1, {**changed, "params": params}, moments), value


@jax.jit
def _judge(model: Classifier, images, labels, weight):
    logits = model(images.astype(jnp.float32) / 255)
    right = (logits.argmax(1) == labels).astype(jnp.float32)
    return (cross_entropy(logits, labels) * weight).sum(), (right * weight).sum()


def measure(
    model: Classifier,
    batches: Iterator[tuple[UInt8[np.ndarray, "n h w 3"], Int[np.ndarray, "n"]]],
    batch_size: int,
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy. A short last batch is filled up and weighed 0."""
    loss = right = total = 0.0
    for images, labels in batches:
        n = len(labels)
        index = np.minimum(np.arange(batch_size), n - 1)
        weight = (np.arange(batch_size) < n).astype(np.float32)
        part = _judge(model, images[index], labels[index], weight)
        loss, right, total = loss + float(part[0]), right + float(part[1]), total + n
    return loss / total, right / total


def train(
    model: Classifier,
    train_batches: Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]],
    validation_batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]],
    *,
    key: Key[Array, ""],
    epochs: int,
    batch_size: int,
    optimizer: optax.GradientTransformation,
    place: Callable[[Any], Any] = lambda batch: batch,
    state: TrainState | None = None,
    first_epoch: int = 0,
    on_epoch: Callable[[EpochResult, TrainState], None] = lambda result, state: None,
    **settings: float,
) -> TrainState:
    """Trains for `epochs`, calling `on_epoch` after each.

    Args:
      model: where to start from.
      train_batches: epoch -> batches of `batch_size` (images uint8, labels).
      validation_batches: -> batches of at most `batch_size`.
      place: puts a batch onto the devices.
      state, first_epoch: where an interrupted training left off.
      settings: `smoothing`, `shift`, `light` of `train_step`.
    """
    state = start(model, optimizer) if state is None else state
    # The step donates its state: the model's own arrays must survive it.
    state = jax.tree.map(jnp.array, state)
    for epoch in range(first_epoch, epochs):
        losses = []
        for images, labels in train_batches(epoch):
            images, labels = place((images, labels))
            state, loss = train_step(
                state,
                images,
                labels,
                key,
                network=model.network,
                optimizer=optimizer,
                mean=model.mean,
                std=model.std,
                **settings,
            )
            losses.append(loss)
        mean_loss = float(np.mean(jax.device_get(losses)))
        now = model.replace(variables=state.variables)
        validation = measure(now, validation_batches(), batch_size)
        on_epoch(EpochResult(epoch, mean_loss, *validation), state)
    return state
