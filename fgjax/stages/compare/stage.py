"""Stage "compare": many methods on the same images and model, and one table of them.

    run/compare/METHOD/maps.zarr       its maps
    run/compare/METHOD/settings.json   what they were made with
    run/compare/METHOD/calls.jsonl     seconds and memory of every call
    run/compare/METHOD/scores.csv      a row per image
    run/compare.csv, compare.md, compare.html, compare.json

Every image of every method is written as soon as it is done, so an interrupted comparison goes
on where it stopped, and another method can be added to a finished one.
"""

import dataclasses
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fgjax.attribution import METHODS
from fgjax.attribution.registry import needs
from fgjax.core.files import write_atomic
from fgjax.core.keys import image_key
from fgjax.core.progress import progress, say
from fgjax.core.tables import to_csv
from fgjax.data.pipeline import load_examples, stack
from fgjax.data.types import DataError
from fgjax.devices.forward import compiled
from fgjax.devices.memory import PeakMemory
from fgjax.evaluation import (
    box_mask,
    cascading_randomisation,
    deletion,
    evaluate_maps,
    insertion,
    judge_parts,
    max_sensitivity,
    pointing_game,
    random_maps,
    road,
    single_part_deletion,
)
from fgjax.evaluation.randomisation import layers_top_down
from fgjax.options.schema import BASELINES, ConfigError
from fgjax.runs.maps import MapStore, read_maps
from fgjax.stages.compare.comparison import Comparison, passes, read_scores
from fgjax.stages.compare.table import write_comparison
from fgjax.stages.job import Job
from fgjax.stages.part_discs import part_discs, part_names
from fgjax.stages.stage import Stage


class Compare(Stage):
    """Explain the same images with many methods, and rank them."""

    name = "compare"

    def missing(self, job: Job) -> None:
        """Tell that there is nothing to explain."""
        _ = job.records

    def run(self, job: Job) -> int:
        """Do what is not done yet, and make the table."""
        return compare_methods(job)


def compare_methods(job: Job) -> int:
    """Explain, measure and rank. Return how many images could not be read.

    Raises:
      ConfigError: a method's maps are there, made with other settings; or no image can be read.
    """
    began = time.monotonic()
    config, run = job.config, job.run
    comparison, failed = _prepare(job)
    run.set_failures("compare", failed)
    steps = getattr(job.explained.model, "looks_again", False)
    every = [m for m in METHODS if steps or "steps" not in needs(m)]
    methods = config.compare.methods or (*every, *BASELINES)
    refused = {}
    for method in methods:
        try:
            _explain(comparison, method)
        except (ValueError, TypeError) as error:
            if isinstance(error, ConfigError):
                raise
            refused[method] = str(error).splitlines()[0]
            say(f"compare: {method} is left out: {refused[method]}")
            continue
        _measure(comparison, method)
    done = [method for method in methods if method not in refused]
    write_comparison(comparison, done, refused, run)
    earlier = run.stage("compare").get("seconds", 0.0)
    run.finish(
        "compare",
        seconds=round(earlier + time.monotonic() - began, 1),
        images=len(comparison.records),
        methods=list(done),
        failed=len(failed),
    )
    return len(failed)


def _prepare(job: Job) -> tuple[Comparison, dict[str, str]]:
    config, records, explained = job.config, job.records, job.explained
    failed, good, examples = {}, [], []
    for place, example in load_examples(job.source, records, workers=config.data.workers):
        if isinstance(example, DataError):
            failed[records[place].name] = str(example)
        else:
            good.append(records[place])
            examples.append(example)
    if not examples:
        raise ConfigError(f"data.path={config.data.path}: no image to explain could be read")
    batch = stack(examples)
    images = jnp.asarray(batch.images.astype(np.float32) / 255)
    logits = np.concatenate([explained.predict(np.asarray(image)[None]) for image in images])
    targets = [
        explained.target(example.label, row, config.explain.target)
        for example, row in zip(examples, logits, strict=True)
    ]
    key = jax.random.fold_in(job.key, 5)
    keys = jnp.stack([image_key(key, record.name) for record in good])
    targets = np.array(targets, np.int32)
    return (
        Comparison(
            config, job.source, explained, tuple(good), batch, images, targets, keys,
            job.run.path / "compare",
        ),
        failed,
    )  # fmt: skip


def _check_settings(comparison: Comparison, method: str) -> None:
    """Return maps made with other settings are not mixed with these."""
    settings = comparison.settings(method)
    now = {
        name: value
        for name, value in (dataclasses.asdict(settings) if settings else {}).items()
        if name not in ("chunk_size", "images_per_step")
    }
    now = {"images": [record.name for record in comparison.records], "settings": now}
    now = json.loads(json.dumps(now))  # as the file has it: no tuples
    path = comparison.folder / method / "settings.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(now, indent=1) + "\n")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if before["images"] != now["images"]:
        raise ConfigError(f"{path.parent} holds maps of other images: give another run_dir=…")
    keys = [k for k in now["settings"] if before["settings"].get(k) != now["settings"][k]]
    if keys:
        changes = ", ".join(
            f"compare.{method}.{k} (was {before['settings'].get(k)}, is {now['settings'][k]})"
            for k in keys
        )
        raise ConfigError(
            f"{path.parent} holds maps made with other settings: {changes}. Delete that folder, "
            "or give another run_dir=…"
        )


def _explain(comparison: Comparison, method: str) -> None:
    """Make the maps that are not there yet, an image at a time: that is what is timed."""
    _check_settings(comparison, method)
    folder = comparison.folder / method
    store = MapStore(folder / "maps.zarr", len(comparison.records))
    pending = np.flatnonzero(store.targets() < 0)
    first = True  # of this process: it compiles
    with progress(method, len(pending)) as counter:
        for index in pending:
            one = slice(index, index + 1)
            maps, seconds, peak = _timed(comparison, method, one)
            store.write(int(index), int(comparison.targets[index]), maps, {})
            row = {"index": int(index), "seconds": seconds, "first": first, "peak_bytes": peak}
            with (folder / "calls.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            first = False
            counter.advance()


def _timed(
    comparison: Comparison, method: str, one: slice
) -> tuple[dict[str, np.ndarray], float, int | None]:
    images, keys = comparison.images[one], comparison.keys[one]
    with PeakMemory() as memory:
        began = time.perf_counter()
        if method in BASELINES:
            maps = {"heatmap": _baseline(method, images, keys)}
        else:
            explain = comparison.explain(method)
            result = explain(
                comparison.explained.model, images, jnp.asarray(comparison.targets[one]), keys
            )
            maps = {"heatmap": result.heatmap, **result.maps}
        maps = {name: np.asarray(m)[0] for name, m in jax.block_until_ready(maps).items()}
        seconds = time.perf_counter() - began
    return maps, round(seconds, 5), memory.peak


def _baseline(kind: str, images: jax.Array, keys: jax.Array) -> jax.Array:
    n, height, width = images.shape[:3]
    if kind == "random":
        return jnp.concatenate([random_maps(key, 1, height, width) for key in keys])
    y, x = (jnp.arange(side, dtype=jnp.float32) + 0.5 - side / 2 for side in (height, width))
    bell = jnp.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * (min(height, width) / 4) ** 2))
    return jnp.broadcast_to(bell, (n, height, width))


def _measure(comparison: Comparison, method: str) -> None:
    """Write the rows of scores.csv that are not there yet."""
    path = comparison.folder / method / "scores.csv"
    rows = read_scores(path)
    pending = [i for i in range(len(comparison.records)) if i not in rows]
    with progress(f"{method}: measured", len(pending)) as counter:
        for index in pending:
            values = _measure_one(comparison, method, index)
            rows[index] = {k: f"{v:.6g}" for k, v in values.items()}
            columns = ["index", "name", *dict.fromkeys(k for row in rows.values() for k in row)]
            text = to_csv(
                [{"index": i, "name": comparison.records[i].name, **rows[i]} for i in sorted(rows)],
                columns,
            )
            write_atomic(path, text)
            counter.advance()


def _measure_one(comparison: Comparison, method: str, index: int) -> dict[str, float]:
    """Return every number of one image's map."""
    compare, one = comparison.config.compare, slice(index, index + 1)
    batch, images, targets = (
        comparison.batch,
        comparison.images[one],
        jnp.asarray(comparison.targets[one]),
    )
    heat = read_maps(comparison.folder / method / "maps.zarr", index)["heatmap"]
    heat = jnp.asarray(heat.astype(np.float32))[None]
    boxes, masks, cues = (jnp.asarray(a[one]) for a in (batch.boxes, batch.masks, batch.cues))
    level = comparison.config.evaluate.threshold
    values = evaluate_maps(heat, boxes=boxes, masks=masks, cues=cues, threshold=level)
    radius, points = comparison.config.evaluate.landmarks, jnp.asarray(batch.landmarks[one])
    discs = part_discs(comparison.source, points, boxes, *heat.shape[1:], radius)
    if discs is not None:
        values |= judge_parts(heat, discs, part_names(comparison.source))
    truths = {"object": masks, "box": box_mask(boxes, *heat.shape[1:]), "cue": cues}
    for name, truth in truths.items():
        values[f"pointing_15px_{name}"] = pointing_game(heat, truth, protocol="argmax_15px")
    model = compiled(comparison.explained.model)
    values["insertion"] = insertion(model, images, targets, heat, steps=compare.steps)
    values["deletion"] = deletion(
        model, images, targets, heat, steps=compare.steps, baseline="mean"
    )
    if compare.road:
        removed = road(model, images, targets, heat, key=comparison.keys[one])
        values |= {f"road_{name}": value for name, value in removed._asdict().items()}
    if hasattr(comparison.source, "without_parts"):
        parts = comparison.source.without_parts(comparison.records[index])
        without = jnp.asarray(parts.images.astype(np.float32) / 255)[None]
        found = single_part_deletion(
            model, images, targets, heat, without,
            jnp.asarray(parts.masks)[None], jnp.asarray(parts.present)[None],
        )  # fmt: skip
        values["part_deletion"] = found.correlation
    values |= _explained_again(comparison, method, index)
    return {name: float(np.asarray(value)[0]) for name, value in values.items()}


def _explained_again(comparison: Comparison, method: str, index: int) -> dict[str, jax.Array]:
    """Return the numbers that need more maps of the method than the one it is judged by."""
    compare, one = comparison.config.compare, slice(index, index + 1)
    if method in BASELINES or sum(passes(comparison, method)) > compare.again:
        return {}
    images, targets, keys = (
        comparison.images[one],
        jnp.asarray(comparison.targets[one]),
        comparison.keys[one],
    )
    explain = comparison.explain(method)

    def heatmap(model, images, targets):
        return explain(model, images, targets, keys).heatmap

    model, values = comparison.explained.model, {}
    if compare.sensitivity:
        values["max_sensitivity"] = max_sensitivity(
            heatmap, model, images, targets, key=keys, samples=compare.sensitivity
        )
    if index < compare.randomised:
        layers = randomised_layers(model, images)
        alike = cascading_randomisation(
            heatmap,
            model,
            images,
            targets,
            key=jax.random.key(comparison.config.seed),
            layers=layers,
        )
        # A map that is constant under random weights says nothing of them: it is not alike.
        ranks = jnp.nan_to_num(alike.rank_correlation)
        values["randomisation_rank_correlation"] = ranks.mean(0)
        values["randomisation_ssim"] = alike.ssim.mean(0)
    return values


def randomised_layers(model: Any, images: jax.Array) -> tuple[str, ...]:
    """Return the last layer, one in the middle and the first: down to where layers are
    randomised."""
    order = layers_top_down(model, images)
    return tuple(dict.fromkeys((order[0], order[len(order) // 2], order[-1])))
