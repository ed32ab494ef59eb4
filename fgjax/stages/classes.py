"""What a test says beside the accuracy: every class, calibration, the tree of classes, mistakes."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax

from fgjax.core.files import write_atomic
from fgjax.core.tables import finite, to_csv
from fgjax.data.levels import Levels, levels_of, read_levels
from fgjax.data.pipeline import load_examples
from fgjax.data.types import DataError, Record
from fgjax.evaluation.classification import (
    BINS,
    LevelFigures,
    Reliability,
    class_figures,
    confusion_matrix,
    reliability,
    roll_up,
    similar_together,
)
from fgjax.report.classes import Bin, ClassesPage, ClassRow, LevelRow, Mistake, write_classes_page
from fgjax.report.parts import Fact
from fgjax.stages.classifier import trains
from fgjax.stages.images import untrained_classes
from fgjax.stages.job import Job

COLUMNS = ["name", "images", "trained_on", "recall", "precision", "mistaken_for", "mistaken"]
CALIBRATION = f"expected calibration error of the highest probability, {BINS} bins of equal width"
CURVES = ("train_loss", "validation_loss", "validation_accuracy")


@dataclass(frozen=True)
class Looked:
    """Tested images with the classifier's logits and the right output of each."""

    records: tuple[Record, ...]
    logits: Float[np.ndarray, "n k"]
    targets: Int[np.ndarray, "n"]


def write_classes(job: Job, looked: Looked, metrics: dict[str, Any]) -> dict[str, Any]:
    """Write run/classes.csv and test.html, and return what test.json says of calibration, of the
    levels of the classes' tree, and of classes that were not trained.

    Args:
      metrics: the figures of test.json.

    Raises:
      DataError: data.levels cannot be used.
    """
    run, temperature = job.run, job.explained.model.temperature
    outputs = looked.logits.shape[1]
    predicted = looked.logits.argmax(1)
    confusion = confusion_matrix(looked.targets, predicted, outputs)
    right = predicted == looked.targets
    plain, scaled = (
        reliability(softmax(looked.logits / t, axis=1).max(1), right) for t in (1.0, temperature)
    )
    levels = _levels(job, outputs)
    figures = (
        roll_up(looked.logits, looked.targets, levels, job.config.evaluate.sure, temperature)
        if levels
        else []
    )
    # What is neither tested nor said has no place in a table of what is mistaken for what.
    there = np.flatnonzero(confusion.sum(0) + confusion.sum(1))
    order = there[similar_together(confusion[np.ix_(there, there)])]
    rows = _rows(job, confusion, order)
    write_atomic(run.path / "classes.csv", to_csv([_csv(row) for row in _by_name(rows)], COLUMNS))
    untrained = untrained_classes(job.source) if trains(job.config) else []
    page = ClassesPage(
        title=f"{job.name}: how good is the classifier?",
        facts=_facts(metrics, plain, scaled, temperature),
        classes=rows,
        confusion=confusion[np.ix_(order, order)],
        reliability={"as it is": _bins(plain), f"temperature {temperature:g}": _bins(scaled)},
        levels=[_level(row) for row in figures],
        mistakes=_mistakes(job, looked),
        curves=_curves(job),
        notes=_notes(untrained),
        sure=job.config.evaluate.sure,
    )
    write_classes_page(run.path / "test.html", page)
    return {
        "calibration": {
            "protocol": CALIBRATION,
            "error": finite(plain.error),
            "temperature": temperature,
            "error_with_temperature": finite(scaled.error),
        },
        "levels": [
            {"name": row.name, "groups": row.groups, "accuracy": row.accuracy,
             "answered": row.answered, "right": finite(row.right)}
            for row in figures
        ],
        "untrained_classes": untrained,
    }  # fmt: skip


def _levels(job: Job, outputs: int) -> Levels:
    """Return the group of every output at every level; an output that is no class of the data is a
    group by itself."""
    config, index = job.config, job.explained.index
    found = levels_of(job.source)
    if config.data.levels is not None:
        try:
            found = read_levels(config.data.levels, job.source.classes)
        except DataError as error:
            raise DataError(f"data.levels: {error}") from None
    levels = {}
    for name, groups in found.items():
        of = [f"output {output}" for output in range(outputs)]
        for place, output in enumerate(index):
            if output is not None:
                of[output] = groups[place]
        levels[name] = tuple(of)
    return levels


def _rows(job: Job, confusion: np.ndarray, order: np.ndarray) -> list[ClassRow]:
    explained, source = job.explained, job.source
    count = Counter(
        explained.index[r.label]
        for r in source.records
        if r.split == "train" and r.label is not None
    )
    figures, rows = class_figures(confusion), []
    for output in order.tolist():
        own = figures[output]
        rows.append(
            ClassRow(
                explained.output_name(output),
                own.images,
                count[output],
                finite(own.recall),
                finite(own.precision),
                "" if own.mistaken_for < 0 else explained.output_name(own.mistaken_for),
                own.mistaken,
            )
        )
    return rows


def _by_name(rows: list[ClassRow]) -> list[ClassRow]:
    return sorted(rows, key=lambda row: row.name)


def _csv(row: ClassRow) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in COLUMNS}
    return {k: f"{v:.6g}" if isinstance(v, float) else "" if v is None else v
            for k, v in values.items()}  # fmt: skip


def _bins(found: Reliability) -> list[Bin]:
    edges = np.linspace(0, 1, len(found.counts) + 1)
    triples = zip(edges, edges[1:], found.counts, found.right)
    return [Bin(float(a), float(b), int(n), finite(r)) for a, b, n, r in triples]


def _level(row: LevelFigures) -> LevelRow:
    return LevelRow(row.name, row.groups, row.accuracy, row.answered, finite(row.right))


def _facts(
    metrics: dict[str, Any], plain: Reliability, scaled: Reliability, temperature: float
) -> list[Fact]:
    facts = []
    for name, about in metrics.items():
        low, high = about["interval_95"]
        form = "{:.3f} ({:.3f} to {:.3f})" if name == "loss" else "{:.1%} ({:.1%} to {:.1%})"
        shown = form.format(about["mean"], low, high)
        facts.append(Fact(name.replace("_", " "), shown, about["protocol"]))
    facts.append(Fact("calibration error", f"{plain.error:.1%}", CALIBRATION))
    if temperature != 1:
        said = f"the same of softmax(logits / {temperature:g}), found on validation images"
        facts.append(Fact("with its temperature", f"{scaled.error:.1%}", said))
    return facts


def _notes(untrained: Sequence[str]) -> list[str]:
    notes = ["Intervals: 95 %, bootstrap over the test images."]
    if untrained:
        notes.append(
            f"Without a training image, and so never learnt: {', '.join(untrained)}. Their test "
            "images count as wrong."
        )
    return notes


def _curves(job: Job) -> dict[str, list[float]]:
    """Return the figures of every epoch of the run's own training."""
    file = job.run.path / "metrics.jsonl"
    if not trains(job.config) or not file.is_file():
        return {}
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    curves = {name: [row[name] for row in rows if row.get(name) is not None] for name in CURVES}
    return {name.replace("_", " "): values for name, values in curves.items() if len(values) > 1}


def _mistakes(job: Job, looked: Looked) -> list[Mistake]:
    """Return the surest mistakes, each with an image of its class and one of the class said."""
    source, explained = job.source, job.explained
    p = softmax(looked.logits / explained.model.temperature, axis=1)
    predicted = p.argmax(1)
    wrong = np.flatnonzero(predicted != looked.targets)
    wrong = wrong[np.argsort(-p[wrong, predicted[wrong]], kind="stable")]
    wrong = wrong[: job.config.evaluate.mistakes]
    typical: dict[int | None, Record] = {}
    for record in (r for split in ("train", "test") for r in source.records if r.split == split):
        if record.label is not None:
            typical.setdefault(explained.index[record.label], record)
    typical.pop(None, None)
    wanted = [looked.records[i] for i in wrong]
    outputs = {int(o) for i in wrong for o in (predicted[i], looked.targets[i])} & set(typical)
    wanted += [typical[output] for output in sorted(outputs)]
    images = {}
    for place, example in load_examples(source, wanted, workers=job.config.data.workers):
        if not isinstance(example, DataError):
            images[wanted[place].name] = example.image
    like = lambda o: images.get(typical[o].name) if o in typical else None  # noqa: E731
    return [
        Mistake(
            looked.records[i].name,
            explained.output_name(int(looked.targets[i])),
            explained.output_name(int(predicted[i])),
            float(p[i, predicted[i]]),
            images[looked.records[i].name],
            like(int(looked.targets[i])),
            like(int(predicted[i])),
        )
        for i in wrong
        if looked.records[i].name in images
    ]
