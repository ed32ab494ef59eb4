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

from fgjax.core.files import as_written, write_atomic
from fgjax.core.progress import progress
from fgjax.core.tables import to_csv
from fgjax.devices.memory import PeakMemory
from fgjax.options.schema import ConfigError
from fgjax.runs.arrange import arrange, write_names
from fgjax.runs.maps import MapStore
from fgjax.stages.compare.comparison import Comparison, RowOf, prepare, read_scores
from fgjax.stages.compare.measure import measure
from fgjax.stages.compare.methods import each_method, methods_of
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
    methods = methods_of(config, job.explained.model)

    def explain_and_measure(comparison: Comparison, method: str) -> None:
        _explain(comparison, method)
        for row in (RowOf(method), *(RowOf(method, v) for v in comparison.variants(method))):
            _measure(comparison, row)

    comparison, refused = each_method(comparison, methods, explain_and_measure, "compare")
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


def _check_settings(comparison: Comparison, method: str) -> None:
    """Return maps made with other settings are not mixed with these."""
    settings = comparison.settings(method)
    now = {
        name: value
        for name, value in (dataclasses.asdict(settings) if settings else {}).items()
        if name not in ("chunk_size", "images_per_step", "masks_per_pass")
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
