"""`dry_run=true`: how much work a run is, measured on this machine before doing it."""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fgjax.attribution import CONFIGS
from fgjax.attribution.registry import Passes, count_passes
from fgjax.core.features import grid_of
from fgjax.core.progress import say
from fgjax.devices.forward import compiled
from fgjax.models.classifier import make_network
from fgjax.models.folding import fold_batch_norm
from fgjax.models.precision import in_precision
from fgjax.options.judging import CONTROLS
from fgjax.options.schema import Config
from fgjax.stages.classifier import load_model, training_model, trains
from fgjax.stages.compare.methods import methods_of
from fgjax.stages.focus.patches import looks_at_patches, patch_file
from fgjax.stages.images import training_records
from fgjax.stages.job import Job
from fgjax.stages.train.prepare import with_margin
from fgjax.stages.tta.crops import MAPS, fido_settings

OF_THE_MAP, OF_BASELINES, OF_REGIONS = 49, 4 * 3, 2 * 35
"""Forward passes per image in the evaluation: see `judge_hard`; the image whole, kept and deleted,
for at most four baselines; and about what the smallest regions take under two infills."""
OF_ROAD = 18
"""Forward passes that ROAD's shares take."""
OF_DRAWINGS = 64
"""Forward passes of a bird without every subset of its five parts, and without what lies around."""
FEW = 4
"""Images that are looked at to time a forward pass."""
BACKWARD, TRAINING = 2.3, 3.3
"""What a pass to the image and back takes, and a training image, in forward passes: as measured
with ResNets on a CPU."""


def dry_run(job: Job) -> None:
    """Say how many images and forward passes a run takes, and about how long.

    A few forward passes are run to time them, the others counted in those; nothing is written.
    """
    config, source = job.config, job.source
    if trains(config):
        training = training_records(source, config)
        model = training_model(config, source)
    else:
        model = load_model(config, source, Path(config.run_dir)).model
    explained = {"explain", "evaluate", "compare", "funnybirds", "tta"} & set(config.stages)
    records = job.records if explained else ()
    say(f"config={job.name} would do, in {config.run_dir}:")
    total, forward = 0.0, _seconds_per_pass(model, config)
    if trains(config) and "train" in config.stages:
        settings = config.train
        images = round(len(training) * (1 - settings.validation)) * settings.epochs
        seconds = images * TRAINING * forward * _larger(config)
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
    if "probe" in config.stages:
        total += len(source.records) * forward
        say(f"  probe: {len(source.records)} images, a forward pass each where features are new")
    if "prompts" in config.stages:
        total += _prompts(config, len(training), forward)
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
        precision, seconds = config.explain.precision, forward
        if precision != "f32":
            seconds = _seconds_per_pass(in_precision(fold_batch_norm(model), precision), config)
        each = _cost(passes) * seconds
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
        if config.evaluate.randomised:
            side = config.data.size
            passes = count_passes(
                config.explain.method, config.explain.settings, side, side, _channels(model, config)
            )
            judging += round(_cost(passes))
        seconds = len(records) * judging * forward
        total += seconds
        say(
            f"  evaluate: {len(records)} images, about {judging} forward passes each "
            f"({len(records) * judging} in all), about {_time(seconds)}"
        )
    looked_at = {
        "compare": lambda: (comparing(config, model), ", of all methods"),
        "funnybirds": lambda: (without_parts(config, model), ", of all methods"),
        "tta": lambda: (looking_again(config), ""),
    }
    for stage in [name for name in looked_at if name in config.stages]:
        passes, whose = looked_at[stage]()
        seconds = len(records) * _cost(passes) * forward
        total += seconds
        say(
            f"  {stage}: {len(records)} images, {_words(passes)} each{whose}, about "
            f"{_time(seconds)}"
        )
    if "parts" in config.stages:
        total += len(source.records) * forward
        say(f"  parts: {len(source.records)} images, a forward pass each")
    where = f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
    say(f"  about {_time(total)} in all on {where}, and the time to compile; nothing is written")


def comparing(config: Config, model: Any) -> Passes:
    """Return the passes of an image in the comparison, of all methods together."""
    compare = config.compare
    forward = backward = 0
    for method in methods_of(config, model):
        # Both curves under every infill, and ROAD's percentages in both orders beside the image.
        forward += 2 * (compare.steps + 1) * (1 + len(compare.infills)) + OF_ROAD * compare.road
        if method in CONTROLS:
            continue
        own = _compared(method, config, model)
        times = 1 + (compare.sensitivity if sum(own) <= compare.again else 0)
        forward, backward = forward + times * own.forward, backward + times * own.backward
    return Passes(forward, backward)


def without_parts(config: Config, model: Any) -> Passes:
    """Return the passes of an image in the FunnyBirds protocol, of all methods together: the
    drawings, and three maps of each method."""
    forward, backward = OF_DRAWINGS, 0
    for method in methods_of(config, model):
        if method in CONTROLS:
            continue
        own = _compared(method, config, model)
        forward, backward = forward + 3 * own.forward, backward + 3 * own.backward
    return Passes(forward, backward)


def _compared(method: str, config: Config, model: Any) -> Passes:
    """Return the passes of one map of a method as compare.* sets it."""
    settings = config.compare.settings.get(method) or CONFIGS[method]()
    side = config.data.size
    return count_passes(method, settings, side, side, _channels(model, config))


def looking_again(config: Config) -> Passes:
    """Return the passes of an image in test-time augmentation."""
    side, forward, backward = config.data.size, 1 + len(config.tta.crops), 0
    for method in {crop.removesuffix("_cleaned") for crop in config.tta.crops} & set(MAPS):
        name = method.partition("_")[0]
        settings = fido_settings(config, method) if name == "fido" else CONFIGS[name]()
        own = count_passes(name, settings, side, side)
        forward, backward = forward + own.forward, backward + own.backward
    return Passes(forward, backward)


def _cost(passes: Passes) -> float:
    """Return what passes take, in forward passes."""
    return passes.forward + BACKWARD * passes.backward


def _larger(config: Config) -> float:
    """Return how many more pixels training images have than those of the test."""
    side = config.data.size
    return (round(side / config.data.crop) / side) ** 2 if with_margin(config.train) else 1.0


def _seconds_per_pass(model: Any, config: Config) -> float:
    """Of one image, forward, in a call of a few: the only program that is compiled here."""
    images = jnp.zeros((FEW, config.data.size, config.data.size, 3))
    call, seconds = compiled(model), []
    jax.block_until_ready(call(images))  # the first one compiles
    for _ in range(2):
        began = time.monotonic()
        jax.block_until_ready(call(images))
        seconds.append((time.monotonic() - began) / FEW)
    return min(seconds)


def _prompts(config: Config, images: int, forward: float) -> float:
    """Say what the training of prompts takes; return its seconds."""
    about, share = config.prompts, 1 - config.train.validation
    trunk = round(images * share) * about.trunk_epochs * TRAINING * forward * _larger(config)
    if about.trunk_epochs:
        say(f"  prompts: {about.backbone} first, {about.trunk_epochs} epochs, about {_time(trunk)}")
    depth = make_network(about.backbone, 2).depth
    steps = images * about.epochs * TRAINING * forward / depth
    say(
        f"  prompts: {images} images, a forward pass each where tokens are new, and {about.epochs} "
        f"epochs through the last block, about {_time(images * forward + steps)}"
    )
    return trunk + images * forward + steps


def _words(passes: Passes) -> str:
    kinds = {"forward passes": passes.forward, "forward and backward passes": passes.backward}
    return " and ".join(f"{count} {kind}" for kind, count in kinds.items() if count)


def _channels(model, config: Config) -> int:
    side = config.data.size
    features = getattr(model, "features", None)
    if features is None:
        return 0
    return grid_of(jax.eval_shape(features, jnp.zeros((1, side, side, 3)))).shape[-1]


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
