"""`dry_run=true`: how much work a run is, measured on this machine before doing it."""

import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from fgjax.attribution import METHODS
from fgjax.attribution.fido import FidoConfig
from fgjax.data.types import Record, Source
from fgjax.options import Config
from fgjax.progress import say
from fgjax.stages.explain import chunk_size
from fgjax.stages.setup import load_model, training_model, training_records, trains
from fgjax.stages.train import make_recipe
from fgjax.training.classifier import start, train_step

JUDGING = 5 * 3 + 1
"""Forward passes per image in the evaluation: the image whole, kept and deleted, for a map and
at most four baselines; and the prediction."""


def dry_run(name: str, config: Config, source: Source, records: tuple[Record, ...]) -> None:
    """Says how many images and forward passes a run takes, and about how long.

    Two steps are run to time them; nothing is written.
    """
    if trains(config):
        training = training_records(source, config)
        model = training_model(config, source)
    else:
        model = load_model(config, source, Path(config.run_dir)).model
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
    passes = config.explain.settings.steps * 2 * config.explain.settings.batch_size
    each = _seconds_per_explained_image(model, config)
    if "explain" in config.stages:
        seconds = len(records) * each
        total += seconds
        say(
            f"  explain: {len(records)} images, {passes} forward and backward passes each "
            f"({len(records) * passes} in all), about {_time(seconds)}"
        )
    if "evaluate" in config.stages:
        # A forward pass alone is about a third of one with its backward pass.
        seconds = len(records) * JUDGING * each / passes / 3
        total += seconds
        say(
            f"  evaluate: {len(records)} images, about {JUDGING} forward passes each "
            f"({len(records) * JUDGING} in all), about {_time(seconds)}"
        )
    where = f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
    say(f"  about {_time(total)} in all on {where}, and the time to compile; nothing is written")


def _seconds_per_training_image(model, config: Config) -> float:
    batch, side = config.train.batch_size, config.data.size
    side = round(side / config.data.crop) if config.train.crop < 1 else side
    recipe = make_recipe(config, model, 10)
    state = jax.tree.map(jax.numpy.array, start(model, recipe.optimizer))
    images = np.zeros((batch, side, side, 3), np.uint8)
    labels = np.zeros(batch, np.int32)
    seconds = 0.0
    for _ in range(3):  # the first one compiles
        began = time.monotonic()
        state, loss = train_step(
            state, images, labels, jax.random.key(0), network=model.network,
            mean=model.mean, std=model.std, recipe=recipe,
        )  # fmt: skip
        jax.block_until_ready(loss)
        seconds = time.monotonic() - began
    return seconds / batch


def _seconds_per_explained_image(model, config: Config) -> float:
    size = chunk_size(config, 1)
    settings: FidoConfig = replace(config.explain.settings, steps=2, images_per_step=size)
    side = config.data.size
    images = jax.numpy.full((size, side, side, 3), 0.5, np.float32)
    targets = jax.numpy.zeros(size, np.int32)
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
