"""Stage "look": look.html, the images that are worth a look, and tables for field work."""

import time
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from fgjax.core.batching import fill_up
from fgjax.core.files import write_atomic
from fgjax.core.progress import progress, say
from fgjax.data.boxed import relative_box
from fgjax.data.exif import read_taken
from fgjax.data.pipeline import load_examples, take
from fgjax.data.types import DataError, Example, Record
from fgjax.devices.jit import program
from fgjax.options.schema import ConfigError
from fgjax.report.contents import Cutout, Entry, Failure, Page
from fgjax.report.page import write_page
from fgjax.runs.maps import read_maps
from fgjax.stages.evaluate.stage import current_metrics, read_results
from fgjax.stages.focus.patches import boxes_of, known_patches
from fgjax.stages.images import training_records
from fgjax.stages.job import Job
from fgjax.stages.look.reasons import Seen, most_alike, reasons_of, worth
from fgjax.stages.look.tables import Line, best, detections_json, field_csv
from fgjax.stages.stage import Stage

BATCH = 8


class Look(Stage):
    """Find mistakes, images the classifier is unsure of, backgrounds, and near-duplicates."""

    name = "look"

    def missing(self, job: Job) -> None:
        """Tell that there is nothing to explain."""
        _ = job.records

    def run(self, job: Job) -> int:
        """Write look.html, field.csv and megadetector.json.

        Raises:
          ConfigError: the maps are not evaluated yet.
        """
        if current_metrics(job) is None:
            raise ConfigError(
                f"{job.run.path}: its maps are not evaluated yet: stages must include evaluate"
            )
        write_look(job)
        return 0


def write_look(job: Job) -> None:
    """Write look.html, field.csv and megadetector.json from results.csv, the maps and the
    classifier."""
    began, config, run, explained = time.monotonic(), job.config, job.run, job.explained
    outputs = [explained.output_name(i) for i in range(len(explained.outputs))]
    results = {row["name"]: row for row in read_results(run)}
    records = [record for record in job.records if record.name in results]
    say(f"look: {len(records)} images")
    logits, features = _see(job, records)
    others = _training_images(job) if features.shape[1] else []
    _, known_features = _see(job, others)
    if not known_features.shape[1]:  # none can be read
        others = []
    known_features = known_features if others else np.zeros((0, features.shape[1]), np.float32)
    twins, likeness = most_alike(features, known_features)
    lines, seen = {}, {}
    for place, example in load_examples(job.source, records, workers=config.data.workers):
        if isinstance(example, DataError):
            continue  # it was there when it was judged; failures.csv will say so next time
        record, row = records[place], results[records[place].name]
        alike = bool(others) and np.isfinite(likeness[place])
        seen[record.name] = about = Seen(
            p=_softmax(logits[place]),
            known=None if record.label is None else explained.index[record.label],
            inside=_first(row, "energy_in_object", "energy_in_box"),
            likeness=float(likeness[place]) if alike else np.nan,
            twin=others[twins[place]].name if alike else "",
        )
        lines[record.name] = Line(
            name=record.name,
            label=row["label"],
            p=about.p,
            region=_region(job, int(row["index"]), example),
            found=getattr(job.source, "boxes", {}).get(record.name),
            reasons=reasons_of(about, config.look),
            twin=about.twin,
            likeness=about.likeness,
            taken=read_taken(job.source.file(record))
            if config.look.exif and hasattr(job.source, "file")
            else None,
        )
    failures = {row["name"]: row["reason"] for row in run.failures()}
    written = list(lines.values())
    method = config.explain.method
    write_atomic(run.path / "field.csv", field_csv(written, outputs, failures))
    text = detections_json(written, outputs, failures, f"fgjax, {method}")
    write_atomic(run.path / "megadetector.json", text)
    chosen = [name for name in lines if lines[name].reasons]
    chosen.sort(key=lambda name: worth(seen[name], lines[name].reasons))
    counted = len(chosen)
    page = Page(
        title=f"{job.name}: look at these",
        summary=f"{counted} of {len(lines)} images {'is' if counted == 1 else 'are'} worth a look",
        metrics=None,
        entries=_entries(job, chosen[: config.look.images], lines, results, outputs),
        failures=[Failure(**row) for row in run.failures()],
        threshold=config.evaluate.threshold,
        nothing=f"No image is wrong with p {config.look.sure:g} or more (look.sure), unsure by "
        f"less than {config.look.margin:g} (look.margin), nearly a training image (look.same), or "
        "explained by its background (look.background).",
    )
    write_page(run.path / "look.html", page)
    run.finish("look", seconds=round(time.monotonic() - began, 1), images=len(lines))
    for reason in dict.fromkeys(r for name in chosen for r in lines[name].reasons):
        say(f"  {reason}: {sum(reason in line.reasons for line in written)}")
    say(f"look: {run.path / 'look.html'}, field.csv, megadetector.json")


def _training_images(job: Job) -> list[Record]:
    limit = job.config.look.training_images
    try:
        records = training_records(job.source, job.config) if limit else []
    except ConfigError:  # there are none
        return []
    return [r for r in take(records, limit) if r.split == "train"] if records else []


@program("explain")
def _features(model: Any, images: Any) -> Any:
    return model.features(images).mean((1, 2))


def _see(job: Job, records: list[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and pooled features of the images; zeros of one that cannot be read. Features
    have no columns where the model offers none."""
    model, patches = job.explained.model, known_patches(job)
    has_features = hasattr(model, "features")
    logits: dict[int, np.ndarray] = {}
    features: dict[int, np.ndarray] = {}
    chunk: list[tuple[int, Example]] = []

    def run() -> None:
        filled = fill_up(chunk, BATCH)
        examples = [example for _, example in filled]
        images = jnp.asarray(np.stack([e.image for e in examples]).astype(np.float32) / 255)
        boxes = None
        if patches is not None:
            boxes = boxes_of(job, patches, [records[i].name for i, _ in filled], examples)
        outputs = job.explained.predict(images, boxes)
        found = np.asarray(_features(model, images)) if has_features else np.zeros((BATCH, 0))
        for (index, _), output, feature in zip(chunk, outputs, found):
            logits[index], features[index] = output, feature
        chunk.clear()

    loaded = load_examples(job.source, records, workers=job.config.data.workers)
    with progress("look", len(records)) as counter:
        for place, example in loaded:
            if not isinstance(example, DataError):
                chunk.append((place, example))
            if len(chunk) == BATCH:
                run()
            counter.advance()
        if chunk:
            run()
    if not logits:
        return np.zeros((len(records), 1), np.float32), np.zeros((len(records), 0), np.float32)
    rows = lambda of: np.stack(
        [of.get(i, np.zeros_like(next(iter(of.values())))) for i in range(len(records))]
    )
    return rows(logits), rows(features)


def _softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max())
    return p / p.sum()


def _first(row: dict[str, str], *names: str) -> float:
    """Return the first of these numbers that is defined."""
    values = [float(row[name]) for name in names if row.get(name)]
    return next((value for value in values if np.isfinite(value)), np.nan)


def _region(job: Job, index: int, example: Example) -> np.ndarray | None:
    """Return the box of what the map has above the threshold, as shares of the file's image."""
    heat = read_maps(job.run.path / "maps.zarr", index)["heatmap"].astype(np.float32)
    y, x = np.nonzero(heat > job.config.evaluate.threshold)
    if not len(y):
        return None
    box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float64)
    return relative_box(job.source, example, box)


def _entries(
    job: Job,
    names: list[str],
    lines: dict[str, Line],
    results: dict[str, dict[str, str]],
    outputs: list[str],
) -> Iterator[Entry]:
    by_name = {record.name: record for record in job.source.records}
    records = [by_name[name] for name in names]
    for place, example in load_examples(job.source, records, workers=job.config.data.workers):
        if isinstance(example, DataError):
            continue
        line, row = lines[names[place]], results[names[place]]
        top = best(line.p)
        cutouts = []
        if line.twin and np.isfinite(line.likeness):
            twin = by_name[line.twin]
            label = job.source.classes[twin.label] if twin.label is not None else ""
            try:
                image = job.source.load(twin).image
                about = f"{line.likeness:.3f}, {label}, {line.twin}"
                cutouts.append(Cutout("most alike in training", None, about, image))
            except DataError:
                pass
        maps = read_maps(job.run.path / "maps.zarr", int(row["index"]))
        yield Entry(
            name=line.name,
            image=example.image,
            maps={"heatmap": maps["heatmap"]},
            label=line.label or None,
            predicted=outputs[top[0]] if row["correct"] != "1" else line.label,
            target=row["target"],
            probability=float(line.p[top[0]]),
            metrics={"p of the second": float(line.p[top[1]]) if len(top) > 1 else None}
            | ({"likeness": line.likeness} if np.isfinite(line.likeness) else {}),
            box=example.box,
            mask=example.mask,
            cutouts=cutouts,
            reasons=line.reasons,
        )
