"""Stage "parts": what a region grouping network found, judged and shown.

    run/parts.json   the figures, each with its protocol
    run/parts.csv    a row per test image: prediction, attention and place of every part
    run/parts.html   assignment maps, attention bars, parts × classes

The parts' centres are regressed to landmarks on the training images of the source and judged
on its test images, where it has landmarks; boxes are pointed at, where it has boxes.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fgjax.core.batching import filled_places
from fgjax.core.files import write_atomic
from fgjax.core.progress import progress, say
from fgjax.core.scores import predicted
from fgjax.core.tables import to_csv
from fgjax.data.pipeline import load_examples, take
from fgjax.data.sets.celeba import ALL_ATTRIBUTES
from fgjax.data.types import DataError, Example, Record, Source
from fgjax.models.composed.factorisation import factorise
from fgjax.models.composed.region_grouping import RegionGrouping
from fgjax.options.schema import Config, ConfigError
from fgjax.report.parts import write_parts_page
from fgjax.stages.classifier import Explained
from fgjax.stages.images import make_source
from fgjax.stages.job import Job
from fgjax.stages.parts.figures import PartLook, figures
from fgjax.stages.parts.look import features_of, look
from fgjax.stages.parts.page import part_pages
from fgjax.stages.stage import Stage

BATCH = {"cpu": 8}
"""Images per forward pass, by backend; in whole images, of one shape."""


class Parts(Stage):
    """Judge and show the parts of a region grouping network."""

    name = "parts"

    def run(self, job: Job) -> int:
        """Do it, where it is not done in the same way."""
        config, run = job.config, job.run
        done = run.stage("parts")
        if (run.path / "parts.html").is_file() and done | _about(config) == done:
            try:
                say(_line(json.loads((run.path / "parts.json").read_text(encoding="utf-8"))))
                return done.get("failed", 0)
            except (OSError, ValueError, KeyError, TypeError):
                pass  # damaged: it is made again
        return judge_parts(job)


def _about(config: Config) -> dict[str, Any]:
    parts = config.parts
    names = ("view", "landmarks", "gallery", "fitted_on", "factors")
    return {name: getattr(parts, name) for name in names}


def judge_parts(job: Job) -> int:
    """Write parts.json, parts.csv and parts.html. Return how many images could not be read.

    Raises:
      ConfigError: the classifier has no parts, or there is no test image that can be read.
    """
    config, run, explained = job.config, job.run, job.explained
    if not isinstance(explained.model.network, RegionGrouping):
        raise ConfigError(
            f"stage parts: {explained.model.name} groups no pixels into parts; "
            "train with model.name=region_grouping"
        )
    began = time.monotonic()
    source = make_source(config, whole=True) if config.parts.view == "whole" else job.source
    failed: dict[str, str] = {}
    factors = find_factors(job) if config.parts.factors else None
    looks: dict[str, list[PartLook]] = {"train": [], "test": []}
    for split in looks:
        records = [r for r in source.records if r.split == split]
        if split == "train" and not source.landmark_names:
            continue
        if split == "train" and config.parts.fitted_on == "validation":
            records = [r for r in records if r.validation]
            if not records:
                raise ConfigError(
                    f"parts.fitted_on=validation: data.source={config.data.source} sets no images "
                    "aside; parts.fitted_on=train"
                )
        looks[split] = list(_look_at(config, source, records, explained, failed, split, factors))
    run.set_failures("parts", failed)
    if not looks["test"]:
        raise ConfigError(f"data.path={config.data.path}: no test image could be read")
    found = figures(config, source, explained, looks["train"], looks["test"])
    rows = [_row(own, source, explained) for own in looks["test"]]
    write_atomic(run.path / "parts.csv", to_csv(rows, list(rows[0])))
    write_atomic(run.path / "parts.json", json.dumps(found, indent=1) + "\n")
    page = part_pages(config, source, explained, looks["test"], found)
    write_parts_page(run.path / "parts.html", page)
    run.finish(
        "parts", seconds=round(time.monotonic() - began, 1), failed=len(failed), **_about(config)
    )
    say(_line(found))
    say(f"parts: {run.path / 'parts.html'}")
    return len(failed)


def find_factors(job: Job) -> Float[Array, "k d"]:
    """Return as many non-negative factors of the network's features as it has parts: those of the
    middle squares of `parts.factors` training images (test images, where none trains), spread over
    the classes. Images that cannot be read are left out.

    Raises:
      ConfigError: none can be read.
    """
    config, source, model = job.config, job.source, job.explained.model
    records = [r for r in source.records if r.split == "train"] or list(source.records)
    records = take(records, config.parts.factors)
    say(f"parts: the features of {len(records)} images are factorised (DFF)")
    loaded = load_examples(source, records, workers=config.data.workers)
    images = [example.image for _, example in loaded if isinstance(example, Example)]
    if not images:
        raise ConfigError(f"parts.factors={config.parts.factors}: no training image could be read")
    size = BATCH.get(jax.default_backend(), 64)
    cells = []
    for i in range(0, len(images), size):
        part = images[i : i + size]
        filled = np.stack([part[j] for j in filled_places(len(part), size)])
        found = features_of(model, jnp.asarray(filled.astype(np.float32) / 255))
        cells.append(np.asarray(found, np.float32)[: len(part)].reshape(-1, found.shape[-1]))
    v, key = jnp.asarray(np.concatenate(cells)), jax.random.key(config.seed)
    return factorise(v, model.network.num_parts, key=key)[1]


def _look_at(
    config: Config,
    source: Source,
    records: list[Record],
    explained: Explained,
    failed: dict[str, str],
    split: str,
    factors: Float[Array, "k d"] | None,
) -> Iterator[PartLook]:
    """Yield the network's view of every image that can be read, in batches of one shape each."""
    size = BATCH.get(jax.default_backend(), 64)
    attributes = config.data.attribute == ALL_ATTRIBUTES
    waiting: dict[tuple[int, ...], list[tuple[Record, Example]]] = {}

    def flush(part: list[tuple[Record, Example]]) -> Iterator[PartLook]:
        labels = source.attributes_of([r for r, _ in part]) if attributes else None
        parts = config.parts
        yield from look(
            explained.model, part, size, labels,
            factors=factors, radius=parts.radius, std=parts.std,
        )  # fmt: skip

    say(f"parts: {len(records)} {split} images, {config.parts.view}")
    loaded = load_examples(source, records, workers=config.data.workers, ahead=2 * size)
    with progress("parts", len(records)) as counter:
        for place, example in loaded:
            counter.advance()
            if isinstance(example, DataError):
                failed[records[place].name] = str(example)
                continue
            part = waiting.setdefault(example.image.shape, [])
            part.append((records[place], example))
            if len(part) == size:
                yield from flush(part)
                part.clear()
        for part in waiting.values():
            if part:
                yield from flush(part)


def _row(own: PartLook, source: Source, explained: Explained) -> dict[str, Any]:
    row = {
        "name": own.name,
        "label": "" if own.label is None else source.classes[own.label],
        "predicted": explained.output_name(int(predicted(own.logits))),
        "points_in_box": "" if np.isnan(own.points_in_box) else int(own.points_in_box),
    }
    attention = own.attention if own.attention.ndim == 1 else own.attention.mean(0)
    for k, (a, t, place) in enumerate(
        zip(attention, own.occurrence, own.places, strict=True), start=1
    ):
        row |= {
            f"attention_{k}": f"{a:.4f}",
            f"occurrence_{k}": f"{t:.4f}",
            f"x_{k}": f"{place[0]:.2f}",
            f"y_{k}": f"{place[1]:.2f}",
        }
    return row


def _line(found: dict[str, Any]) -> str:
    words = [f"parts: {found['images']} test images"]
    if found["accuracy"]:
        low, high = (f"{v:.1%}" for v in found["accuracy"]["interval_95"])
        words.append(f"accuracy {found['accuracy']['mean']:.1%} ({low} to {high})")
    if found["landmark_error"]:
        error = found["landmark_error"]
        words.append(f"landmark error {error['mean']:.2f} (without parts {error['without']:.2f})")
    if found["pointing_error"]:
        words.append(f"points beside the box {found['pointing_error']['mean']:.1%}")
    return ", ".join(words)
