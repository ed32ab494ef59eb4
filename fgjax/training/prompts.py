"""Training of the prompts of `fgjax.models.composed.prompts`, on what goes into the last block.

Only the prompts and the vector that all classes share learn: the network's other weights are never
handed to the optimizer.

Reference: Chowdhury et al., Prompt-CAM, CVPR 2025, Eq. 2.
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from fgjax.core.batching import filled_places
from fgjax.core.features import Features
from fgjax.core.files import write_bytes
from fgjax.data.pipeline import epoch_order
from fgjax.devices.jit import program
from fgjax.models.composed.prompts import LEARNED, PromptClassifier
from fgjax.training.optimizer import make_optimizer
from fgjax.training.validation import best_row, validated

Places = Int[np.ndarray, "_"]
Read = Callable[[Places], Features]
"""From the places of images to what goes into the last block."""


class PromptRecipe(NamedTuple):
    """How prompts are trained: AdamW under a cosine.

    Attributes:
      epochs, batch_size, learning_rate: as they are called.
      weight_decay: of the shared vector; prompts do not decay.
      seed: of the order of the images.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int


class PromptTraining(NamedTuple):
    """A training of prompts after some epochs.

    Attributes:
      learned: the parameters that learn.
      optimizer: its state.
      best: the parameters of the best epoch so far.
      rows: of every epoch the mean loss, and the validation images' loss and accuracy.
    """

    learned: Any
    optimizer: Any
    best: Any
    rows: list[dict[str, Any]]

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        stream = io.BytesIO()
        leaves: dict[str, Any] = {
            f"leaf_{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(self[:3]))
        }
        np.savez(stream, rows=np.array(json.dumps(self.rows)), **leaves)
        write_bytes(path, stream.getvalue())

    def read(self, path: Path) -> "PromptTraining":
        """Return what `save` wrote of a training like this one; this one where there is none, or a
        damaged one."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
                found = [held[f"leaf_{i}"] for i in range(len(held.files) - 1)]
                rows = json.loads(str(held["rows"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return self
        leaves, shape = jax.tree.flatten(self[:3])
        kinds = lambda leaves: [(leaf.shape, leaf.dtype) for leaf in leaves]
        if kinds(map(np.asarray, leaves)) != kinds(found):
            return self
        learned, state, best = jax.tree.unflatten(shape, [jnp.asarray(leaf) for leaf in found])
        return PromptTraining(learned, state, best, rows)


def learned_of(model: PromptClassifier) -> dict[str, Any]:
    """Return the parameters that learn."""
    return {name: model.variables["params"][name] for name in LEARNED}


def with_learned(model: PromptClassifier, learned: dict[str, Any]) -> PromptClassifier:
    """Return the classifier with other prompts and another shared vector."""
    params = {**model.variables["params"], **learned}
    return model.replace(variables={**model.variables, "params": params})


@program("train", static_argnames="optimizer")
def prompt_step(
    model: PromptClassifier,
    learned: Any,
    state: Any,
    features: Features,
    labels: Int[Array, "n"],
    optimizer: optax.GradientTransformation,
) -> tuple[Any, Any, Float[Array, ""]]:
    """Return parameters and optimizer after a step on one batch, and the loss before it:

    -log(exp(s[y]) / Σ_c exp(s[c]))     (Eq. 2), the mean over the batch
    """

    def loss(learned):
        logits = with_learned(model, learned).head(features)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, grad = jax.value_and_grad(loss)(learned)
    with jax.numpy_dtype_promotion("standard"):  # Adam's bias correction, see `train_step`
        updates, state = optimizer.update(grad, state, learned)
        return optax.apply_updates(learned, updates), state, value


@program("explain")
def _logits(model, features):
    return model.head(features)


def prompt_logits(
    model: PromptClassifier, read: Read, places: Places, batch_size: int
) -> Float[np.ndarray, "n k"]:
    """Return the logits of images."""
    parts = [np.zeros((0, model.network.num_classes), np.float32)]
    for i in range(0, len(places), batch_size):
        part = places[i : i + batch_size]
        filled = part[filled_places(len(part), batch_size)]
        parts.append(np.asarray(_logits(model, read(filled)))[: len(part)])
    return np.concatenate(parts)


def fit_prompts(
    model: PromptClassifier,
    read: Read,
    labels: Int[np.ndarray, "n"],
    fitted: Places,
    validation: Places,
    recipe: PromptRecipe,
    path: Path | None = None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
) -> tuple[PromptClassifier, PromptTraining]:
    """Return the classifier of the best epoch, and how it came to be.

    Args:
      model: what the training starts from.
      read: gives `model.features` of images.
      fitted, validation: places of images.
      path: where the training is kept after every epoch, and goes on from; None: nowhere.
      on_epoch: is given every epoch's row.
    """
    batch = min(recipe.batch_size, len(fitted))
    steps = len(fitted) // batch
    optimizer = _optimizer(recipe, steps * recipe.epochs)
    learned = learned_of(model)
    done = PromptTraining(learned, optimizer.init(learned), learned, [])
    if path is not None:
        done = done.read(path)
    for epoch in range(len(done.rows), recipe.epochs):
        learned, state, losses = done.learned, done.optimizer, []
        for places in _batches(fitted, batch, recipe.seed, epoch):
            learned, state, loss = prompt_step(
                model, learned, state, read(places), jnp.asarray(labels[places]), optimizer
            )
            losses.append(loss)
        logits = prompt_logits(with_learned(model, learned), read, validation, batch)
        row: dict[str, Any] = {
            "epoch": epoch + 1,
            "loss": float(np.mean([float(x) for x in losses])),
        }
        row |= validated(logits, labels[validation])
        rows = [*done.rows, row]
        done = PromptTraining(learned, state, done.best, rows)
        if best_row(rows) == epoch:
            done = done._replace(best=learned)
        if path is not None:
            done.save(path)
        on_epoch(row)
    return with_learned(model, done.best), done


def _optimizer(recipe: PromptRecipe, steps: int) -> optax.GradientTransformation:
    return make_optimizer(
        steps, recipe.learning_rate, warmup=0.05, weight_decay=recipe.weight_decay, clip=1.0
    )


def _batches(fitted: Places, batch: int, seed: int, epoch: int) -> Iterator[Places]:
    """Yield an epoch's images in its own order; what fills no batch is left out."""
    order = fitted[epoch_order(seed, epoch, len(fitted))]
    for i in range(0, len(order) - batch + 1, batch):
        yield order[i : i + batch]
