"""Stage "tta": does a second look at one part of the image make the classifier better?

The prediction for the image is averaged with that for one crop of it: the mean of the two
softmax probabilities. Where the crop lies is what the rows of the table differ in.

Every crop is a part of what the model sees, the square that `data.size` and `data.crop` cut out
of the image file; what lies outside that square is lost to all rows alike, also to a ground-truth
box that reaches over it. The crop's pixels come from the file again, at `DETAIL` times
`data.size`: a crop of half the side is as sharp as the image itself, a smaller one is enlarged.
(Drawn images have no file and are drawn at one size: their crops are always enlarged.)

Reference:
  Korsch et al., Simplified Concrete Dropout, 2023, sections 3.3 and 4.3, and Table 2.
"""

import csv
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from fgjax.core.batching import fill_up
from fgjax.core.files import as_written, write_atomic
from fgjax.core.keys import image_key
from fgjax.core.progress import progress, say
from fgjax.core.tables import to_csv
from fgjax.data.boxes import fitted_box, read_boxes
from fgjax.data.pipeline import load_examples
from fgjax.data.types import DataError, Example, Record, Source
from fgjax.evaluation.crops import crop_and_resize
from fgjax.models.folding import explained_in
from fgjax.options.judging import CROPS
from fgjax.options.schema import Config, ConfigError
from fgjax.runs.folder import ConfigChanged, RunFolder
from fgjax.stages.explain.images_per_step import given_or_usual
from fgjax.stages.images import make_source
from fgjax.stages.job import Job
from fgjax.stages.stage import Stage
from fgjax.stages.tta.crops import DETAIL, MAPS, MISSING, crop_boxes, heat_map
from fgjax.stages.tta.table import (
    images_of,
    print_table,
    protocols,
    settings,
    summary,
    to_markdown,
)

SAVE_SECONDS = 10.0
"""Results are written at least this often, and when the run is interrupted."""
COLUMNS = ["name", "crop", "label", "predicted", "probability", "label_probability", "correct",
           "alone", "alone_correct", "x0", "y0", "x1", "y1", "seconds", "note"]  # fmt: skip


Rows = dict[tuple[str, str], dict[str, str]]
"""(Image, crop) -> its row of tta.csv."""


class Tta(Stage):
    """Look again at one part of every test image."""

    name = "tta"

    def missing(self, job: Job) -> None:
        """Tell that there is no test image, or what is wrong with the boxes of a detector."""
        _ = job.records
        read_detections(job)

    def run(self, job: Job) -> int:
        """Do what tta.csv does not hold yet, and make the table."""
        return augment(job)


class CropChunk(NamedTuple):
    """Images that are looked at together, the last repeated to fill the chunk up.

    Attributes:
      records: those of the images, without the repeated.
      images: what the model sees, in [0, 1].
      fine: the same with more pixels.
      given: for each crop that comes from a box someone gave, the boxes; NaN: none.
      keys: each image's own.
    """

    records: list[Record]
    images: Float[np.ndarray, "n h w 3"]
    fine: Float[np.ndarray, "n H W 3"]
    given: dict[str, Float[np.ndarray, "n 4"]]
    keys: Key[Array, "n"]


def augment(job: Job) -> int:
    """Write run/tta.csv (a row per image and crop), tta.json and tta.md. Return how many failed.

    Of the test images (at most data.limit) those without a label or of a class that the model
    does not know are left out and counted; those that cannot be read, or for which the model
    returns NaN, go to failures.csv. A row "box" or "detector" leaves out images without such a
    box, and its difference to the baseline is over the same images. What tta.csv already holds
    is not done again; an image's results depend on its own key, not on its neighbours.

    Raises:
      ConfigError: `detector` without tta.boxes; no labelled test image of a known class.
      DataError: tta.boxes cannot be used.
    """
    config, run, records, explained = job.config, job.run, job.records, job.explained
    detections = read_detections(job)
    labelled = [r for r in records if r.label is not None]
    known = [r for r in labelled if explained.index[r.label] is not None]
    if not known:
        raise ConfigError(
            f"data.path={config.data.path}: no labelled test image of a class the classifier knows"
        )
    wanted = ["none", *(crop for crop in CROPS if crop in config.tta.crops)]
    rows = _read_rows(run)
    if detections:
        _refuse_other_boxes(config, run, rows)
    todo = [r for r in known if any((_name(r), crop) not in rows for crop in wanted)]
    failed: dict[str, str] = {}
    began, earlier = time.monotonic(), run.stage("tta").get("seconds", 0.0)
    if todo:
        others = f" of {len(known)}, the others are done" if len(todo) < len(known) else ""
        say(f"tta: {images_of(len(todo))}{others}; {', '.join(wanted[1:])}")
        _augment(job, known, todo, wanted, detections, rows, failed)
    run.set_failures("tta", failed)
    about = summary(
        [rows[_name(r), crop] for r in known for crop in wanted if (_name(r), crop) in rows],
        wanted,
        protocols(config),
    )
    about |= {
        "failed": len(failed),
        "unlabelled": len(records) - len(labelled),
        "of_unknown_classes": len(labelled) - len(known),
        "model": explained.model.name,
        "settings": settings(config),
    }
    write_atomic(run.path / "tta.json", json.dumps(about, indent=1) + "\n")
    write_atomic(run.path / "tta.md", to_markdown(about))
    run.finish(
        "tta",
        seconds=round(earlier + time.monotonic() - began, 1),
        images=about["images"],
        failed=len(failed),
    )
    print_table(about)
    return len(failed)


def read_detections(job: Job) -> dict[str, Float[np.ndarray, "4"]]:
    """Return the boxes of tta.boxes by image name; none where no crop asks for them.

    Raises:
      ConfigError: tta.crops has `detector`, and tta.boxes is missing.
      DataError: the file cannot be used.
    """
    tta = job.config.tta
    if "detector" not in tta.crops:
        return {}
    if tta.boxes is None:
        raise ConfigError(
            "tta.boxes is missing: the crop detector needs a CSV with the columns "
            "name,x0,y0,x1,y1[,score]"
        )
    try:
        return read_boxes(tta.boxes, {r.name for r in job.source.records if r.split == "test"})
    except DataError as error:
        raise DataError(f"tta.boxes: {error}") from None


def _refuse_other_boxes(config: Config, run: RunFolder, rows: Rows) -> None:
    digest = hashlib.sha256(Path(config.tta.boxes).read_bytes()).hexdigest()
    before = run.facts.get("boxes_fingerprint")
    if before not in (None, digest) and any(crop == "detector" for _, crop in rows):
        raise ConfigChanged(
            f"{run.path} holds results of other boxes: tta.boxes={config.tta.boxes} has changed "
            "since. Give another run_dir=…, or delete that folder"
        )
    run.facts["boxes_fingerprint"] = digest
    run.save_facts()


def _augment(
    job: Job,
    known: list[Record],
    todo: list[Record],
    wanted: list[str],
    detections: dict[str, Float[np.ndarray, "4"]],
    rows: Rows,
    failed: dict[str, str],
) -> None:
    """Fill `rows` and `failed`, and write tta.csv now and then."""
    last = time.monotonic()
    try:
        with progress("tta", len(todo)) as counter:
            model = explained_in(job.explained.model, job.config.explain.precision)
            for chunk in _chunks(job, todo, detections, failed):
                missing = [
                    crop
                    for crop in wanted
                    if any((_name(r), crop) not in rows for r in chunk.records)
                ]
                fresh = _look_again(job, model, chunk, missing, failed)
                rows.update({(row["name"], row["crop"]): row for row in fresh})
                counter.advance(len(chunk.records))
                if time.monotonic() - last > SAVE_SECONDS:
                    _write_rows(job.run, known, rows)
                    last = time.monotonic()
    finally:
        _write_rows(job.run, known, rows)


def _chunks(
    job: Job,
    records: list[Record],
    detections: dict[str, Float[np.ndarray, "4"]],
    failed: dict[str, str],
) -> Iterator[CropChunk]:
    """Yield the images of these records, so many at a time as one call of the model takes."""
    size = min(given_or_usual(job.config.explain.settings, 1), len(records))
    source, finer = job.source, finer_source(job.config)
    workers = job.config.data.workers
    loaded = load_examples(source, records, workers=workers)
    again = (
        load_examples(finer, records, workers=workers) if finer else ((0, None) for _ in records)
    )
    key = jax.random.fold_in(job.key, 7)
    parts: list[tuple[Record, Example, np.ndarray, dict]] = []

    def chunk() -> CropChunk:
        filled = fill_up(parts, size)
        names, examples, fine, given = zip(*filled)
        return CropChunk(
            records=[part[0] for part in parts],
            images=np.stack([e.image for e in examples]).astype(np.float32) / 255,
            fine=np.stack(fine).astype(np.float32) / 255,
            given={crop: np.stack([boxes[crop] for boxes in given]) for crop in MISSING},
            keys=jnp.stack([image_key(key, record.name) for record in names]),
        )

    for (place, example), (_, fine) in zip(loaded, again, strict=True):
        record = records[place]
        if wrong := next((e for e in (example, fine) if isinstance(e, DataError)), None):
            failed[record.name] = str(wrong)
            continue
        found = detections.get(record.name)
        boxes = {
            "box": example.box,
            "detector": None if found is None else fitted_box(source, example, found),
        }
        none = np.full(4, np.nan, np.float32)
        given = {crop: none if box is None else box for crop, box in boxes.items()}
        parts.append((record, example, (fine or example).image, given))
        if len(parts) == size:
            yield chunk()
            parts.clear()
    if parts:
        yield chunk()


def finer_source(config: Config) -> Source | None:
    """Return the same images with `DETAIL` times the pixels along each side; None: there are
    none."""
    if config.data.source == "species":
        return None
    data = replace(config.data, size=DETAIL * config.data.size)
    return make_source(replace(config, data=data))


def _look_again(
    job: Job, model: Any, chunk: CropChunk, crops: list[str], failed: dict[str, str]
) -> list[dict[str, str]]:
    """Return a row of tta.csv for each image of the chunk and each of these crops.

    Args:
      model: that is explained; what it predicts is asked of the classifier itself.
    """
    config, explained = job.config, job.explained
    images, count = jnp.asarray(chunk.images), len(chunk.records)
    began = time.monotonic()
    logits = explained.predict(chunk.images)
    whole, predicted = softmax(logits), logits.argmax(1).astype(np.int32)
    finite, table, heats = np.isfinite(logits).all(1), {}, {}
    if "none" in crops:
        table["none"] = (whole, None, None, time.monotonic() - began)
    for crop in crops:
        if crop == "none":
            continue
        began, method, earlier = time.monotonic(), crop.removesuffix("_cleaned"), 0.0
        if method in heats:  # two rows share a map, and both take its time
            earlier = heats[method][1]
        elif method in MAPS:
            heat = heat_map(method, config, model, images, predicted, chunk.keys)
            heats[method] = (jax.block_until_ready(heat), time.monotonic() - began)
        heat = heats[method][0] if method in MAPS else None
        boxes = crop_boxes(
            crop, config, images.shape, keys=chunk.keys, heat=heat, given=chunk.given.get(crop)
        )
        ratio = chunk.fine.shape[1] / images.shape[1]
        parts = crop_and_resize(jnp.asarray(chunk.fine), boxes * ratio, images.shape[1])
        logits = explained.predict(np.asarray(parts))
        finite &= np.isfinite(logits).all(1)
        alone = softmax(logits)
        seconds = earlier + time.monotonic() - began
        table[crop] = ((whole + alone) / 2, alone, np.asarray(boxes), seconds)
    rows = []
    for i, record in enumerate(chunk.records):
        if not finite[i]:
            failed[record.name] = "the model returned NaN or infinity for this image or its crop"
            continue
        for crop, (mean, alone, boxes, seconds) in table.items():
            about = (mean[i], None if alone is None else alone[i])
            row = {"name": _name(record), "crop": crop, "label": job.source.classes[record.label]}
            row["seconds"] = f"{seconds / count:.4g}"
            if crop in chunk.given and np.isnan(chunk.given[crop][i]).any():
                row["note"] = MISSING[crop]
            else:
                row |= _results(*about, None if boxes is None else boxes[i], record, explained)
            rows.append({column: row.get(column, "") for column in COLUMNS})
    return rows


def softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Return class probabilities, float64."""
    logits = logits.astype(np.float64)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _results(mean, alone, box, record, explained) -> dict[str, str]:
    target, predicted = explained.index[record.label], int(mean.argmax())
    row = {
        "predicted": explained.output_name(predicted),
        "probability": f"{mean[predicted]:.6g}",
        "label_probability": f"{mean[target]:.6g}",
        "correct": str(int(predicted == target)),
    }
    if alone is not None:
        by_crop = int(alone.argmax())
        row |= {
            "alone": explained.output_name(by_crop),
            "alone_correct": str(int(by_crop == target)),
            **{edge: f"{value:.2f}" for edge, value in zip(("x0", "y0", "x1", "y1"), box)},
        }
    return row


def _name(record: Record) -> str:
    """Return the record's name as it stands in a file."""
    return as_written(record.name)


def _read_rows(run: RunFolder) -> Rows:
    path = run.path / "tta.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = {(row["name"], row["crop"]): row for row in reader}
            if reader.fieldnames != COLUMNS:
                raise KeyError
    except FileNotFoundError:
        return {}
    except (KeyError, csv.Error, UnicodeDecodeError):
        raise ConfigError(
            f"{path}: is not what this version writes; delete it, or give another run_dir=…"
        ) from None
    return rows


def _write_rows(run: RunFolder, known: list[Record], rows: Rows) -> None:
    ordered = [
        rows[_name(r), crop] for r in known for crop in ("none", *CROPS) if (_name(r), crop) in rows
    ]
    if ordered:
        write_atomic(run.path / "tta.csv", to_csv(ordered, COLUMNS))
