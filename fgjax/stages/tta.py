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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.table
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.fido import FidoConfig, fido
from fgjax.attribution.glas import GlasConfig, glas
from fgjax.attribution.gradients import GradientConfig, gradient
from fgjax.data.boxes import fitted_box, read_boxes
from fgjax.data.pipeline import load_examples
from fgjax.data.types import DataError, Example, Record, Source
from fgjax.evaluation import difference_interval, summarise
from fgjax.evaluation.crops import (
    GRADIENT_SIGMA,
    SPECK,
    center_boxes,
    crop_and_resize,
    gradient_boxes,
    map_boxes,
    random_boxes,
    square_boxes,
)
from fgjax.files import write_atomic
from fgjax.options import CROPS, Config, ConfigError
from fgjax.progress import console, progress, say
from fgjax.run_folder import ConfigChanged, RunFolder, to_csv
from fgjax.stages.explain import chunk_size, image_key
from fgjax.stages.setup import Explained, base_key, explained_records, make_source

DETAIL = 2
"""Crops are cut from images with so many times the pixels along each side."""
SAVE_SECONDS = 10.0
"""Results are written at least this often, and when the run is interrupted."""
COLUMNS = ["name", "crop", "label", "predicted", "probability", "label_probability", "correct",
           "alone", "alone_correct", "x0", "y0", "x1", "y1", "seconds", "note"]  # fmt: skip
TITLES = {
    "none": "baseline (BL)",
    "box_only": "ground-truth box alone",
    "box": "BL + ground-truth box",
    "random": "BL + random crop",
    "center": "BL + center crop",
    "gradient": "BL + gradient",
    "detector": "BL + detector",
    "fido_original": "BL + FIDO, original",
    "fido_simplified": "BL + FIDO, simplified",
    "fido_original_cleaned": "– original, no specks",
    "fido_simplified_cleaned": "– simplified, no specks",
    "glas": "BL + GLAS",
}
"""The rows of the table, in its order."""
MAPS = ("gradient", "fido_original", "fido_simplified", "glas")
"""The crops that come from a map."""
MISSING = {"box": "no annotated box in what the model sees",
           "detector": "no detected box in what the model sees"}  # fmt: skip
PROTOCOL = (
    "share of test images whose label has the highest probability; of a row BL + …, the "
    "probability is the mean of the image's softmax probability and the crop's. Intervals: 95 %, "
    "bootstrap over images; of a difference, paired. A crop is a square part of what the model "
    f"sees, cut from the file at {DETAIL} times the model's resolution. Maps explain the "
    "predicted class"
)


class Chunk(NamedTuple):
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


def tta_stage(config: Config, source: Source, explained: Explained, run: RunFolder) -> int:
    """Writes run/tta.csv (a row per image and crop), tta.json and tta.md. Returns how many failed.

    Of the test images (at most data.limit) those without a label or of a class that the model
    does not know are left out and counted; those that cannot be read, or for which the model
    returns NaN, go to failures.csv. A row "box" or "detector" leaves out images without such a
    box, and its difference to the baseline is over the same images. What tta.csv already holds
    is not done again; an image's results depend on its own key, not on its neighbours.

    Raises:
      ConfigError: `detector` without tta.boxes; no labelled test image of a known class.
      DataError: tta.boxes cannot be used.
    """
    records = explained_records(source, config)
    detections = read_detections(config, source)
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
        say(f"tta: {_images(len(todo))}{others}; {', '.join(wanted[1:])}")
        _augment(config, source, explained, run, known, todo, wanted, detections, rows, failed)
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
        "settings": _settings(config),
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


def read_detections(config: Config, source: Source) -> dict[str, Float[np.ndarray, "4"]]:
    """The boxes of tta.boxes by image name; none where no crop asks for them.

    Raises:
      ConfigError: tta.crops has `detector`, and tta.boxes is missing.
      DataError: the file cannot be used.
    """
    if "detector" not in config.tta.crops:
        return {}
    if config.tta.boxes is None:
        raise ConfigError(
            "tta.boxes is missing: the crop detector needs a CSV with the columns "
            "name,x0,y0,x1,y1[,score]"
        )
    try:
        return read_boxes(config.tta.boxes, {r.name for r in source.records if r.split == "test"})
    except DataError as error:
        raise DataError(f"tta.boxes: {error}") from None


def _refuse_other_boxes(config: Config, run: RunFolder, rows: dict) -> None:
    digest = hashlib.sha256(Path(config.tta.boxes).read_bytes()).hexdigest()
    before = run.facts.get("boxes_fingerprint")
    if before not in (None, digest) and any(crop == "detector" for _, crop in rows):
        raise ConfigChanged(
            f"{run.path} holds results of other boxes: tta.boxes={config.tta.boxes} has changed "
            "since. Give another run_dir=…, or delete that folder"
        )
    run.facts["boxes_fingerprint"] = digest
    run.save_facts()


def _augment(config, source, explained, run, known, todo, wanted, detections, rows, failed) -> None:
    """Fills `rows` and `failed`, and writes tta.csv now and then."""
    last = time.monotonic()
    try:
        with progress("tta", len(todo)) as counter:
            for chunk in _chunks(config, source, todo, detections, failed):
                missing = [
                    crop
                    for crop in wanted
                    if any((_name(r), crop) not in rows for r in chunk.records)
                ]
                fresh = _look_again(config, source, explained, chunk, missing, failed)
                rows.update({(row["name"], row["crop"]): row for row in fresh})
                counter.advance(len(chunk.records))
                if time.monotonic() - last > SAVE_SECONDS:
                    _write_rows(run, known, rows)
                    last = time.monotonic()
    finally:
        _write_rows(run, known, rows)


def _chunks(config, source, records, detections, failed) -> Iterator[Chunk]:
    """The images of these records, so many at a time as one call of the model takes."""
    size = min(chunk_size(config, 1), len(records))
    finer = finer_source(config, source)
    workers = config.data.workers
    loaded = load_examples(source, records, workers=workers)
    again = (
        load_examples(finer, records, workers=workers) if finer else ((0, None) for _ in records)
    )
    key = jax.random.fold_in(base_key(config), 7)
    parts: list[tuple[Record, Example, np.ndarray, dict]] = []

    def chunk() -> Chunk:
        filled = [parts[min(i, len(parts) - 1)] for i in range(size)]
        names, examples, fine, given = zip(*filled)
        return Chunk(
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


def finer_source(config: Config, source: Source) -> Source | None:
    """The same images with `DETAIL` times the pixels along each side; None: there are none."""
    if config.data.source == "species":
        return None
    data = replace(config.data, size=DETAIL * config.data.size)
    return make_source(replace(config, data=data))


def _look_again(config, source, explained, chunk: Chunk, crops, failed) -> list[dict[str, str]]:
    """A row of tta.csv for each image of the chunk and each of these crops."""
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
            heat = heat_map(method, config, explained.model, images, predicted, chunk.keys)
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
            row = {"name": _name(record), "crop": crop, "label": source.classes[record.label]}
            row["seconds"] = f"{seconds / count:.4g}"
            if crop in chunk.given and np.isnan(chunk.given[crop][i]).any():
                row["note"] = MISSING[crop]
            else:
                row |= _results(*about, None if boxes is None else boxes[i], record, explained)
            rows.append({column: row.get(column, "") for column in COLUMNS})
    return rows


def heat_map(
    method: str,
    config: Config,
    model: Any,
    images: Float[Array, "n h w 3"],
    predicted: Int[np.ndarray, "n"],
    keys: Key[Array, "n"],
) -> Float[Array, "n h w"]:
    """The map of one of `MAPS`, explaining the output with the highest logit of each image."""
    if method == "gradient":
        return gradient(model, images, predicted, config=GradientConfig()).heatmap
    if method == "glas":
        return glas(model, images, predicted, config=GlasConfig()).heatmap
    settings = replace(fido_settings(config, method), images_per_step=len(images))
    return fido(model, images, predicted, key=keys, config=settings).heatmap


def crop_boxes(
    crop: str,
    config: Config,
    shape: tuple[int, ...],
    *,
    keys: Key[Array, "n"],
    heat: Float[Array, "n h w"] | None = None,
    given: Float[np.ndarray, "n 4"] | None = None,
) -> Float[Array, "n 4"]:
    """Where the crop of this name lies in each image: x0, y0, x1, y1 in its pixels.

    Args:
      crop: a name of `CROPS`.
      config: the run's, for its tta.*.
      shape: of the images, n h w c.
      keys: each image's own.
      heat: the map, for a crop that comes from one.
      given: the boxes, for `box` and `detector`; one with a NaN in it: the whole image.
    """
    tta, (n, height, width) = config.tta, shape[:3]
    if given is not None:
        return square_boxes(jnp.asarray(given), height, width)
    if crop == "random":
        return random_boxes(keys, height, width, share=tta.share)
    if crop == "center":
        return center_boxes(n, height, width, share=tta.share)
    if crop == "gradient":
        return gradient_boxes(heat, padding=tta.padding)
    speck = SPECK if crop.endswith("_cleaned") else 0
    return map_boxes(heat, threshold=tta.threshold, padding=tta.padding, speck=speck)


def fido_settings(config: Config, crop: str) -> FidoConfig:
    """explain.* where its method is fido, else FIDO's defaults; with the crop's sampler."""
    settings = config.explain.settings if config.explain.method == "fido" else FidoConfig()
    return replace(settings, sampler=crop.split("_")[1])


def softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Class probabilities, float64."""
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
    """The record's name as it stands in a file: what is no UTF-8 is escaped."""
    return record.name.encode("utf-8", "backslashreplace").decode("utf-8")


def _read_rows(run: RunFolder) -> dict[tuple[str, str], dict[str, str]]:
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


def _write_rows(run: RunFolder, known: list[Record], rows: dict) -> None:
    ordered = [
        rows[_name(r), crop] for r in known for crop in ("none", *CROPS) if (_name(r), crop) in rows
    ]
    if ordered:
        write_atomic(run.path / "tta.csv", to_csv(ordered, COLUMNS))


def summary(
    rows: list[dict[str, str]], wanted: list[str], sentences: dict[str, str]
) -> dict[str, Any]:
    """The table from the rows of tta.csv: per row accuracy, difference to the baseline, time.

    Args:
      rows: of the crops `wanted`, in any order.
      wanted: names of crops, "none" the first.
      sentences: what each row of the table is.
    """
    by_crop = {crop: {r["name"]: r for r in rows if r["crop"] == crop} for crop in wanted}
    baseline = by_crop["none"]
    names = list(baseline)

    def right(crop: str, column: str = "correct") -> Float[np.ndarray, "n"]:
        values = [by_crop[crop].get(name, {}).get(column, "") for name in names]
        return np.array([float(value) if value else np.nan for value in values])

    table = {}
    shown = ["none", *(["box_only"] if "box" in wanted else []), *wanted[1:]]
    for row in shown:
        crop = "box" if row == "box_only" else row
        values = right(crop, "alone_correct" if row == "box_only" else "correct")
        about, own = summarise(values), list(by_crop[crop].values())
        table[row] = {
            "title": TITLES[row],
            "protocol": sentences[row],
            "accuracy": _finite(about.mean),
            "interval_95": [_finite(about.low), _finite(about.high)],
            "images": about.n_defined,
            "left_out": about.n - about.n_defined,
        }
        if row != "none":
            gap = difference_interval(values, right("none"))
            sides = [float(r["x1"]) - float(r["x0"]) for r in own if r["x1"]]
            table[row] |= {
                "minus_baseline": _finite(gap.mean),
                "minus_baseline_95": [_finite(gap.low), _finite(gap.high)],
                "crop_alone": _finite(summarise(right(crop, "alone_correct")).mean),
                "crop_side": float(np.mean(sides)) if sides else None,
            }
        seconds = [float(r["seconds"]) for r in own]
        table[row]["seconds"] = round(sum(seconds), 2)
        table[row]["seconds_per_image"] = float(np.median(seconds)) if seconds else None
    return {"images": len(names), "protocol": PROTOCOL, "rows": table}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def protocols(config: Config) -> dict[str, str]:
    """What each row of the table is, in a sentence."""
    tta = config.tta
    padded = f"padded by {tta.padding:.0%} of its side"
    marked = f"the square around the values above {tta.threshold:g} of"
    sentences = {
        "none": "the image alone",
        "box_only": "the crop around the annotated box alone",
        "box": "the square around the annotated box",
        "random": f"{tta.share:.0%} of width and height at a random place",
        "center": f"{tta.share:.0%} of width and height in the middle",
        "gradient": "the square around the largest blob above the mean of the largest |gradient| "
        f"over the channels, blurred (σ {GRADIENT_SIGMA:g} px of 224), {padded}",
        "detector": f"the square around the detector's box of the highest score ({tta.boxes})",
        "glas": f"{marked} GLAS' map (grid={GlasConfig.grid}), {padded}",
    }
    for crop in (crop for crop in CROPS if crop.startswith("fido_")):
        own = fido_settings(config, crop)
        told = ", ".join(
            f"{name}={getattr(own, name)}"
            for name in ("sampler", "steps", "batch_size", "temperature", "l1", "infill")
        )
        specks = f", blobs of fewer than {SPECK} px (of 224²) left out"
        specks = specks if crop.endswith("_cleaned") else ""
        sentences[crop] = f"{marked} FIDO's joint mask ({told}){specks}, {padded}"
    return sentences


def _settings(config: Config) -> dict[str, Any]:
    used = {"tta": asdict(config.tta)}
    for crop in (crop for crop in CROPS if crop.startswith("fido_")):
        if crop in config.tta.crops:
            used[crop] = asdict(replace(fido_settings(config, crop), images_per_step=None))
    if "glas" in config.tta.crops:
        used["glas"] = asdict(GlasConfig())
    return used


def _cells(row: dict[str, Any]) -> list[str]:
    def percent(value: float | None, sign: str = "") -> str:
        return "–" if value is None else f"{100 * value:{sign}.1f}"

    def both(mean: float | None, interval: list, sign: str = "") -> str:
        if interval[0] is None:
            return percent(mean, sign)
        low, high = (percent(value, sign) for value in interval)
        return f"{percent(mean, sign)} ({low}..{high})"

    gap = ""
    if "minus_baseline" in row:
        gap = both(row["minus_baseline"], row["minus_baseline_95"], "+")
    alone = percent(row["crop_alone"]) if "crop_alone" in row else ""
    seconds = row["seconds_per_image"]
    return [
        row["title"],
        both(row["accuracy"], row["interval_95"]),
        gap,
        alone,
        "" if row.get("crop_side") is None else f"{row['crop_side']:.0f}",
        "–" if seconds is None else f"{seconds:.2g}",
        str(row["images"]),
    ]


HEADS = ["", "accuracy in %", "minus BL", "crop alone", "side in px", "s per image", "images"]


def to_markdown(about: dict[str, Any]) -> str:
    """The table with what its rows are."""
    rows = [_cells(row) for row in about["rows"].values()]
    lines = [
        f"# Test-time augmentation: {about['model'] or 'a classifier'}, {about['images']} images",
        "",
        f"Accuracy: {about['protocol']}. Side: mean of the crop's, before it is resized.",
        "",
        *(f"{line}\n" for line in _left_out(about)),
        "| " + " | ".join(HEADS) + " |",
        "|---|" + "---:|" * (len(HEADS) - 1),
        *("| " + " | ".join(cells) + " |" for cells in rows),
        "",
        *(f"- {row['title']}: {row['protocol']}." for row in about["rows"].values()),
    ]
    return "\n".join(lines) + "\n"


def print_table(about: dict[str, Any]) -> None:
    """The table on the console, without its last columns, and who is left out of it."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, head in enumerate(("", "accuracy in %", "minus BL", "s/image", "n")):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    for row in about["rows"].values():
        title, accuracy, gap, _, _, seconds, images = _cells(row)
        table.add_row(title, accuracy, gap, seconds, images)
    console.print(table, soft_wrap=False)
    for line in _left_out(about):
        say(f"tta: {line}")


def _left_out(about: dict[str, Any]) -> list[str]:
    lines = []
    for count, why in (
        (about["of_unknown_classes"], "of classes the model does not know"),
        (about["unlabelled"], "without a label"),
        (about["failed"], "that failed"),
    ):
        if count:
            lines.append(f"{_images(count)} {why}: left out.")
    for crop, why in MISSING.items():
        row = about["rows"].get(crop)
        if row and row["left_out"]:
            lines.append(f"{_images(row['left_out'])} with {why}: left out of {row['title']}.")
    return lines


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
