"""`dry_run=true`: how much work a run is, measured on this machine before doing it."""

import time
from dataclasses import replace

import jax
import numpy as np

from fgjax.attribution import METHODS
from fgjax.attribution.fido import FidoConfig
from fgjax.config import Config
from fgjax.data.types import Record, Source
from fgjax.models.classifier import create_model
from fgjax.models.pretrained import load_pretrained
from fgjax.progress import say
from fgjax.stages.explain import chunk_size
from fgjax.stages.setup import trains
from fgjax.training.checkpoints import load_classifier
from fgjax.training.classifier import make_optimizer, start, train_step

JUDGING = 4 * 2 + 2
"""Forward passes per image in the evaluation: kept and deleted for a map and its baselines."""


def dry_run(name: str, config: Config, source: Source, records: tuple[Record, ...]) -> None:
    """Says how many images and forward passes a run takes, and about how long.

    Two steps are run to time them; nothing is written.
    """
    training = [r for r in source.records if r.split == "train" and r.label is not None]
    model = _model(config, source)
    say(f"config={name} would do, in {config.run_dir}:")
    total = 0.0
    if trains(config) and "train" in config.stages:
        settings = config.train
        images = round(len(training) * (1 - settings.validation)) * settings.epochs
        seconds = images * _seconds_per_training_image(model, config)
        total += seconds
        say(
            f"  train: {len(training)} images, {settings.epochs} epochs, "
            f"{images} forward and backward passes, about {_time(seconds)}"
        )
    if "explain" in config.stages:
        steps = config.explain.settings.steps
        passes = steps * 2 * config.explain.settings.batch_size
        seconds = len(records) * _seconds_per_explained_image(model, config)
        total += seconds
        say(
            f"  explain: {len(records)} images, {passes} forward and backward passes each "
            f"({len(records) * passes} in all), about {_time(seconds)}"
        )
    if "evaluate" in config.stages:
        say(f"  evaluate: {len(records)} images, about {JUDGING} forward passes each")
    say(f"  about {_time(total)} on {len(jax.devices())} x {jax.devices()[0].device_kind}")


def _model(config: Config, source: Source):
    if config.model.weights:
        return load_pretrained(config.model.name, config.model.weights, size=config.data.size)
    if config.model.checkpoint:
        return load_classifier(config.model.checkpoint)
    return create_model(
        config.model.name or "resnet18", max(2, len(source.classes)), size=config.data.size
    )


def _seconds_per_training_image(model, config: Config) -> float:
    settings, batch = config.train, config.train.batch_size
    optimizer = make_optimizer(10, settings.learning_rate, 0.1, 0.0, settings.adam_eps)
    state = jax.tree.map(jax.numpy.array, start(model, optimizer))
    images = np.zeros((batch, config.data.size, config.data.size, 3), np.uint8)
    labels = np.zeros(batch, np.int32)
    seconds = 0.0
    for _ in range(3):  # the first one compiles
        began = time.monotonic()
        state, loss = train_step(
            state, images, labels, jax.random.key(0), network=model.network,
            optimizer=optimizer, mean=model.mean, std=model.std,
            smoothing=settings.label_smoothing, shift=settings.shift, light=settings.light,
        )  # fmt: skip
        jax.block_until_ready(loss)
        seconds = time.monotonic() - began
    return seconds / batch


def _seconds_per_explained_image(model, config: Config) -> float:
    size = chunk_size(config, 1)
    settings: FidoConfig = replace(config.explain.settings, steps=2, images_per_step=size)
    side = config.data.size
    images = np.full((size, side, side, 3), 0.5, np.float32)
    targets = np.zeros(size, np.int32)
    seconds = 0.0
    for _ in range(2):  # the first one compiles
        began = time.monotonic()
        result = METHODS[config.explain.method](
            model, images, targets, key=jax.random.key(0), config=settings
        )
        jax.block_until_ready(result.heatmap)
        seconds = time.monotonic() - began
    return seconds / 2 * config.explain.settings.steps / size


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
