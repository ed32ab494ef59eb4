"""Stage "compare": many methods on the same images and model, and one table of them.

    run/compare/METHOD/maps.zarr          its maps
    run/compare/METHOD/settings.json      what they were made with
    run/compare/METHOD/calls.jsonl        seconds and memory of every call
    run/compare/METHOD/scores.csv         a row per image
    run/compare/METHOD/scores_VARIANT.csv the same of another of its maps
    run/compare/METHOD/measured_….json    what the scores were measured with
    run/compare.csv, compare.md, compare.html, compare.json

Every image of every method is written as soon as it is done, so an interrupted comparison goes
on where it stopped, and another method can be added to a finished one.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fgjax.attribution import METHODS
from fgjax.attribution.registry import needs
from fgjax.core.files import as_written, write_atomic
from fgjax.core.keys import image_key
from fgjax.core.progress import progress, say
from fgjax.core.tables import to_csv
from fgjax.data.pipeline import load_examples, stack
from fgjax.data.types import DataError
from fgjax.devices.memory import PeakMemory
from fgjax.evaluation.faithfulness import target_probability
from fgjax.options.schema import CONTROLS, ConfigError
from fgjax.runs.arrange import arrange, write_names
from fgjax.runs.maps import MapStore
from fgjax.stages.compare.comparison import Comparison, RowOf, passes, read_scores
from fgjax.stages.compare.measure import measure
from fgjax.stages.compare.table import write_comparison
from fgjax.stages.job import Job
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
    comparison, failed = prepare(job)
    run.set_failures("compare", failed)
    model = job.explained.model
    lacks = {"steps"} if not getattr(model, "looks_again", False) else set()
    lacks |= {"attention"} if not hasattr(model, "attend") else set()
    every = [m for m in METHODS if not lacks & set(needs(m))]
    methods = config.compare.methods or (*every, *CONTROLS)
    refused: dict[str, str] = {}
    for method in sorted(methods, key=lambda m: m in CONTROLS):  # "flipped" needs a method's maps
        if method == "flipped":
            comparison = with_flipped(comparison, methods, refused)
        try:
            _explain(comparison, method)
        except (ValueError, TypeError) as error:
            if isinstance(error, ConfigError):
                raise
            refused[method] = str(error).splitlines()[0]
            say(f"compare: {method} is left out: {refused[method]}")
            continue
        for row in (RowOf(method), *(RowOf(method, v) for v in comparison.variants(method))):
            _measure(comparison, row)
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


def with_flipped(
    comparison: Comparison, methods: tuple[str, ...], refused: dict[str, str]
) -> Comparison:
    """Return it with the method whose map the control turns around: that of the fewest passes, or
    the one whose turned maps are there already."""
    done = [m for m in methods if m not in CONTROLS and m not in refused]
    if not done:
        return comparison
    settings = comparison.folder / "flipped" / "settings.json"
    if settings.is_file():
        earlier = json.loads(settings.read_text(encoding="utf-8"))["settings"]["of"]
        return dataclasses.replace(comparison, flipped=earlier)
    fewest = min(done, key=lambda m: sum(passes(comparison, m)))
    return dataclasses.replace(comparison, flipped=fewest)


def prepare(job: Job) -> tuple[Comparison, dict[str, str]]:
    """Return what every method is asked, and why images could not be read.

    Raises:
      ConfigError: none can be read.
    """
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
    p_full = np.asarray(target_probability(jnp.asarray(logits), jnp.asarray(targets)))
    return (
        Comparison(
            config, job.source, explained, tuple(good), batch, images, targets, keys,
            job.run.path / "compare", p_full,
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
    if method == "flipped":
        now["of"] = comparison.flipped
    names = [record.name for record in comparison.records]
    now = {"images": names, "settings": now}
    now = json.loads(json.dumps(now))  # as the file has it: no tuples
    path = comparison.folder / method / "settings.json"
    maps = path.parent / "maps.zarr"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_names(maps, names)
        write_atomic(path, json.dumps(now, indent=1) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        _ = before["images"], before["settings"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{path}: cannot be read. Delete the folder {path.parent}, and its maps are made again"
        ) from None
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
    arrange(maps, names, before=before["images"])
    if before["images"] != names:
        write_atomic(path, json.dumps(now, indent=1) + "\n")


def _explain(comparison: Comparison, method: str) -> None:
    """Make the maps that are not there yet, a call at a time: that is what is timed."""
    _check_settings(comparison, method)
    folder = comparison.folder / method
    store = MapStore(folder / "maps.zarr", len(comparison.records))
    store.forget(store.damaged().tolist())
    pending = [int(place) for place in np.flatnonzero(store.targets() < 0)]
    first = True  # of this process: it compiles
    with progress(method, len(pending)) as counter:
        for places in comparison.calls(pending):
            made, seconds, peak = _timed(comparison, method, places)
            traces = {name: made.pop(name)[:, 0] for name in ("spread",) if name in made}
            for i, place in enumerate(places):
                store.write(
                    place,
                    int(comparison.targets[place]),
                    {name: m[i] for name, m in made.items()},
                    {name: t[i : i + 1] for name, t in traces.items()},
                )
                row = {"index": place, "seconds": seconds, "first": first, "peak_bytes": peak}
                with (folder / "calls.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            first = False
            counter.advance(len(places))


def _timed(
    comparison: Comparison, method: str, places: list[int]
) -> tuple[dict[str, np.ndarray], float, int | None]:
    """Return the maps of these images by name, seconds per image, and the peak of memory."""
    filled = comparison.filled(places)
    images, keys = comparison.images[filled], comparison.keys[filled]
    targets, explain = jnp.asarray(comparison.targets[filled]), comparison.explain(method)
    with PeakMemory() as memory:
        began = time.perf_counter()
        made = jax.block_until_ready(explain(comparison.explained.model, images, targets, keys))
        seconds = time.perf_counter() - began
    maps = {name: np.asarray(values) for name, values in made.items()}
    return maps, round(seconds / len(filled), 5), memory.peak


def _measure(comparison: Comparison, row: RowOf) -> None:
    """Write the rows of a scores file that are not there yet, or were measured otherwise."""
    path = comparison.scores_file(row)
    names = [record.name for record in comparison.records]
    rows = read_scores(path, names) if _measured_alike(comparison, path) else {}
    pending = [i for i in range(len(comparison.records)) if i not in rows]
    with progress(f"{row.name}: measured", len(pending)) as counter:
        for places in comparison.calls(pending):
            for place, values in zip(places, measure(comparison, row, places), strict=True):
                rows[place] = {k: f"{v:.6g}" for k, v in values.items()}
            columns = ["index", "name", *dict.fromkeys(k for row in rows.values() for k in row)]
            text = to_csv(
                [
                    {"index": i, "name": as_written(comparison.records[i].name), **rows[i]}
                    for i in sorted(rows)
                ],
                columns,
            )
            write_atomic(path, text)
            counter.advance(len(places))


def _measured_alike(comparison: Comparison, path: Path) -> bool:
    """Return whether the numbers that are there were measured with the settings of now."""
    compare = comparison.config.compare
    names = ("steps", "infills", "road", "sensitivity", "randomised", "again")
    now: dict[str, Any] = {name: getattr(compare, name) for name in names}
    now["threshold"] = comparison.config.evaluate.threshold
    text = json.dumps(now, indent=1) + "\n"
    told = path.with_name("measured_" + path.stem + ".json")
    if told.is_file() and told.read_text(encoding="utf-8") == text:
        return True
    write_atomic(told, text)
    return False
