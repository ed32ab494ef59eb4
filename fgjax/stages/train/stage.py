"""Stage "train": a classifier of the run's own, with a checkpoint after every epoch."""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh
from jaxtyping import Int

from fgjax.core.files import write_atomic
from fgjax.core.progress import say
from fgjax.data.pipeline import epoch_order
from fgjax.data.types import Source
from fgjax.devices.collectives import leads, of_first, own_part, same_everywhere, wait_for_all
from fgjax.devices.mesh import make_mesh, own_rows, replicate, shard
from fgjax.models.classifier import Classifier
from fgjax.models.composed.prototypes import PrototypeNet, project
from fgjax.models.pretrained_trunk import TRUNK
from fgjax.options.ranges import read_rates
from fgjax.options.schema import Config, ConfigError
from fgjax.options.training import TrainConfig
from fgjax.runs.folder import RunFolder
from fgjax.stages.focus.patches import found_patches, whole_images
from fgjax.stages.setup import base_key, make_source, training_model, training_records
from fgjax.stages.train.images import TrainingImages, load_training_images
from fgjax.stages.train.proxies import ProxyKeeper
from fgjax.stages.train.recipes import looks_at_patches, special_recipe
from fgjax.training.augment.erasing import Erasing
from fgjax.training.augment.geometry_and_light import Augmentation
from fgjax.training.augment.mixing import Mixing
from fgjax.training.batch_size import cache_file, find_batch_size
from fgjax.training.checkpoints import load_tree, save_classifier, save_tree
from fgjax.training.classifier import EpochResult, Recipe, TrainState, start, train
from fgjax.training.optimizer import begins_with, check_modules, learning_rates, make_optimizer
from fgjax.training.tensorboard import Curves


def split_validation(
    labels: Int[np.ndarray, "n *a"], share: float, seed: int
) -> tuple[Int[np.ndarray, "a"], Int[np.ndarray, "b"]]:
    """Return places for training and for validation: about `share` of every class, at least one
    image of a class that has two or more. Of images with attributes: about `share` of all."""
    if labels.ndim == 2:
        labels = np.zeros(len(labels), np.int32)
    validation = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        order = epoch_order(seed, int(label), len(places))
        count = min(max(1, round(share * len(places))), len(places) - 1)
        validation.extend(places[order[:count]])
    validation = np.sort(np.array(validation, np.int64))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def make_recipe(config: Config, model: Classifier, steps: int) -> Recipe:
    """Return the recipe of `train.*` for a training of so many steps.

    Raises:
      ConfigError: train.rates or train.freeze names no module of the network.
    """
    settings = config.train
    rates = read_rates(settings.rates)
    for option, names in (("rates", [n for n, _ in rates]), ("freeze", settings.freeze)):
        try:
            check_modules(model.variables["params"], names)
        except ValueError as error:
            raise ConfigError(f"train.{option}: {error}") from None
    optimizer = make_optimizer(
        steps,
        settings.learning_rate,
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        warmup=settings.warmup,
        drops=settings.drops,
        weight_decay=settings.weight_decay,
        adam_eps=settings.adam_eps,
        momentum=settings.momentum,
        rates=rates,
    )
    augment = Augmentation(
        size=config.data.size,
        crop=settings.crop,
        window=settings.window,
        flip=settings.flip,
        shift=settings.shift,
        light=settings.light,
        color=settings.color,
        # Erasing papers fill with what is 0 once an image is normalised.
        erase=Erasing(settings.erase, settings.erase_side, tuple(model.mean)),
    )
    mix = Mixing(settings.mix, settings.mix_alpha, settings.mix_probability)
    # The new layers of a composed network came with no statistics: they learn them.
    modules = (TRUNK,) if TRUNK in model.variables["params"] else ("",)
    batch_norm = settings.batch_norm
    if batch_norm == "auto":
        # A fresh network's statistics look as if they were folded, too; it has to learn them.
        folded = config.model.pretrained is not None and statistics_are_folded(model, modules)
        batch_norm = "fixed" if folded else "batch"
    recipe = Recipe(
        optimizer, augment, settings.label_smoothing, batch_norm, modules, settings.freeze, mix=mix
    )
    return special_recipe(config, model, recipe)


def statistics_are_folded(model: Classifier, modules: tuple[str, ...] = ("",)) -> bool:
    """Return whether every BatchNorm of these modules has mean 0 and variance 1: then its work is
    done by the convolution before it, and the statistics of a batch would undo that."""
    flat = traverse_util.flatten_dict(model.variables.get("batch_stats", {}), sep="/")
    own = {path: value for path, value in flat.items() if begins_with(path, modules)}
    unit = [bool((value == float(path.endswith("/var"))).all()) for path, value in own.items()]
    return bool(unit) and all(unit)


def train_stage(config: Config, source: Source, run: RunFolder) -> None:
    """Train, or goes on training, and writes run/checkpoint.

    Connected processes all call it: they train together, process 0 decides and writes.

    Per epoch: a line, a row in metrics.jsonl, a point in run/tensorboard, and
    run/training/epoch_NNNN to go on from (with the proxies in use, see
    `fgjax.stages.train.proxies`).
    The checkpoint is that of the epoch with the best validation accuracy (lowest loss among
    equals); validation images come from the training split.

    Raises:
      ConfigError: there is nothing to train on, or the training cannot be done as told.
    """
    if of_first((run.path / "checkpoint" / "classifier.json").is_file()):
        if leads():
            shutil.rmtree(run.path / "training", ignore_errors=True)
        return
    records = training_records(source, config)
    began = time.monotonic()
    settings = config.train
    model = training_model(config, source)
    patches = found_patches(config, source, run, train_stage) if looks_at_patches(model) else None
    if settings.crop < 1 or settings.window == "random":
        source = make_source(config, margin=True)
    images, failed = load_training_images(source, records, config, patches)
    run.set_failures("train", failed)
    if not same_everywhere("\n".join(record.name for record in images.records)):
        raise ConfigError(
            f"data.path={config.data.path}: the processes cannot read the same training images "
            f"(this one: {len(images.records)}); every machine needs all of them"
        )
    training, validation = split_validation(images.labels, settings.validation, config.seed)
    if len(training) < 2 or len(validation) < 1:
        raise ConfigError(f"data.path={config.data.path}: too few training images that can be read")

    if images.labels.ndim > 1 and (settings.mix, config.proxy.method) != ("none", "none"):
        raise ConfigError(
            "train.mix and proxy.method want one class an image, and these images have several "
            "labels: train.mix=none proxy.method=none"
        )
    if patches is not None and config.proxy.method != "none":
        raise ConfigError(
            f"proxy.method={config.proxy.method}: a two-stream network is shown patches beside "
            "images, and proxies have none: proxy.method=none, or focus.readout=none"
        )
    mesh, own_mesh = make_mesh(config.parallel, everywhere=True), make_mesh(config.parallel)
    devices = mesh.devices.size
    batch = settings.batch_size
    if not batch and leads():
        batch = _largest_batch(config, model, images, len(training), run, devices)
    batch = min(of_first(batch), len(training))
    batch = max(batch - batch % devices, devices)
    if batch > len(training):
        raise ConfigError(
            f"data.path={config.data.path}: {len(training)} training images for {devices} devices; "
            "give fewer devices (distributed.processes, parallel=none)"
        )
    rows = own_rows(mesh, batch)
    own_batch = rows.stop - rows.start
    steps = len(training) // batch
    recipe = make_recipe(config, model, steps * settings.epochs)
    folder = run.path / "training"
    fresh = start(model, recipe.optimizer)
    first = of_first(_finished_epochs(folder))
    state = load_tree(folder / _state(first - 1), fresh) if first else fresh
    say(
        f"train: {model.name}, {len(training)} images in {len(source.classes)} classes "
        f"(and {len(validation)} for validation), {settings.epochs} epochs"
        + (f", going on after epoch {first}" if first else "")
    )
    if config.model.pretrained is None:
        say("train: from scratch; model.pretrained=… would start from trained weights")

    key = jax.random.fold_in(base_key(config), 2)
    proxies = ProxyKeeper(
        config, images, training, folder, own_batch, jax.random.fold_in(key, 2**31), first
    )

    def train_batches(epoch: int):
        order = training[epoch_order(config.seed, epoch, len(training))][: steps * batch]
        order = order.reshape(steps, batch)[:, rows].reshape(-1)  # of each batch, this process's
        for place, (pixels, labels) in enumerate(images.batches(order, own_batch)):
            if images.boxes is not None:  # there are no proxies of images with patches
                yield pixels, labels
                continue
            yield proxies.now.put(pixels, order[place * own_batch :][: len(labels)]), labels

    metrics = run.path / "metrics.jsonl"
    done = _read_rows(metrics)[:first]
    if leads():
        write_atomic(metrics, "".join(json.dumps(row) + "\n" for row in done))
        # A state whose row was never written is of an epoch that comes again.
        _forget(folder, keep=set(range(first)))
    rate = learning_rates(
        steps * settings.epochs,
        settings.learning_rate,
        settings.schedule,
        settings.warmup,
        settings.drops,
    )

    def on_epoch(result: EpochResult, state: TrainState) -> None:
        if not np.isfinite([result.train_loss, result.validation_loss]).all():
            raise ConfigError(
                f"train.learning_rate={settings.learning_rate}: the loss of epoch "
                f"{result.epoch + 1} is not finite; give a lower one"
            )
        row = {
            **result._asdict(),
            **proxies.facts(),
            "learning_rate": float(rate(result.epoch * steps)),
            "seconds": round(time.monotonic() - began, 1),
        }
        done.append(row)
        save_tree(folder / _state(result.epoch), state)
        if not leads():
            return
        with metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        curves.add(row)
        _forget(folder, keep={result.epoch, _best(done)})
        say(
            f"epoch {result.epoch + 1}/{settings.epochs}: loss {result.train_loss:.3f}, "
            f"validation loss {result.validation_loss:.3f}, "
            f"accuracy {result.validation_accuracy:.1%}, {row['seconds']:.0f} s"
            + (f", {row['proxies']} proxies" if row.get("proxies") else "")
        )

    curves = Curves(run.path / "tensorboard", done) if leads() else None
    with closing(curves) if curves else nullcontext():
        train(
            model.replace(network=model.network.clone(dtype=_dtype(settings))),
            train_batches,
            lambda: images.batches(own_part(validation), own_batch),
            key=key,
            epochs=settings.epochs,
            batch_size=own_batch,
            recipe=recipe,
            place=_placer(mesh),
            place_own=_placer(own_mesh),
            state=replicate(mesh, state) if devices > 1 else state,
            first_epoch=first,
            before_epoch=proxies.begin,
            on_epoch=on_epoch,
        )
    best = of_first(_best(done))
    state = load_tree(folder / _state(best), fresh)
    model = model.replace(variables=state.variables)
    if isinstance(model.network, PrototypeNet):
        say("train: every prototype moves onto the nearest patch of a training image of its class")
        model = project(model, whole_images(images, training, config.data.size))
    # What is there without its classifier.json is half a checkpoint.
    if leads():
        shutil.rmtree(run.path / "checkpoint", ignore_errors=True)
    save_classifier(run.path / "checkpoint", model)
    wait_for_all("trained")
    if not leads():
        return
    run.finish(
        "train",
        seconds=round(time.monotonic() - began, 1),
        images=len(training),
        failed=len(failed),
        best_epoch=best,
        validation_accuracy=done[best]["validation_accuracy"],
    )
    shutil.rmtree(folder, ignore_errors=True)


def _placer(mesh: Mesh) -> Callable[[Any], Any]:
    return (lambda part: shard(mesh, part)) if mesh.devices.size > 1 else (lambda part: part)


def _largest_batch(
    config: Config,
    model: Classifier,
    images: TrainingImages,
    count: int,
    run: RunFolder,
    devices: int,
) -> int:
    """For train.batch_size=0: what fits the devices, found once for a run wherever it goes on."""
    if "batch_size" not in run.facts:
        network = model.network.clone(dtype=_dtype(config.train))
        whole = config.train.crop < 1 or config.train.window == "random"  # with its margin
        try:
            each = find_batch_size(
                model.replace(network=network),
                make_recipe(config, model, 10),
                round(config.data.size / (config.data.crop if whole else 1)),
                max(1, count // devices),
                labels=images.labels.shape[1:],
                cache=cache_file(),
            )
        except ValueError as error:
            raise ConfigError(f"train.batch_size=0: {error}") from None
        run.facts["batch_size"] = each * devices
        run.save_facts()
        say(f"train: batches of {each * devices}, the largest that fit (train.batch_size=0)")
    return run.facts["batch_size"]


def _dtype(settings: TrainConfig) -> type:
    bf16 = {"f32": False, "bf16": True, "auto": jax.default_backend() != "cpu"}
    return jnp.bfloat16 if bf16[settings.precision] else jnp.float32


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


def _state(epoch: int) -> str:
    return f"epoch_{epoch:04d}"


def _finished_epochs(folder: Path) -> int:
    """Return where an interrupted training left off: the number of finished epochs."""
    rows = _read_rows(folder.parent / "metrics.jsonl")
    saved = sorted(folder.glob("epoch_[0-9][0-9][0-9][0-9]"), reverse=True)
    for path in saved:
        epoch = int(path.name.removeprefix("epoch_"))
        # An epoch counts once its row is written too, which happens after its state.
        if epoch < len(rows):
            return epoch + 1
    return 0


def _forget(folder: Path, keep: set[int]) -> None:
    for path in folder.glob("epoch_[0-9][0-9][0-9][0-9]"):
        if int(path.name.removeprefix("epoch_")) not in keep:
            shutil.rmtree(path)
