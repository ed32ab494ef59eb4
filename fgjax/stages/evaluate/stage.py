"""Stage "evaluate": maps and annotations to numbers, in results.csv and metrics.json."""

import json
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from fgjax.core.files import as_written, write_atomic
from fgjax.core.progress import progress, say
from fgjax.core.tables import read_csv, to_csv
from fgjax.data.pipeline import load_examples
from fgjax.data.types import DataError, Example
from fgjax.evaluation.blank import count_reasons, why_blank
from fgjax.options.schema import ConfigError
from fgjax.runs.folder import RunFolder
from fgjax.runs.maps import MapStore, read_maps, read_traces
from fgjax.stages.evaluate.judge import BATCH, judge_chunk
from fgjax.stages.evaluate.randomised import check_randomised
from fgjax.stages.evaluate.summary import ChunkTables, print_metrics, summary
from fgjax.stages.focus.patches import known_patches
from fgjax.stages.job import Job
from fgjax.stages.part_discs import part_names
from fgjax.stages.stage import Stage

COLUMNS = ["index", "name", "label", "target", "predicted", "correct"]

RULES = 3
"""Grows when the same maps get other numbers, so that those of before are made again."""


class Evaluate(Stage):
    """Judge the maps by the annotations there are, and by the classifier."""

    name = "evaluate"

    def missing(self, job: Job) -> None:
        """Tell that there is nothing to explain, or what its maps cannot be compared with."""
        check_randomised(job)
        _ = job.records

    def run(self, job: Job) -> int:
        """Write results.csv and metrics.json, where they are not those of the maps of now.

        Raises:
          ConfigError: nothing is explained yet.
        """
        metrics = current_metrics(job)
        if metrics is None:
            metrics = evaluate_maps_of(job)
            job.run.forget("report")
        print_metrics(metrics)
        return 0


def current_metrics(job: Job) -> dict[str, Any] | None:
    """Return what metrics.json holds, when it is of the maps there are and of this threshold.

    Raises:
      ConfigError: nothing is explained yet.
    """
    store = job.run.path / "maps.zarr"
    if not store.is_dir():
        raise ConfigError(f"{job.run.path}: nothing is explained yet: stages must include explain")
    done = int((MapStore(store, len(job.records)).targets() >= 0).sum())
    about = job.run.stage("evaluate")
    if about | {"images": done, "rules": RULES} | asdict(job.config.evaluate) != about:
        return None
    return _whole_metrics(job)


def _whole_metrics(job: Job) -> dict[str, Any] | None:
    """Return what metrics.json holds; None where it, or results.csv, is not what was written."""
    try:
        held = json.loads((job.run.path / "metrics.json").read_text(encoding="utf-8"))
        rows, metrics = read_results(job.run), held["metrics"]
        names = [record.name for record in job.records]
        facts = {"mean", "interval_95", "defined", "images", "better", "baselines", "protocol"}
        whole = (
            {"images", "evaluated", "accuracy", "accuracy_images"} <= held.keys()
            and len(rows) == held["evaluated"]
            and all(facts <= about.keys() for about in metrics.values())
            and all(row["name"] == as_written(names[int(row["index"])]) for row in rows)
        )
        for row in rows:
            for metric in metrics:
                float(row[metric])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None
    return held if whole else None


def evaluate_maps_of(job: Job) -> dict[str, Any]:
    """Judge every map and write the numbers; return what metrics.json holds."""
    began, run, config = time.monotonic(), job.run, job.config
    targets = MapStore(run.path / "maps.zarr", len(job.records)).targets()
    done = np.flatnonzero(targets >= 0)
    traces = read_traces(run.path / "maps.zarr")
    patches = known_patches(job)
    rows: list[dict[str, Any]] = []
    tables: ChunkTables = {}
    failed: dict[str, str] = {}
    reasons: list[str | None] = []
    chunk: list[tuple[int, Example]] = []
    wanted = [job.records[i] for i in done]
    loaded = load_examples(job.source, wanted, workers=config.data.workers)
    say(f"evaluate: {len(done)} maps and their baselines")
    with progress("evaluate", len(done)) as counter:
        for place, example in loaded:
            index = int(done[place])
            if isinstance(example, DataError):
                failed[job.records[index].name] = str(example)
            else:
                chunk.append((index, example))
            if len(chunk) == BATCH or (place == len(done) - 1 and chunk):
                names = [job.records[i].name for i, _ in chunk]
                part = judge_chunk(job, chunk, names, targets, patches)
                reasons += [_why_blank(job, traces, index) for index, _ in chunk]
                for i, (index, example) in enumerate(chunk):
                    own = {k: float(v[i]) for k, v in part["map"].items()}
                    own |= _last_steps(traces, index)
                    rows.append(_row(job, index, example, own))
                for maps, values in part.items():
                    table = tables.setdefault(maps, {})
                    for name, value in values.items():
                        table.setdefault(name, []).extend(np.asarray(value)[: len(chunk)].tolist())
                for index, _ in chunk:
                    for name, value in _last_steps(traces, index).items():
                        tables["map"].setdefault(name, []).append(value)
                counter.advance(len(chunk))
                chunk = []
    run.set_failures("evaluate", failed)
    parts = part_names(job.source)
    metrics = summary(config, tables, rows, len(job.records), count_reasons(reasons), parts)
    write_atomic(run.path / "results.csv", to_csv(rows, [*COLUMNS, *metrics["metrics"]]))
    write_atomic(run.path / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    run.finish(
        "evaluate",
        seconds=round(time.monotonic() - began, 1),
        images=len(rows),
        rules=RULES,
        **asdict(config.evaluate),
    )
    return metrics


def read_results(run: RunFolder) -> list[dict[str, str]]:
    """Return the rows of results.csv."""
    return read_csv(run.path / "results.csv")


def _last_steps(traces: dict[str, np.ndarray], index: int, steps: int = 3) -> dict[str, float]:
    return {
        f"{name}_sampled": float(traces[name][index, -steps:].mean())
        for name in ("p_kept", "p_deleted")
        if name in traces
    }


def _why_blank(job: Job, traces: dict[str, np.ndarray], index: int) -> str | None:
    heat = read_maps(job.run.path / "maps.zarr", index)["heatmap"]
    spread = float(traces["spread"][index, 0]) if "spread" in traces else None
    return why_blank(heat, spread)


def _row(job: Job, index: int, example: Example, own: dict[str, float]) -> dict[str, Any]:
    explained = job.explained
    predicted, target = int(own.pop("predicted")), int(own.pop("target"))
    known = None if example.label is None else explained.index[example.label]
    return {
        "index": index,
        "name": job.records[index].name,
        "label": "" if example.label is None else job.source.classes[example.label],
        "target": explained.output_name(target),
        "predicted": explained.output_name(predicted),
        "correct": "" if known is None else int(predicted == known),
        **{k: f"{v:.6g}" for k, v in own.items()},
    }
