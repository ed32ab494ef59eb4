"""Training a classifier: pure steps, and a loop over epochs that can be resumed.

Nothing random hides in a generator: the order of epoch e is a function of (seed, e), the
augmentation of a step of (seed, step). So a run that is killed and goes on from its last
epoch computes what it would have computed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, UInt8

from fgjax.core.batching import ahead, filled_places
from fgjax.core.features import grid_of
from fgjax.core.scores import predicted
from fgjax.devices.collectives import over_processes
from fgjax.devices.in_flight import InFlight
from fgjax.devices.jit import program
from fgjax.devices.mesh import awaited, own_copy
from fgjax.models.classifier import Classifier
from fgjax.training.augment.geometry_and_light import Augmentation, center_crop
from fgjax.training.augment.mixing import Mixed, Mixing
from fgjax.training.objectives.losses import binary_cross_entropy, cross_entropy
from fgjax.training.optimizer import begins_with, freeze, keep

Inputs = (
    UInt8[np.ndarray | Array, "n h w 3"]
    | tuple[UInt8[np.ndarray | Array, "n h w 3"], Float[np.ndarray | Array, "n p 4"]]
)
"""Images, or images and boxes of their patches, in their pixels."""


class TrainState(NamedTuple):
    """What one step hands to the next; all arrays, so a checkpoint is the tree as it is.

    Attributes:
      average: of the variables so far, see `Recipe.average`; None: none is kept.
    """

    step: Int[Array, ""]
    variables: Any
    optimizer: Any
    average: Any = None

    @property
    def judged(self) -> Any:
        """The variables that are validated and kept: the average, where there is one."""
        return self.variables if self.average is None else self.average


class EpochResult(NamedTuple):
    """One epoch's figures: mean training loss, validation loss and accuracy (NaN: no validation
    images)."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class Recipe:
    """How a step is made; hashable, so that equal recipes share one compiled program.

    Attributes:
      optimizer: see `make_optimizer`.
      augment: (key, images in [0, 1]) -> what the network sees, see `Augmentation`; or of images
        and boxes, see `PatchAugmentation`.
      smoothing: ε of label smoothing.
      batch_norm: "batch": normalise by the batch and keep running averages; "fixed": by the
        averages the model came with, which stay. What a small batch or weights whose
        normalisation was folded into the convolutions need.
      fixed: which modules "fixed" is about, by the beginnings of their names; all at first.
      frozen: beginnings of the names of modules whose weights and statistics stay.
      method: the network's method that is called as `method(x, train=True)`; None: `__call__`.
      objective: (what that method returns, labels) -> the loss, a scalar. None: cross-entropy of
        logits, with `smoothing`, of mixed images mixed.
      mix: how images and their labels are mixed; see `Mixing`. Not with an objective.
      class_weights: what the loss of an image counts, by its label; none: all alike. Not with an
        objective.
      accumulate: steps whose gradients move the weights together; the optimizer was made with the
        same.
      average: decay of an exponential moving average of weights and statistics, see
        `moving_average`; 0: none is kept.
    """

    optimizer: optax.GradientTransformation
    augment: Callable[[Key[Array, ""], Any], Any] = Augmentation()
    smoothing: float = 0.0
    batch_norm: Literal["batch", "fixed"] = "batch"
    fixed: tuple[str, ...] = ("",)
    frozen: tuple[str, ...] = ()
    method: str | None = None
    objective: Callable[[Any, Int[Array, "n *a"]], Float[Array, ""]] | None = None
    mix: Mixing = Mixing()
    class_weights: tuple[float, ...] = ()
    accumulate: int = 1
    average: float = 0.0

    def loss(
        self, outputs: Any, labels: Int[Array, "n *a"], mixed: Mixed | None
    ) -> Float[Array, ""]:
        """Return what a step makes smaller."""
        if self.objective is not None:
            return self.objective(outputs, labels)
        assert mixed is not None  # without an objective images are mixed, if only with themselves
        return self.mix.loss(outputs, labels, mixed, self.smoothing, self.class_weights)


def start(model: Classifier, recipe: Recipe) -> TrainState:
    """Return the state before the first step."""
    moments = recipe.optimizer.init(model.variables["params"])
    average = model.variables if recipe.average else None
    return TrainState(jnp.int32(0), model.variables, moments, average)


def moving_average(average: Any, variables: Any, step: Int[Array, ""], recipe: Recipe) -> Any:
    """Return the average after a step, the first being 0: a_t = d_t a_{t-1} + (1 - d_t) v_t.

    d_t = min(d, (1 + t) / (10 + t)), t = 1, 2, … counting the moves of the weights, so that what a
    short training began with is forgotten, too.
    """
    t = (step + 1) // recipe.accumulate
    count = t.astype(jnp.float32)
    decay = jnp.minimum(recipe.average, (1 + count) / (10 + count))
    moved = (step + 1) % recipe.accumulate == 0

    def mean(old, new):
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new
        # Where nothing moves rounding must not, either.
        return jnp.where(moved, old + (1 - decay).astype(old.dtype) * (new - old), old)

    return jax.tree.map(mean, average, variables)


def _fix_statistics(recipe: Recipe):
    """Make the BatchNorm layers of fixed or frozen modules use their running averages."""

    def interceptor(call, args, kwargs, context):
        if isinstance(context.module, nn.BatchNorm):
            path = "/".join(context.module.path)
            fixed = recipe.fixed if recipe.batch_norm == "fixed" else ()
            if begins_with(path, (*fixed, *recipe.frozen)):
                kwargs = {**kwargs, "use_running_average": True}
        return call(*args, **kwargs)

    return nn.intercept_methods(interceptor)


def _in_unit(values):
    """Return pixels in [0, 1]; boxes as they are."""
    return values.astype(jnp.float32) / 255 if values.dtype == jnp.uint8 else values


def _normalise(mean, std, images):
    shape = (1,) * (images.ndim - 1) + (-1,)
    return (images - jnp.asarray(mean).reshape(shape)) / jnp.asarray(std).reshape(shape)


@program("train", static_argnames=("network", "mean", "std", "recipe"), donate_argnames="state")
def train_step(
    state: TrainState,
    images: Inputs,
    labels: Int[Array, "n *a"],
    key: Key[Array, ""],
    *,
    network: nn.Module,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    recipe: Recipe,
) -> tuple[TrainState, Float[Array, ""]]:
    """Return one step on one batch; returns the next state (the given one is donated) and the
    loss."""
    keys = jax.random.split(jax.random.fold_in(key, state.step))
    x = recipe.augment(keys[0], jax.tree.map(_in_unit, images))
    normalised = partial(_normalise, mean, std)
    mixed = None
    if recipe.objective is None:
        attention = None
        if recipe.mix.name == "attentive_cutmix":
            seen: Any = network.apply(state.variables, normalised(x), method="features")
            attention = jnp.abs(grid_of(seen).astype(jnp.float32)).mean(3)
        mixed = recipe.mix(jax.random.fold_in(keys[0], 101), x, attention)
        x = mixed.images
    x = jax.tree.map(normalised, x)

    def loss(params):
        with _fix_statistics(recipe):
            outputs, changed = network.apply(
                {**state.variables, "params": freeze(params, recipe.frozen)},
                x,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": keys[1]},
                method=recipe.method,
            )
        return recipe.loss(outputs, labels, mixed), changed

    before = state.variables["params"]
    (value, changed), grad = jax.value_and_grad(loss, has_aux=True)(before)
    # Adam's bias correction mixes a float with an integer count; nothing else here may.
    with jax.numpy_dtype_promotion("standard"):
        updates, moments = recipe.optimizer.update(grad, state.optimizer, before)
        params = optax.apply_updates(before, keep(updates, recipe.frozen))
    variables = {**state.variables, **changed, "params": params}
    average = state.average
    if average is not None:
        average = moving_average(average, variables, state.step, recipe)
    return TrainState(state.step + 1, variables, moments, average), value


@program("explain", static_argnames="size")
def _judge(model: Classifier, images, labels, weight, size):
    if isinstance(images, tuple):
        images, boxes = images
        corner = [(side - size) // 2 for side in (images.shape[2], images.shape[1])]
        model = model.replace(boxes=boxes - jnp.asarray(corner * 2, boxes.dtype)[None, None])
    logits = model(center_crop(images, size).astype(jnp.float32) / 255)
    if labels.ndim == 2:
        loss = binary_cross_entropy(logits, labels)
        right = ((logits > 0) == (labels > 0)).astype(jnp.float32).mean(1)
    else:
        loss = cross_entropy(logits, labels)
        right = (predicted(logits) == labels).astype(jnp.float32)
    return (loss * weight).sum(), (right * weight).sum(), logits


def measure(
    model: Classifier,
    batches: Iterator[tuple[Inputs, Int[np.ndarray, "n *a"]]],
    batch_size: int,
    place: Callable[[Any], Any] = lambda batch: batch,
) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy on the images' middle squares of the model's size.

    Where the labels are rows of attributes (0 or 1), both are means over them. A short last
    batch is filled up and weighed 0. Of connected processes each gives its own images, and gets
    the means over those of all. Of no images both are NaN.

    Args:
      place: puts a batch onto the model's devices.
    """
    total = 0.0

    def filled(batch):
        nonlocal total
        images, labels = batch
        n = len(labels)
        total += n
        index = filled_places(n, batch_size)
        weight = (np.arange(batch_size) < n).astype(np.float32)
        return place((jax.tree.map(lambda values: values[index], images), labels[index], weight))

    # The sums stay on the device until the last is made: no batch waits for the one before.
    parts, sent = [], InFlight(2)
    for images, labels, weight in ahead(batches, filled):
        size = min(model.size, jax.tree.leaves(images)[0].shape[1])
        parts.append(awaited(_judge(model, images, labels, weight, size))[:2])
        sent.add(parts[-1])
    loss = right = 0.0
    for part in jax.device_get(parts):
        loss, right = loss + float(part[0]), right + float(part[1])
    loss, right, total = over_processes(np.array([loss, right, total])).tolist()
    return (loss / total, right / total) if total else (np.nan, np.nan)


def logits_of(
    model: Classifier,
    batches: Iterator[tuple[Inputs, Int[np.ndarray, "n"]]],
    batch_size: int,
) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n"]]:
    """Return the logits of images' middle squares, and their labels; the program is that of
    `measure`."""
    found, every = [], []
    for images, labels in batches:
        n = len(labels)
        index = filled_places(n, batch_size)
        weight = (np.arange(batch_size) < n).astype(np.float32)
        size = min(model.size, jax.tree.leaves(images)[0].shape[1])
        filled = jax.tree.map(lambda values: values[index], images)  # noqa: B023
        part = awaited(_judge(model, filled, labels[index], weight, size))
        found.append(np.asarray(part[2], np.float32)[:n])
        every.append(labels)
    return np.concatenate(found), np.concatenate(every)


def _as(old: Array, new: Array) -> Array:
    """Return a copy of the new array where the old one is."""
    return jax.device_put(jnp.array(new), old.sharding)


def train(
    model: Classifier,
    train_batches: Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]],
    validation_batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]],
    *,
    key: Key[Array, ""],
    epochs: int,
    batch_size: int,
    recipe: Recipe,
    place: Callable[[Any], Any] = lambda batch: batch,
    place_own: Callable[[Any], Any] = lambda batch: batch,
    state: TrainState | None = None,
    first_epoch: int = 0,
    before_epoch: Callable[[int, Classifier], None] = lambda epoch, model: None,
    on_epoch: Callable[[EpochResult, TrainState], None] = lambda result, state: None,
    recipes: Callable[[int], Recipe] | None = None,
    change: Callable[[int, Classifier], Classifier | None] = lambda epoch, model: None,
) -> TrainState:
    """Train for `epochs`, calling `before_epoch` before each and `on_epoch` after it.

    Connected processes all call it, and each gives its own part of every batch.

    Args:
      model: where to start from.
      train_batches: epoch -> batches of `batch_size` (images uint8, or images and boxes of their
        patches; labels).
      validation_batches: -> batches of at most `batch_size`.
      batch_size: of this process's part.
      place: puts a batch onto the devices of all processes.
      place_own: puts a batch onto the devices of this process.
      state, first_epoch: where an interrupted training left off.
      before_epoch: is given the classifier as it is now; what it does may change what
        `train_batches` yields. A training that goes on later calls it again from there on.
      recipes: epoch -> its recipe, with the optimizer of `recipe`; None: that is every epoch's.
      change: is given the classifier after an epoch's steps, and returns another one of the same
        network to go on with, or None.
    """
    state = start(model, recipe) if state is None else state
    # The step donates its state: the model's own arrays must survive it.
    state = jax.tree.map(jnp.array, state)
    for epoch in range(first_epoch, epochs):
        before_epoch(epoch, model.replace(variables=own_copy(state.variables)))
        losses, sent = [], InFlight(2)
        own = recipes(epoch) if recipes else recipe
        for images, labels in ahead(train_batches(epoch), place):
            state, loss = train_step(
                state,
                images,
                labels,
                key,
                network=model.network,
                mean=model.mean,
                std=model.std,
                recipe=own,
            )
            losses.append(awaited(loss))
            sent.add(loss)
        mean_loss = float(np.mean(jax.device_get(losses)))
        now = model.replace(variables=own_copy(state.judged))
        changed = change(epoch, now)
        if changed is not None:
            now = changed
            state = state._replace(variables=jax.tree.map(_as, state.variables, now.variables))
        validation = measure(now, validation_batches(), batch_size, place_own)
        on_epoch(EpochResult(epoch, mean_loss, *validation), state)
    return state
