"""`dry_run=true`: how much work a run is, measured on this machine before doing it."""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fgjax.attribution.common.streaming import choose_chunk
from fgjax.attribution.registry import Passes, count_passes
from fgjax.core.functional import combine, partition
from fgjax.core.progress import say
from fgjax.devices.forward import compiled
from fgjax.devices.jit import program
from fgjax.models.folding import fold_batch_norm
from fgjax.models.precision import in_precision
from fgjax.options.schema import Config
from fgjax.stages.classifier import load_model, training_model, trains
from fgjax.stages.focus.patches import looks_at_patches, patch_file
from fgjax.stages.images import training_records
from fgjax.stages.job import Job
from fgjax.stages.train.prepare import with_margin
from fgjax.stages.train.recipe import make_recipe
from fgjax.training.batch_size import FIRST
from fgjax.training.classifier import start, train_step

OF_THE_MAP, OF_BASELINES, OF_REGIONS, OF_ROAD = 49, 4 * 3, 35, 18
"""Forward passes per image in the evaluation: see `judge_hard`; the image whole, kept and deleted,
for at most four baselines; about what the smallest regions take; and ROAD's shares."""


def dry_run(job: Job) -> None:
    """Say how many images and forward passes a run takes, and about how long.

    Two steps are run to time them; nothing is written.
    """
    config, source = job.config, job.source
    if trains(config):
        training = training_records(source, config)
        model = training_model(config, source)
    else:
        model = load_model(config, source, Path(config.run_dir)).model
    records = job.records if {"explain", "evaluate"} & set(config.stages) else ()
    say(f"config={job.name} would do, in {config.run_dir}:")
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
        if looks_at_patches(model) and not patch_file(config, Path(config.run_dir)).is_file():
            focus = config.focus
            say(
                f"  before it, to find patches: {focus.extractor}, {focus.extractor_epochs} "
                "epochs, not counted here"
            )
    if {"test", "explain", "evaluate"} & set(config.stages):
        forward, backward = _seconds_per_pass(model, config)
    if "test" in config.stages:
        count = sum(r.split == "test" and r.label is not None for r in source.records)
        total += count * forward
        say(f"  test: {count} images, a forward pass each, about {_time(count * forward)}")
    if "explain" in config.stages and config.maps:
        say(f"  explain: the maps of {config.maps} for {len(records)} images, the first of them:")
        for record in records[:3]:
            say(f"    {record.name}")
    elif "explain" in config.stages:
        passes = count_passes(
            config.explain.method,
            config.explain.settings,
            config.data.size,
            config.data.size,
            _channels(model, config),
        )
        precision, seconds = config.explain.precision, (forward, backward)
        if precision != "f32":
            seconds = _seconds_per_pass(in_precision(fold_batch_norm(model), precision), config)
        each = passes.forward * seconds[0] + passes.backward * seconds[1]
        total += len(records) * each
        say(
            f"  explain: {len(records)} images, {_words(passes)} each "
            f"({len(records) * sum(passes)} in all), about {_time(len(records) * each)}"
            + (f", in {precision}" if precision != "f32" else "")
        )
    if "evaluate" in config.stages:
        judging = OF_THE_MAP + OF_BASELINES + 1 + OF_REGIONS * config.evaluate.regions
        if config.evaluate.curves:
            judging += 2 * (config.evaluate.curves + 1) + OF_ROAD
        seconds = len(records) * judging * forward
        total += seconds
        say(
            f"  evaluate: {len(records)} images, about {judging} forward passes each "
            f"({len(records) * judging} in all), about {_time(seconds)}"
        )
    if left := [stage for stage in ("compare", "tta", "parts") if stage in config.stages]:
        say(f"  {' and '.join(left)}: not counted here")
    where = f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
    say(f"  about {_time(total)} in all on {where}, and the time to compile; nothing is written")


def _seconds_per_training_image(model, config: Config) -> float:
    batch, side = config.train.batch_size or FIRST, config.data.size
    if with_margin(config.train):
        side = round(side / config.data.crop)
    recipe = make_recipe(config, model, 10)
    state = jax.tree.map(jax.numpy.array, start(model, recipe.optimizer))
    images = np.zeros((batch, side, side, 3), np.uint8)
    if looks_at_patches(model):
        box = np.array([0, 0, side / 2, side / 2], np.float32)
        images = (images, np.broadcast_to(box, (batch, config.focus.patches, 4)))
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


@program("explain", static_argnames="static")
def _input_gradient(arrays, static, images):
    return jax.grad(lambda x: combine(arrays, static)(x)[:, 0].sum())(images)


def _seconds_per_pass(model, config: Config) -> tuple[float, float]:
    """Of one image: forward, and forward and back to the image, in calls of a usual size."""
    arrays, static = partition(model)
    side = config.data.size
    one = np.zeros((1, side, side, 3), np.float32)
    images = jnp.zeros((choose_chunk(arrays, static, one, backward=True), side, side, 3))
    seconds = []
    for call in (compiled(model), lambda x: _input_gradient(arrays, static, x)):
        jax.block_until_ready(call(images))  # the first one compiles
        began = time.monotonic()
        jax.block_until_ready(call(images))
        seconds.append((time.monotonic() - began) / len(images))
    return seconds[0], seconds[1]


def _words(passes: Passes) -> str:
    kinds = {"forward passes": passes.forward, "forward and backward passes": passes.backward}
    return " and ".join(f"{count} {kind}" for kind, count in kinds.items() if count)


def _channels(model, config: Config) -> int:
    side = config.data.size
    features = getattr(model, "features", None)
    if features is None:
        return 0
    return jax.eval_shape(features, jnp.zeros((1, side, side, 3))).shape[-1]


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
