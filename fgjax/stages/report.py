"""Stage "report": report.html and figures/."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from fgjax.core.progress import say
from fgjax.data.pipeline import load_examples
from fgjax.data.types import DataError
from fgjax.evaluation.blank import blank_sentence
from fgjax.evaluation.doubts import DOUBTS, doubts
from fgjax.evaluation.order import pixel_ranks
from fgjax.options.resolve import flatten
from fgjax.options.schema import Config, ConfigError
from fgjax.report.contents import Cutout, Entry, Failure, Metric, Page
from fgjax.report.figures import write_figures
from fgjax.report.page import write_page
from fgjax.runs.folder import RunFolder
from fgjax.runs.maps import read_maps, read_traces
from fgjax.stages.evaluate.stage import COLUMNS, current_metrics, read_results
from fgjax.stages.evaluate.summary import better
from fgjax.stages.job import Job
from fgjax.stages.stage import Stage

SHOWN = ("p_kept", "p_deleted", "deletion_gap", "randomisation_rank_correlation",
         "area_ssr", "area_sdr", "area", "iou_cue", "in_cue", "iou_mask",
         "in_object", "iou_box", "in_box")  # fmt: skip


class Report(Stage):
    """Write the page and the figures of a run that has been evaluated."""

    name = "report"

    def missing(self, job: Job) -> None:
        """Tell that there is nothing to explain."""
        _ = job.records

    def run(self, job: Job) -> int:
        """Write them, where they are not those of the numbers of now.

        Raises:
          ConfigError: the maps are not evaluated yet.
        """
        metrics = current_metrics(job)
        if metrics is None:
            raise ConfigError(
                f"{job.run.path}: its maps are not evaluated yet, or at another "
                "evaluate.threshold: stages must include evaluate"
            )
        page, about = job.run.path / "report.html", job.run.stage("report")
        if not page.is_file() or about | _about(job.config, metrics) != about:
            write_report(job, metrics)
        say(f"report: {page}")
        return 0


TRACES = {
    "p_kept": "p kept, sampled",
    "p_deleted": "p deleted, sampled",
    "p_step": "p step",
}
"""What is drawn over the steps, and its name: not that of the masks when cut."""
CALLED = {
    "p_kept": "p kept, cut",
    "p_deleted": "p deleted, cut",
    "randomisation_rank_correlation": "randomised |ρ|",
}
"""Names of numbers that would be taken for others, beside those of `TRACES`."""


def write_report(job: Job, metrics: dict[str, Any]) -> None:
    """Write report.html and figures/ from results.csv, the maps and `metrics`."""
    began, config, run = time.monotonic(), job.config, job.run
    rows = read_results(run)
    say(f"report: {min(len(rows), config.report.images)} images")
    for old in (run.path / "figures").glob("*.png"):
        old.unlink()
    figures = _entries(job, rows[: config.report.figures])
    write_figures(run.path / "figures", figures, threshold=config.evaluate.threshold)
    page = Page(
        title=f"{job.name}: {f'maps of {config.maps}' if config.maps else config.explain.method}"
        + (f" against {config.explain.against}" if config.explain.against else ""),
        summary=_headline(metrics) + _doubted(rows),
        facts=_facts(run),
        settings={
            key: str(value)
            for key, value in flatten(job.plain).items()
            if not key.startswith(("compare.", "tta."))  # of stages that have pages of their own
        },
        metrics=[_metric(k, value) for k, value in metrics["metrics"].items()],
        entries=_entries(job, doubtful_first(rows)[: config.report.images]),
        failures=[Failure(**row) for row in run.failures()],
        threshold=config.evaluate.threshold,
    )
    write_page(run.path / "report.html", page)
    run.finish("report", seconds=round(time.monotonic() - began, 1), **_about(config, metrics))


def _about(config: Config, metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": metrics["evaluated"],
        "gallery": config.report.images,
        "figures": config.report.figures,
    }


def _headline(metrics: dict[str, Any]) -> str:
    line = f"{metrics['evaluated']} of {metrics['images']} test images explained"
    if metrics["accuracy"] is not None:
        line += f"; the classifier is right on {metrics['accuracy']:.1%} of them"
    if said := blank_sentence(metrics.get("blank", {"blank": 0})):
        line += f"; {said}"
    return line


def _numbers(row: dict[str, str]) -> dict[str, float]:
    numbers = {k: float(v) for k, v in row.items() if k not in COLUMNS}
    if {"p_full", "p_deleted"} <= numbers.keys():
        numbers["deletion_gap"] = numbers["p_full"] - numbers["p_deleted"]
    return numbers


def doubtful_first(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows, those with doubts first, by the gravest of each; else in their order."""
    order = {doubt: i for i, doubt in enumerate(DOUBTS)}
    grave = lambda row: min((order[doubt] for doubt in doubts(_numbers(row))), default=len(order))
    return sorted(rows, key=grave)


def _doubted(rows: list[dict[str, str]]) -> str:
    found = [doubts(_numbers(row)) for row in rows]
    counts = Counter(doubt for raised in found for doubt in raised)
    if not counts:
        return ""
    said = [f"{doubt} ({when}): {counts[doubt]}" for doubt, when in DOUBTS.items() if counts[doubt]]
    return (
        f". Can the maps be trusted? {sum(map(bool, found))} of {len(rows)} with a doubt, shown "
        f"first: {'; '.join(said)}"
    )


def _facts(run: RunFolder) -> dict[str, str]:
    facts = {name: str(value) for name, value in run.facts["versions"].items()}
    facts["device"] = run.facts["device"]
    facts["seed"] = str(run.facts["seed"])
    for stage, about in run.facts["stages"].items():
        if stage != "report":
            facts[f"{stage}, seconds"] = str(about.get("seconds", ""))
    return facts


def _called(name: str) -> str:
    return CALLED.get(name, name.replace("_", " "))


def _metric(name: str, value: dict[str, Any]) -> Metric:
    return Metric(
        name=_called(name),
        protocol=value["protocol"],
        value=value["mean"],
        defined=value["defined"],
        images=value["images"],
        baselines={kind.replace("_", " "): mean for kind, mean in value["baselines"].items()},
        higher_is_better=better(name),
    )


def _entries(job: Job, rows: list[dict[str, str]]) -> Iterator[Entry]:
    folder = job.run.path / "maps.zarr"
    traces = read_traces(folder)
    wanted = [job.records[int(row["index"])] for row in rows]
    loaded = load_examples(job.source, wanted, workers=job.config.data.workers)
    for place, example in islice(loaded, len(rows)):
        if isinstance(example, DataError):
            continue  # it was there when it was evaluated; failures.csv will say so next time
        row, index = rows[place], int(rows[place]["index"])
        numbers = _numbers(row)
        maps = read_maps(folder, index)
        yield Entry(
            name=row["name"],
            image=example.image,
            maps=_ordered(maps),
            label=row["label"] or None,
            predicted=row["predicted"] if row["correct"] != "1" else row["label"],
            target=row["target"],
            probability=numbers.get("p_full"),
            metrics={
                _called(k): numbers[k] for k in SHOWN if k in numbers and np.isfinite(numbers[k])
            },
            box=example.box,
            mask=example.mask,
            cue=example.cue,
            traces={label: traces[k][index].tolist() for k, label in TRACES.items() if k in traces},
            notes=_step_notes(traces, index),
            cutouts=tuple(_cutouts(maps, numbers)),
            reasons=doubts(numbers),
        )


def _cutouts(maps: dict[str, np.ndarray], numbers: dict[str, float]) -> Iterator[Cutout]:
    """Yield the smallest regions that suffice and that destroy, or that there is none."""
    both = {"ssr", "sdr"} <= maps.keys()
    for title, metric, name in (
        ("suffices", "smallest_kept", "ssr"),
        ("without it", "smallest_deleted", "sdr"),
    ):
        share, p = numbers.get(metric, np.nan), numbers.get(f"{metric}_p", np.nan)
        if metric not in numbers:  # they were not asked for
            continue
        if not np.isfinite(share):
            yield Cutout(title, None, f"not reached: p {p:.2f} with the whole image replaced")
            continue
        heat = maps[name if both else "heatmap"].astype(np.float32)
        ranks = np.asarray(pixel_ranks(heat[None]))[0]
        mask = ranks < round(share * ranks.size)
        yield Cutout(title, mask, f"p {p:.2f}, {share:.1%} of the image")


def _step_notes(traces: dict[str, np.ndarray], index: int) -> dict[str, str]:
    """Of a recurrence: whether each step by itself classifies right, and how sure it is."""
    if "right_step" not in traces:
        return {}
    pairs = zip(traces["right_step"][index], traces["p_step"][index], strict=True)
    return {
        f"step_{t}": f"{'right' if right else 'wrong'}, p {p:.2f}"
        for t, (right, p) in enumerate(pairs, start=1)
    }


def _ordered(maps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what the method made first, then the heat map, which for FIDO is the joint mask."""
    title = "joint" if "ssr" in maps and "sdr" in maps else "heatmap"
    number = lambda k: int(found[0]) if (found := re.findall(r"\d+$", k)) else 0  # noqa: E731
    order = sorted(maps, key=lambda k: (k == "heatmap", k != "ssr", number(k), k))
    return {title if k == "heatmap" else k: maps[k] for k in order}
