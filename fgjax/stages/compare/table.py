"""From the scores of many methods to one table: CSV, Markdown, JSON and a page."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from fgjax.attribution.common.infill import INFILLS
from fgjax.core.files import write_atomic
from fgjax.core.progress import say
from fgjax.core.tables import finite
from fgjax.evaluation import Summary, summarise
from fgjax.evaluation.blank import blank_sentence, count_reasons, why_blank
from fgjax.evaluation.faithfulness import curve_protocol
from fgjax.evaluation.landmark_targets import is_of_a_part, part_is_better, part_protocols
from fgjax.evaluation.localization import POINTING_PROTOCOLS
from fgjax.evaluation.summary import BETTER, model_protocols, protocols
from fgjax.options.judging import CONTROLS
from fgjax.report.comparison import Column, Picture, Row, Table, write_comparison_page
from fgjax.runs.folder import RunFolder
from fgjax.runs.maps import read_maps, read_traces
from fgjax.stages.compare.comparison import Comparison, RowOf, passes, read_scores
from fgjax.stages.compare.ranks import ALIKE, Ranking, rank
from fgjax.stages.compare.words import print_table, to_markdown
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
    **{f"insertion_{name}": f"insertion, {name}" for name in INFILLS},
    "deletion": "deletion",
    **{f"deletion_{name}": f"deletion, {name}" for name in INFILLS},
    "dimmed_drop": "dimmed drop",
    "road_gap": "ROAD gap",
    "part_deletion": "part deletion ρ",
    "max_sensitivity": "max-sensitivity",
    "randomisation_rank_correlation": "randomised ρ, absolute",
    "randomisation_undefined": "undefined",
    "blank": "blank",
    "gini": "Gini",
}
"""The metrics of the table, and their heads; what no method has a value of is left out."""

COUNTED = ("blank", "randomisation_undefined")
"""Metrics that are left out where they are 0 for every method."""

SEEN = {"blur": ("blur", "blurs"), "mean": ("mean",)}
"""Baseline of a curve -> infills that are such pictures, where they have other names."""

INSTEAD = {
    "pointing_box": "pointing_object",
    "pointing_15px_box": "pointing_15px_object",
    "energy_in_box": "energy_in_object",
}
"""A box is looked at where there is no mask."""

ValuesOf = dict[str, dict[str, Float[np.ndarray, "n"]]]
"""Row -> metric -> a value per image, NaN where there is none."""


def sentences(comparison: Comparison, methods: list[str]) -> dict[str, str]:
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
    how = {"insertion": "put into", "deletion": "replaced by"}
    for name in compare.infills:
        for curve, words in how.items():
            measured = curve_protocol(compare.steps, f"the infill {name}")
            found[f"{curve}_{name}"] = f"{words} an infill: {measured}"
    for curve, baseline in {"insertion": "blur", "deletion": "mean"}.items():
        for metric, name in {
            curve: baseline,
            **{f"{curve}_{n}": n for n in compare.infills},
        }.items():
            found[metric] += _tuned(comparison, methods, name)
    found["randomisation_undefined"] = (
        "share of the randomised networks for which the rank correlation is undefined, because the "
        "map or theirs is constant"
    )
    return found


def _tuned(comparison: Comparison, methods: list[str], baseline: str) -> str:
    """Return which methods optimise their maps on such a picture: for them it is no test."""
    pictures, found = SEEN.get(baseline, (baseline,)), []
    for method in methods:
        settings = comparison.settings(method)
        used = {getattr(settings, "infill", None), *getattr(settings, "infill_also", ())}
        if hasattr(settings, "learning_rate") and used & set(pictures):
            found.append(method)
    return f"; in-sample for {' and '.join(found)}, optimised on such a picture" if found else ""


def better(metric: str) -> bool | None:
    """Return whether higher is better."""
    if is_of_a_part(metric):
        return part_is_better(metric)
    if metric in COUNTED:
        return None
    for curve, higher in (("insertion", True), ("deletion", False)):
        if metric.startswith(curve):
            return higher
    return True if metric.startswith("pointing_15px") else BETTER[metric]


def collect(comparison: Comparison, rows: list[RowOf]) -> ValuesOf:
    """Return row -> metric -> a value per image."""
    names_of = [record.name for record in comparison.records]
    count, values = len(names_of), {}
    for row in rows:
        scores = read_scores(comparison.scores_file(row), names_of)
        names = dict.fromkeys(name for own in scores.values() for name in own)
        values[row.name] = {
            name: np.array([float(scores.get(i, {}).get(name, "nan")) for i in range(count)])
            for name in names
        }
    return values


def shown_metrics(values: Mapping[str, Mapping[str, Float[np.ndarray, "n"]]]) -> list[str]:
    """Return the metrics of `SHOWN` that some row has a value of."""

    def has(metric):
        rows = {k: v for k, v in values.items() if metric not in COUNTED or k not in CONTROLS}
        found = [own[metric] for own in rows.values() if metric in own]
        some = any(np.isfinite(own).any() for own in found)
        return some and (metric not in COUNTED or any(np.nansum(own) > 0 for own in found))

    return [m for m in SHOWN if has(m) and not (m in INSTEAD and has(INSTEAD[m]))]


class Found(NamedTuple):
    """All that the table and the files say.

    Attributes:
      rows: of the table, methods with their variants and then controls.
      values: of every row.
      ranking: see `ranks`.
      about: metric -> how it was measured.
      costs: method -> passes, seconds, memory.
      blank: method -> how many of its maps are blank, and why.
    """

    rows: list[RowOf]
    values: ValuesOf
    ranking: Ranking
    about: dict[str, str]
    costs: dict[str, dict[str, Any]]
    blank: dict[str, dict[str, Any]]


def find(comparison: Comparison, methods: list[str]) -> Found:
    """Return what the finished methods' numbers say."""
    rows = [
        row
        for method in methods
        for row in (RowOf(method), *(RowOf(method, v) for v in comparison.variants(method)))
    ]
    values = collect(comparison, rows)
    ranking = rank(
        values,
        [m for m in methods if m not in CONTROLS],
        [m for m in methods if m in CONTROLS],
        shown_metrics(values),
        better,
        {row.name: row.method for row in rows if row.variant},
    )
    worst = float("inf")
    order = {m: worst if np.isnan(r := ranking.rank.get(m, np.nan)) else r for m in methods}
    rows.sort(key=lambda row: (row.is_control, order[row.method], methods.index(row.method)))
    return Found(
        rows,
        values,
        ranking,
        sentences(comparison, methods),
        {method: cost(comparison, method) for method in methods},
        {method: blank_maps(comparison, method) for method in methods if method not in CONTROLS},
    )


def blank_maps(comparison: Comparison, method: str) -> dict[str, Any]:
    """Return how many of a method's maps are blank, and why."""
    folder = comparison.folder / method / "maps.zarr"
    spreads = read_traces(folder).get("spread")
    reasons = [
        why_blank(
            read_maps(folder, i)["heatmap"], None if spreads is None else float(spreads[i, 0])
        )
        for i in range(len(comparison.records))
    ]
    return count_reasons(reasons)


def cost(comparison: Comparison, method: str) -> dict[str, Any]:
    """Return passes, seconds per image without compiling, seconds to compile, and peak memory."""
    forward, backward = passes(comparison, method)
    path = comparison.folder / method / "calls.jsonl"
    calls = _read_calls(path)
    later = [call["seconds"] for call in calls if not call["first"]]
    first = [call["seconds"] for call in calls if call["first"]]
    seconds = float(np.median(later or first or [np.nan]))
    peaks = [call["peak_bytes"] for call in calls if call["peak_bytes"]]
    return {
        "forward_passes": forward,
        "backward_passes": backward,
        "seconds_per_image": seconds,
        "compile_seconds": max(0.0, first[0] - seconds) if later and first else None,
        "peak_bytes": max(peaks) if peaks else None,
    }


def _read_calls(path: Path) -> list[dict[str, Any]]:
    """Return the calls that were timed. A line that a kill cut off does not count."""
    calls = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            call = json.loads(line)
            calls.append({k: call[k] for k in ("seconds", "first", "peak_bytes")})
        except (ValueError, KeyError, TypeError):
            continue
    return calls


def write_comparison(
    comparison: Comparison, methods: list[str], refused: dict[str, str], run: RunFolder
) -> None:
    """Write compare.csv, compare.md, compare.json and compare.html, and print the table."""
    found = find(comparison, methods)
    summaries = {
        row: {name: summarise(own) for name, own in values.items()}
        for row, values in found.values.items()
    }
    write_atomic(run.path / "compare.csv", _long_csv(summaries, found.about))
    table = make_table(comparison, found, summaries)
    write_atomic(run.path / "compare.md", to_markdown(table))
    facts = {
        row.name: {
            "mean_rank": finite(found.ranking.rank.get(row.name)),
            **({"of": row.method} if row.variant else found.costs[row.method]),
            **({"blank": found.blank[row.name]} if row.name in found.blank else {}),
            "metrics": {
                name: {"mean": finite(s.mean), "interval_95": [finite(s.low), finite(s.high)],
                       "images": s.n_defined, "protocol": found.about[name]}
                for name, s in summaries[row.name].items()
            },
        }
        for row in found.rows
    }  # fmt: skip
    whole = {
        "images": len(comparison.records),
        "left_out": refused,
        "flipped": comparison.flipped,
        "ranked": {
            "questions": found.ranking.questions,
            "not_ranked": found.ranking.unranked,
            "images": found.ranking.images,
        },
        "methods": facts,
    }
    write_atomic(run.path / "compare.json", json.dumps(whole, indent=1) + "\n")
    shown = comparison.config.compare.gallery
    pictures = [
        _picture(comparison, found.rows, i) for i in range(min(shown, len(comparison.records)))
    ]
    write_comparison_page(run.path / "compare.html", table, pictures)
    print_table(table)
    for method, about in found.blank.items():
        if about["blank"]:
            say(f"compare: {method}: {blank_sentence(about)}")
    for metric, why in found.ranking.unranked.items():
        say(f"compare: {SHOWN[metric]} ranks nothing: {why}")
    say(f"comparison: {run.path / 'compare.html'}")


def _long_csv(summaries: dict[str, dict[str, Summary]], about: dict[str, str]) -> str:
    """Return a row per method and metric: for spreadsheets and data frames."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "metric", "mean", "low_95", "high_95", "images", "protocol"])
    for method, values in summaries.items():
        for name, s in values.items():
            numbers = [f"{v:.6g}" if np.isfinite(v) else "" for v in (s.mean, s.low, s.high)]
            writer.writerow([method, name, *numbers, s.n_defined, about[name]])
    return out.getvalue()


def make_table(
    comparison: Comparison, found: Found, summaries: dict[str, dict[str, Summary]]
) -> Table:
    """Return the methods in the order of their mean rank, each with its variants, the controls
    last."""
    shown, ranking = shown_metrics(found.values), found.ranking
    columns = [
        Column(m, SHOWN[m], better(m), found.about[m], ranking.unranked.get(m, "")) for m in shown
    ]
    rows = []
    for row in found.rows:
        own = [summaries[row.name].get(m) for m in shown]
        cells = [
            None if v is None or np.isnan(v.mean) else (v.mean, v.low, v.high, v.n_defined)
            for v in own
        ]
        place = ranking.rank.get(row.name)
        rows.append(Row(row.name, place, tuple(cells), found.costs[row.method], row.variant))
    images = len(comparison.records)
    count = sum(not row.is_control for row in found.rows if not row.variant)
    title = f"{count} methods on {images} images"
    return Table(title, tuple(columns), tuple(rows), images, tuple(_notes(comparison, found)))


def _notes(comparison: Comparison, found: Found) -> list[str]:
    """Return how the ranks came about, a sentence each."""
    ranking = found.ranking
    heads = [" = ".join(SHOWN[m] for m in group) for group in ranking.questions]
    notes = [
        "Mean rank: the mean place over " + ("; ".join(heads) if heads else "no column") + ". "
        f"Columns joined by = order the methods alike (Spearman's ρ of their places at least "
        f"{ALIKE}) and count once. Methods are ranked over the images on which all of them have a "
        "value; a cell over fewer images than all says how many."
    ]
    notes += [f"{SHOWN[m]} ranks nothing: {why}." for m, why in ranking.unranked.items()]
    if any(row.is_control for row in found.rows):
        notes.append(
            "The last rows are controls: maps that know nothing of the image"
            + (f", and 1 - the map of {comparison.flipped} (flipped)" if comparison.flipped else "")
            + ". A column in which one of them beats the median method ranks nothing."
        )
    else:
        notes.append(
            "No control is among the rows: whether a column can be gamed was not looked at."
        )
    if any(row.variant for row in found.rows):
        notes.append(
            "METHOD: NAME is another map of the same run; its rank is the place it would have in "
            "its method's stead, over the columns it has a value in."
        )
    for method, about in found.blank.items():
        if about["blank"]:
            notes.append(f"{method}: {blank_sentence(about)}.")
    return notes


def _picture(comparison: Comparison, rows: list[RowOf], index: int) -> Picture:
    batch = comparison.batch
    maps = {row.name: comparison.heat(row, [index])[0] for row in rows}
    truth = batch.masks[index] if batch.has_mask[index] else None
    cue = batch.cues[index] if batch.has_cue[index] else None
    box = None if np.isnan(batch.boxes[index]).any() else batch.boxes[index]
    name = comparison.explained.output_name(int(comparison.targets[index]))
    return Picture(comparison.records[index].name, name, batch.images[index], maps, truth, cue, box)
