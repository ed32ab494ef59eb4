"""Stage "train": a classifier of the run's own, with a checkpoint after every epoch."""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int, UInt8

from fgjax.data.pipeline import epoch_order, load_batch, load_examples
from fgjax.data.types import DataError, Record, Source
from fgjax.files import write_atomic
from fgjax.options import Config, ConfigError
from fgjax.parallel import make_mesh, replicate, shard
from fgjax.progress import progress, say
from fgjax.run_folder import RunFolder
from fgjax.stages.setup import base_key, fresh_model, training_records
from fgjax.training.checkpoints import load_tree, save_classifier, save_tree
from fgjax.training.classifier import EpochResult, TrainState, make_optimizer, start, train

IN_MEMORY = 4 * 2**30
"""Bytes of decoded images that are kept; larger sets are decoded again every epoch."""


@dataclass(frozen=True)
class Images:
    """Training images, in memory when they fit there, else decoded as they are asked for."""

    source: Source
    records: tuple[Record, ...]
    labels: Int[np.ndarray, "n"]
    pixels: UInt8[np.ndarray, "n h w 3"] | None
    workers: int

    def get(self, index: Int[np.ndarray, "b"]) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels at these places."""
        if self.pixels is not None:
            return self.pixels[index], self.labels[index]
        records = [self.records[i] for i in index]
        return load_batch(self.source, records, workers=self.workers).images, self.labels[index]


def _load(source: Source, records: list[Record], config: Config) -> tuple[Images, dict[str, str]]:
    failed, good, pixels = {}, [], []
    small = len(records) * config.data.size**2 * 3 <= IN_MEMORY
    with progress("load", len(records)) as counter:
        loaded = load_examples(source, records, workers=config.data.workers)
        for place, example in loaded:
            counter.advance()
            if isinstance(example, DataError):
                failed[records[place].name] = str(example)
                continue
            good.append(records[place])
            if small:
                pixels.append(example.image)
    labels = np.array([record.label for record in good], np.int32)
    stacked = np.stack(pixels) if pixels else None
    return Images(source, tuple(good), labels, stacked, config.data.workers), failed


def split_validation(
    labels: Int[np.ndarray, "n"], share: float, seed: int
) -> tuple[Int[np.ndarray, "a"], Int[np.ndarray, "b"]]:
    """Places for training and for validation: about `share` of every class, at least one
    image of a class that has two or more."""
    validation = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        order = epoch_order(seed, int(label), len(places))
        count = min(max(1, round(share * len(places))), len(places) - 1)
        validation.extend(places[order[:count]])
    validation = np.sort(np.array(validation, np.int64))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def train_stage(config: Config, source: Source, run: RunFolder) -> None:
    """Trains, or goes on training, and writes run/checkpoint.

    Per epoch: a line, a row in metrics.jsonl, and run/training/epoch_NNNN to go on from.
    The checkpoint is that of the epoch with the best validation accuracy (lowest loss among
    equals); validation images come from the training split.

    Raises:
      ConfigError: there is nothing to train on.
    """
    if (run.path / "checkpoint" / "classifier.json").is_file():
        shutil.rmtree(run.path / "training", ignore_errors=True)
        return
    records = training_records(source, config)
    began = time.monotonic()
    images, failed = _load(source, records, config)
    run.set_failures("train", failed)
    settings = config.train
    training, validation = split_validation(images.labels, settings.validation, config.seed)
    if len(training) < 2 or len(validation) < 1:
        raise ConfigError(f"data.path={config.data.path}: too few training images that can be read")

    mesh = make_mesh(config.parallel)
    devices = mesh.devices.size
    batch = min(settings.batch_size, len(training))
    batch = max(batch - batch % devices, devices)
    steps = len(training) // batch
    name = config.model.name or "resnet18"
    model = fresh_model(config, source)
    optimizer = make_optimizer(
        steps * settings.epochs,
        settings.learning_rate,
        settings.warmup,
        settings.weight_decay,
        settings.adam_eps,
    )
    folder = run.path / "training"
    state, first = _last_state(folder, start(model, optimizer))
    say(
        f"train: {name}, {len(training)} images in {len(source.classes)} classes "
        f"(and {len(validation)} for validation), {settings.epochs} epochs"
        + (f", going on after epoch {first}" if first else "")
    )

    def train_batches(epoch: int):
        order = training[epoch_order(config.seed, epoch, len(training))]
        for i in range(steps):
            yield images.get(order[i * batch : (i + 1) * batch])

    def validation_batches():
        for i in range(0, len(validation), batch):
            yield images.get(validation[i : i + batch])

    def place(batch):
        return shard(mesh, batch) if devices > 1 else batch

    metrics = run.path / "metrics.jsonl"
    done = _read_rows(metrics)[:first]
    write_atomic(metrics, "".join(json.dumps(row) + "\n" for row in done))
    # A state whose row was never written is of an epoch that comes again.
    _forget(folder, keep=set(range(first)))

    def on_epoch(result: EpochResult, state: TrainState) -> None:
        if not np.isfinite([result.train_loss, result.validation_loss]).all():
            raise ConfigError(
                f"train.learning_rate={settings.learning_rate}: the loss of epoch "
                f"{result.epoch + 1} is not finite; give a lower one"
            )
        row = {**result._asdict(), "seconds": round(time.monotonic() - began, 1)}
        done.append(row)
        save_tree(folder / f"epoch_{result.epoch:04d}", state)
        with metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        _forget(folder, keep={result.epoch, _best(done)})
        say(
            f"epoch {result.epoch + 1}/{settings.epochs}: loss {result.train_loss:.3f}, "
            f"validation loss {result.validation_loss:.3f}, "
            f"accuracy {result.validation_accuracy:.1%}, {row['seconds']:.0f} s"
        )

    train(
        model,
        train_batches,
        validation_batches,
        key=jax.random.fold_in(base_key(config), 2),
        epochs=settings.epochs,
        batch_size=batch,
        optimizer=optimizer,
        place=place,
        state=replicate(mesh, state) if devices > 1 else state,
        first_epoch=first,
        on_epoch=on_epoch,
        smoothing=settings.label_smoothing,
        shift=settings.shift,
        light=settings.light,
    )
    best = _best(done)
    state = load_tree(folder / f"epoch_{best:04d}", start(model, optimizer))
    # What is there without its classifier.json is half a checkpoint.
    shutil.rmtree(run.path / "checkpoint", ignore_errors=True)
    save_classifier(run.path / "checkpoint", name, model.replace(variables=state.variables))
    run.finish(
        "train",
        seconds=round(time.monotonic() - began, 1),
        images=len(training),
        failed=len(failed),
        best_epoch=best,
        validation_accuracy=done[best]["validation_accuracy"],
    )
    shutil.rmtree(folder, ignore_errors=True)


def _best(rows: list[dict]) -> int:
    key = lambda row: (row["validation_accuracy"], -row["validation_loss"])  # noqa: E731
    return max(rows, key=key)["epoch"]


def _read_rows(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # the last line of a run that was cut off while writing it
            break
    return rows


def _last_state(folder: Path, fresh: TrainState) -> tuple[TrainState, int]:
    """Where an interrupted training left off: its state and the number of finished epochs."""
    rows = _read_rows(folder.parent / "metrics.jsonl")
    saved = sorted(folder.glob("epoch_[0-9][0-9][0-9][0-9]"), reverse=True)
    for path in saved:
        epoch = int(path.name.removeprefix("epoch_"))
        # An epoch counts once its row is written too, which happens after its state.
        if epoch < len(rows):
            return load_tree(path, fresh), epoch + 1
    return fresh, 0


def _forget(folder: Path, keep: set[int]) -> None:
    for path in folder.glob("epoch_[0-9][0-9][0-9][0-9]"):
        if int(path.name.removeprefix("epoch_")) not in keep:
            shutil.rmtree(path)
