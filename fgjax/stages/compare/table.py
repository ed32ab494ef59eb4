"""From the scores of many methods to one table: CSV, Markdown, JSON and a page."""

import csv
import io
import json
from typing import Any

import numpy as np
import rich.box
import rich.table

from fgjax.core.files import write_atomic
from fgjax.core.progress import console, say
from fgjax.core.tables import finite
from fgjax.evaluation import Summary, summarise
from fgjax.evaluation.landmark_targets import is_of_a_part, part_is_better, part_protocols
from fgjax.evaluation.localization import POINTING_PROTOCOLS
from fgjax.evaluation.summary import BETTER, model_protocols, protocols
from fgjax.options.schema import BASELINES
from fgjax.report.comparison import Column, Picture, Row, Table, write_comparison_page
from fgjax.runs.folder import RunFolder
from fgjax.runs.maps import read_maps
from fgjax.stages.compare.comparison import Comparison, passes, read_scores
from fgjax.stages.part_discs import part_names

SHOWN = {
    "pointing_cue": "points at cue",
    "energy_in_cue": "energy in cue",
    "pointing_object": "points at object",
    "pointing_15px_object": "points, 15 px",
    "pointing_object_small": "points, small",
    "energy_in_object": "energy in object",
    "pointing_box": "points at box",
    "pointing_15px_box": "points, 15 px",
    "energy_in_box": "energy in box",
    "pointing_part_head": "points at head",
    "energy_in_part_head": "energy in head",
    "iou_best": "IoU, best level",
    "insertion": "insertion",
    "deletion": "deletion",
    "road_gap": "ROAD gap",
    "part_deletion": "part deletion ρ",
    "max_sensitivity": "max-sensitivity",
    "randomisation_rank_correlation": "randomised ρ",
    "gini": "Gini",
}
"""The metrics of the table, and their heads; what no method has a value of is left out."""

INSTEAD = {
    "pointing_box": "pointing_object",
    "pointing_15px_box": "pointing_15px_object",
    "energy_in_box": "energy_in_object",
}
"""A box is looked at where there is no mask."""

Scores = dict[str, dict[str, Summary]]


def sentences(comparison: Comparison) -> dict[str, str]:
    """Return how each number was measured."""
    compare, level = comparison.config.compare, comparison.config.evaluate.threshold
    found = protocols(threshold=level) | model_protocols(
        steps=compare.steps, samples=max(1, compare.sensitivity)
    )
    found |= part_protocols(part_names(comparison.source), comparison.config.evaluate.landmarks)
    for name in ("object", "box", "cue"):
        truth = {"object": "object mask", "box": "annotated box", "cue": "cue"}[name]
        found[f"pointing_15px_{name}"] = (
            f"pointing game, 1 or 0: {POINTING_PROTOCOLS['argmax_15px']} (truth: {truth})"
        )
    return found


def better(metric: str) -> bool | None:
    """Return whether higher is better."""
    if is_of_a_part(metric):
        return part_is_better(metric)
    return True if metric.startswith("pointing_15px") else BETTER[metric]


def collect(comparison: Comparison, methods: list[str]) -> Scores:
    """Return method -> metric -> mean with its interval over the images."""
    scores: Scores = {}
    for method in methods:
        rows = read_scores(comparison.folder / method / "scores.csv")
        names = dict.fromkeys(name for row in rows.values() for name in row)
        scores[method] = {
            name: summarise(np.array([float(row.get(name, "nan")) for row in rows.values()]))
            for name in names
        }
    return scores


def shown_metrics(scores: Scores) -> list[str]:
    """Return the metrics of `SHOWN` that some method has a value of."""

    def has(metric):
        return any(np.isfinite(_mean(values, metric)) for values in scores.values())

    return [m for m in SHOWN if has(m) and not (m in INSTEAD and has(INSTEAD[m]))]


def mean_ranks(scores: Scores) -> dict[str, float]:
    """Return each method's mean place, 1 the best, over the shown metrics that have a direction and
    that all ranked methods have; maps that know nothing of the image take no place."""
    ranked = [method for method in scores if method not in BASELINES]
    places: dict[str, list[float]] = {method: [] for method in ranked}
    for metric in shown_metrics(scores):
        if better(metric) is None:
            continue
        means = np.array([_mean(scores[m], metric) for m in ranked])
        if len(means) == 0 or np.isnan(means).any():
            continue
        worth = means if better(metric) else -means
        for method, own in zip(ranked, worth, strict=True):  # ties share their places' mean
            place = 1 + (worth > own).sum() + ((worth == own).sum() - 1) / 2
            places[method].append(float(place))
    return {m: float(np.mean(p)) if p else float("nan") for m, p in places.items()}


def _mean(scores: dict[str, Summary], metric: str) -> float:
    return scores[metric].mean if metric in scores else float("nan")


def cost(comparison: Comparison, method: str) -> dict[str, Any]:
    """Return passes, seconds per image without compiling, seconds to compile, and peak memory."""
    forward, backward = passes(comparison, method)
    path = comparison.folder / method / "calls.jsonl"
    calls = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    later = [call["seconds"] for call in calls if not call["first"]]
    first = [call["seconds"] for call in calls if call["first"]]
    seconds = float(np.median(later or first))
    peaks = [call["peak_bytes"] for call in calls if call["peak_bytes"]]
    return {
        "forward_passes": forward,
        "backward_passes": backward,
        "seconds_per_image": seconds,
        "compile_seconds": max(0.0, first[0] - seconds) if later else None,
        "peak_bytes": max(peaks) if peaks else None,
    }


def write_comparison(
    comparison: Comparison, methods: list[str], refused: dict[str, str], run: RunFolder
) -> None:
    """Write compare.csv, compare.md, compare.json and compare.html, and prints the table."""
    scores = collect(comparison, methods)
    ranks = mean_ranks(scores)
    costs = {method: cost(comparison, method) for method in methods}
    about = sentences(comparison)
    write_atomic(run.path / "compare.csv", _long_csv(scores, about))
    table = make_table(comparison, scores, ranks, costs, about)
    write_atomic(run.path / "compare.md", to_markdown(table))
    facts = {
        method: {
            "mean_rank": ranks.get(method),
            **costs[method],
            "metrics": {
                name: {"mean": finite(s.mean), "interval_95": [finite(s.low), finite(s.high)],
                       "images": s.n_defined, "protocol": about[name]}
                for name, s in scores[method].items()
            },
        }
        for method in methods
    }  # fmt: skip
    whole = {"images": len(comparison.records), "left_out": refused, "methods": facts}
    write_atomic(run.path / "compare.json", json.dumps(whole, indent=1) + "\n")
    shown = comparison.config.compare.gallery
    pictures = [
        _picture(comparison, methods, i) for i in range(min(shown, len(comparison.records)))
    ]
    write_comparison_page(run.path / "compare.html", table, pictures)
    _print(table)
    say(f"comparison: {run.path / 'compare.html'}")


def _long_csv(scores: Scores, about: dict[str, str]) -> str:
    """Return a row per method and metric: for spreadsheets and data frames."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "metric", "mean", "low_95", "high_95", "images", "protocol"])
    for method, values in scores.items():
        for name, s in values.items():
            numbers = [f"{v:.6g}" if np.isfinite(v) else "" for v in (s.mean, s.low, s.high)]
            writer.writerow([method, name, *numbers, s.n_defined, about[name]])
    return out.getvalue()


def make_table(
    comparison: Comparison,
    scores: Scores,
    ranks: dict[str, float],
    costs: dict[str, Any],
    about: dict[str, str],
) -> Table:
    """Return the methods in the order of their mean rank, what knows nothing of the image last."""
    shown = shown_metrics(scores)
    columns = [Column(m, SHOWN[m], better(m), about[m]) for m in shown]
    order = sorted(scores, key=lambda m: (m in BASELINES, ranks.get(m, np.inf)))
    rows = []
    for method in order:
        values = [scores[method].get(m) for m in shown]
        cells = [None if v is None or np.isnan(v.mean) else (v.mean, v.low, v.high) for v in values]
        rows.append(Row(method, ranks.get(method), tuple(cells), costs[method]))
    images = len(comparison.records)
    title = f"{len(rows)} methods on {images} images"
    return Table(title, tuple(columns), tuple(rows), images)


def _picture(comparison: Comparison, methods: list[str], index: int) -> Picture:
    batch = comparison.batch
    maps = {
        method: read_maps(comparison.folder / method / "maps.zarr", index)["heatmap"].astype(
            np.float32
        )
        for method in methods
    }
    truth = batch.masks[index] if batch.has_mask[index] else None
    cue = batch.cues[index] if batch.has_cue[index] else None
    box = None if np.isnan(batch.boxes[index]).any() else batch.boxes[index]
    name = comparison.explained.output_name(int(comparison.targets[index]))
    return Picture(comparison.records[index].name, name, batch.images[index], maps, truth, cue, box)


def to_markdown(table: Table) -> str:
    """Return the table, its best values in bold, and below it how each column was measured."""
    arrows = {True: " ↑", False: " ↓", None: ""}
    heads = ["method", "mean rank", *(c.head + arrows[c.higher] for c in table.columns),
             "passes", "s / image", "peak GiB"]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    best = table.best()
    for row in table.rows:
        cells = []
        for column, cell in zip(table.columns, row.cells, strict=True):
            text = "–" if cell is None else f"{cell[0]:.3f} ({cell[1]:.2f} to {cell[2]:.2f})"
            cells.append(f"**{text}**" if row.method in best.get(column.name, ()) else text)
        rank = "–" if row.rank is None or np.isnan(row.rank) else f"{row.rank:.1f}"
        lines.append("| " + " | ".join([row.method, rank, *cells, *cost_cells(row.cost)]) + " |")
    lines += ["", f"{table.images} images; means with 95 % bootstrap intervals over the images. "
              "Mean rank: over the columns with an arrow that every method has a value in. "
              "Passes: forward, ↔ forward and back. Seconds: median over the images, an image at "
              "a time, without compiling.", ""]  # fmt: skip
    lines += [f"- {c.head}: {c.protocol}" for c in table.columns]
    return "\n".join(lines) + "\n"


def cost_cells(cost: dict[str, Any]) -> list[str]:
    """Return passes, seconds per image and peak memory as text."""
    parts = [f"{cost['forward_passes']}"] if cost["forward_passes"] else []
    parts += [f"{cost['backward_passes']} ↔"] if cost["backward_passes"] else []
    peak = cost["peak_bytes"]
    return [
        " + ".join(parts) or "0",
        f"{cost['seconds_per_image']:.3g}",
        "–" if peak is None else f"{peak / 2**30:.2f}",
    ]


def _print(table: Table) -> None:
    """Return what fits a terminal: the ranks and a few columns; all are in compare.md."""
    heads = {c.name: i for i, c in enumerate(table.columns)}
    first = next((n for n in ("cue", "object", "box") if f"energy_in_{n}" in heads), None)
    chosen = [f"pointing_{first}", f"energy_in_{first}", "insertion", "deletion", "road_gap"]
    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    arrows = {True: " ↑", False: " ↓", None: ""}
    columns = [heads[name] for name in chosen if name in heads]
    shown.add_column("", no_wrap=True)
    for head in ("rank", *(table.columns[i] for i in columns), "s/image"):
        text = head if isinstance(head, str) else head.head + arrows[head.higher]
        shown.add_column(text, justify="right")
    for row in table.rows:
        rank = "–" if row.rank is None or np.isnan(row.rank) else f"{row.rank:.1f}"
        cells = ["–" if row.cells[i] is None else f"{row.cells[i][0]:.3f}" for i in columns]
        shown.add_row(row.method, rank, *cells, cost_cells(row.cost)[1])
    console.print(shown, soft_wrap=False)
