"""The epochs of a training: batches in, a row and a state out after each."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fgjax.core.progress import say
from fgjax.core.tables import finite
from fgjax.data.pipeline import balanced_order, epoch_order
from fgjax.devices.collectives import leads, own_part
from fgjax.devices.mesh import own_rows, replicate, shard
from fgjax.options.schema import ConfigError
from fgjax.stages.train.history import History
from fgjax.stages.train.prepare import Training, compute_dtype
from fgjax.stages.train.proxies import ProxyKeeper
from fgjax.training.classifier import EpochResult, Inputs, TrainState, start, train
from fgjax.training.optimizer import learning_rates
from fgjax.training.tensorboard import Curves


def train_epochs(training: Training) -> None:
    """Train from the last finished epoch on.

    Per epoch: a line, a row in metrics.jsonl, a point in run/tensorboard, and
    run/training/epoch_NNNN to go on from (with the proxies in use, see `ProxyKeeper`).

    Raises:
      ConfigError: the loss is not finite any more.
    """
    job, model, history = training.job, training.model, training.history
    settings = job.config.train
    rows = own_rows(training.mesh, training.batch)
    own_batch = rows.stop - rows.start
    state = history.last_state(start(model, training.recipe))
    say(
        f"train: {model.name}, {len(training.training)} images in {len(job.source.classes)} "
        f"classes (and {len(training.validation)} for validation), {training.epochs} epochs"
        + (f", going on after epoch {history.first}" if history.first else "")
    )
    if job.config.model.pretrained is None:
        say("train: from scratch; model.pretrained=… would start from trained weights")
    proxies = ProxyKeeper(
        job.config,
        training.images,
        training.training,
        history.folder,
        own_batch,
        jax.random.fold_in(training.key, 2**31),
        history.first,
    )
    history.begin()
    curves = Curves(history.run / "tensorboard", history.rows) if leads() else None
    with closing(curves) if curves else nullcontext(), _written(history):
        train(
            model.replace(network=model.network.clone(dtype=compute_dtype(settings))),
            lambda epoch: _batches(training, proxies, epoch, rows),
            lambda: training.images.batches(own_part(training.validation), own_batch),
            key=training.key,
            epochs=training.epochs,
            batch_size=own_batch,
            recipe=training.recipe,
            place=_placer(training.mesh),
            place_own=_placer(training.own_mesh),
            state=replicate(training.mesh, state) if training.mesh.devices.size > 1 else state,
            first_epoch=history.first,
            before_epoch=proxies.begin,
            on_epoch=_on_epoch(training, proxies, curves),
            recipes=lambda epoch: training.kind.of_epoch(
                job.config, training.recipe, epoch, settings.epochs
            ),
            change=lambda epoch, now: training.kind.change(
                job.config, epoch, settings.epochs, now, training.images, training.training
            ),
        )


@contextmanager
def _written(history: History) -> Iterator[None]:
    """Leave nothing half written, however the epochs end."""
    try:
        yield
    finally:
        history.finish()


def _batches(
    training: Training, proxies: ProxyKeeper, epoch: int, rows: slice
) -> Iterator[tuple[Inputs, np.ndarray]]:
    """Yield the batches of an epoch, of each this process's rows, with proxies in place."""
    places, batch, own = training.training, training.batch, rows.stop - rows.start
    seed, labels = training.job.config.seed, training.images.labels
    if training.job.config.train.sampling == "balanced":
        order = places[balanced_order(seed, epoch, labels[places])]
    else:
        order = places[epoch_order(seed, epoch, len(places))]
    order = order[: training.steps * batch].reshape(training.steps, batch)[:, rows].reshape(-1)
    for number, (inputs, labels) in enumerate(training.images.batches(order, own, epoch)):
        yield proxies.put(inputs, order[number * own :][: len(labels)]), labels


def _on_epoch(
    training: Training, proxies: ProxyKeeper, curves: Curves | None
) -> Callable[[EpochResult, TrainState], None]:
    settings = training.job.config.train
    rate = learning_rates(
        training.steps * settings.epochs // settings.accumulate,
        settings.learning_rate,
        settings.schedule,
        settings.warmup,
        settings.drops,
    )

    def counts(epoch: int) -> bool:
        return training.kind.counts(training.job.config, epoch, settings.epochs)

    def on_epoch(result: EpochResult, state: TrainState) -> None:
        validated = [result.validation_loss] if len(training.validation) else []
        if not np.isfinite([result.train_loss, *validated]).all():
            raise ConfigError(
                f"train.learning_rate={settings.learning_rate}: the loss of epoch "
                f"{result.epoch + 1} is not finite; give a lower one"
            )
        row = {
            **result._asdict(),
            "validation_loss": finite(result.validation_loss),  # null where nothing is validated
            "validation_accuracy": finite(result.validation_accuracy),
            **({} if counts(result.epoch) else {"counts": False}),
            **proxies.facts(),
            "learning_rate": float(rate(result.epoch * training.steps // settings.accumulate)),
            "seconds": round(time.monotonic() - training.began, 1),
        }
        training.history.add(row, state)
        if curves is not None:  # the first process
            curves.add(row)
            _say_epoch(row, training.epochs)

    return on_epoch


def _say_epoch(row: dict[str, Any], epochs: int) -> None:
    say(
        f"epoch {row['epoch'] + 1}/{epochs}: loss {row['train_loss']:.3f}, "
        + (
            f"validation loss {row['validation_loss']:.3f}, "
            f"accuracy {row['validation_accuracy']:.1%}, "
            if row["validation_accuracy"] is not None
            else ""
        )
        + f"{row['seconds']:.0f} s"
        + (f", {row['proxies']} proxies" if row.get("proxies") else "")
    )


def _placer(mesh: Mesh) -> Callable[[Any], Any]:
    return (lambda part: shard(mesh, part)) if mesh.devices.size > 1 else jax.device_put
