"""Stage "test": how often the classifier is right, over all test images."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from fgjax.core.batching import filled_places
from fgjax.core.files import write_atomic
from fgjax.core.progress import progress, say
from fgjax.core.scores import predicted
from fgjax.core.tables import finite, read_csv, to_csv
from fgjax.data.patch_table import PatchTable, fitted_patches
from fgjax.data.pipeline import load_examples
from fgjax.data.types import DataError, Example, Record
from fgjax.devices.forward import compiled
from fgjax.devices.jit import program
from fgjax.devices.mesh import make_mesh, replicate, shard
from fgjax.evaluation import summarise
from fgjax.options.schema import ConfigError
from fgjax.stages.classes import Looked, write_classes
from fgjax.stages.focus.patches import known_patches, looks_at_patches
from fgjax.stages.job import Job
from fgjax.stages.stage import Stage

PROTOCOLS = {
    "accuracy": "share of test images whose highest output is the label's, one centre crop each; "
    "NaN is wrong",
    "top_5": "share of test images whose label is among the five highest outputs; NaN is wrong",
    "class_accuracy": "accuracy of each class, averaged over the classes",
    "loss": "mean cross-entropy of the test images whose outputs are no NaN, in nats",
}
COLUMNS = ["name", "label", "predicted", "probability", "label_probability", "calibrated",
           "correct"]  # fmt: skip
BATCH = {"cpu": 32}
"""Images per forward pass and device, by backend."""


class Test(Stage):
    """Judge the classifier by all labelled test images."""

    name = "test"

    def run(self, job: Job) -> int:
        """Write run/test.json and run/predictions.csv, where they are not there; say the line."""
        run, line = job.run, _line_of_before(job.run.path)
        if run.stage("test") and line:
            say(line)
            return run.stage("test").get("failed", 0)
        return test_classifier(job)


def _line_of_before(run: Path) -> str:
    """Return the line of a test that is done; "" where its files are not there or not whole."""
    try:
        about = json.loads((run / "test.json").read_text(encoding="utf-8"))
        rows = read_csv(run / "predictions.csv")
        whole = len(rows) == about["images"] and all(row["predicted"] for row in rows)
        return _line(about) if whole else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def test_classifier(job: Job) -> int:
    """Write run/test.json, predictions.csv (a row per image), classes.csv (a row per class) and
    test.html. Return how many failed.

    Images of classes that the classifier does not know are counted apart. An image that cannot
    be read goes to failures.csv.

    Raises:
      ConfigError: there is no labelled test image of a class the classifier knows.
    """
    began, run, source, explained = time.monotonic(), job.run, job.source, job.explained
    labelled = [r for r in source.records if r.split == "test" and r.label is not None]
    known = [r for r in labelled if explained.index[r.label] is not None]
    if not known:
        raise ConfigError(
            f"data.path={job.config.data.path}: no labelled test image of a class the classifier "
            "knows"
        )
    failed: dict[str, str] = {}
    patches = known_patches(job)
    rows, logits, targets, labels, parts = [], [], [], [], []
    tested: list[Record] = []
    for examples, outputs, more in _forward(job, known, patches, failed):
        parts.append(more)
        for (record, _), output in zip(examples, outputs, strict=True):
            target = explained.index[record.label]
            logits.append(output)
            targets.append(target)
            labels.append(record.label)
            rows.append(_row(record, output, target, explained, source))
            tested.append(record)
    run.set_failures("test", failed)
    write_atomic(run.path / "predictions.csv", to_csv(rows, COLUMNS))
    about: dict[str, Any] = {
        "images": len(rows),
        "failed": len(failed),
        "nan": int(np.isnan(np.array(logits)).any(1).sum()) if rows else 0,
        "of_unknown_classes": len(labelled) - len(known),
        "metrics": judge(np.array(logits), np.array(targets), np.array(labels)) if rows else {},
    }
    for name in parts[0] if rows else ():
        said = np.concatenate([part[name] for part in parts])
        right = (said == np.array(targets)).astype(np.float64)
        about["metrics"][f"accuracy_{name}"] = _figure(right, part_protocol(name))
    if rows:
        looked = Looked(tuple(tested), np.array(logits), np.array(targets))
        about |= write_classes(job, looked, about["metrics"])
    write_atomic(run.path / "test.json", json.dumps(about, indent=1) + "\n")
    run.finish("test", seconds=round(time.monotonic() - began, 1), failed=len(failed))
    say(_line(about))
    if rows:
        say(f"test: {run.path / 'test.html'}")
    return len(failed)


def part_protocol(name: str) -> str:
    """Of a two-stream network: how the accuracy of one of its parts is measured."""
    says = {"global": "the global stream's", "local": "the local stream's"}
    step = name.removeprefix("step_")
    highest = says.get(name, f"the local classifier's of LSTM step {step} alone")
    return f"share of test images whose highest output, {highest}, is the label's"


def judge(logits: np.ndarray, targets: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the figures of `PROTOCOLS`, each with its protocol and a 95 % bootstrap interval.

    Args:
      logits: `n k`; a row with a NaN is wrong.
      targets: the right output of each image, `n`.
      labels: its class, `n`.
    """
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    own = np.take_along_axis(logits, targets[:, None], axis=1)
    right = np.asarray(predicted(logits) == targets, np.float64)
    # No comparison with a NaN holds: "fewer than five are higher" would be true of it.
    among_five = ((logits > own).sum(1) < 5) & ~np.isnan(logits).any(1)
    values = {
        "accuracy": right,
        "top_5": among_five.astype(np.float64),
        "class_accuracy": np.array([right[labels == c].mean() for c in np.unique(labels)]),
        "loss": -np.take_along_axis(log_p, targets[:, None], axis=1)[:, 0],
    }
    return {name: _figure(value, PROTOCOLS[name]) for name, value in values.items()}


def _figure(values: np.ndarray, protocol: str) -> dict[str, Any]:
    about = summarise(values)
    return {
        "protocol": protocol,
        "mean": finite(about.mean),
        "interval_95": [finite(about.low), finite(about.high)],
    }


@program("explain")
def _look(model, images):
    """Return the joint logits, and the class that each stream, and each step, says by itself."""
    streams = model.streams(images)
    parts = {"global": streams.global_logits, "local": streams.local_logits}
    for t in range(streams.step_logits.shape[1] if model.looks_again else 0):
        parts[f"step_{t + 1}"] = streams.step_logits[:, t]
    logits = model.network.joint(streams)
    return logits, {name: predicted(part) for name, part in parts.items()}


def _forward(
    job: Job, records: list[Record], patches: PatchTable | None, failed: dict[str, str]
) -> Iterator[tuple[list, np.ndarray, dict[str, np.ndarray]]]:
    """Yield batches of (record, example) with their logits, and what the parts of a two-stream
    network predict; the last batch is filled up."""
    config, explained = job.config, job.explained
    mesh = make_mesh(config.parallel)
    devices = mesh.devices.size
    size = BATCH.get(jax.default_backend(), 128) * devices
    model = replicate(mesh, explained.model) if devices > 1 else explained.model
    chunk: list[tuple[Any, Example]] = []

    def place(array):
        return shard(mesh, array) if devices > 1 else array

    def run():
        index = filled_places(len(chunk), size)
        filled = np.stack([chunk[i][1].image for i in index])
        images = place(jnp.asarray(filled.astype(np.float32) / 255))
        if looks_at_patches(model):
            found = None
            if patches is not None:
                found = place(jnp.asarray(np.stack([boxes[i] for i in index])))
            outputs, parts = _look(model.replace(boxes=found), images)
        else:
            outputs, parts = compiled(model)(images), {}
        count = len(chunk)
        parts = {name: np.asarray(part)[:count] for name, part in parts.items()}
        return list(chunk), np.asarray(outputs)[:count], parts

    boxes: list[np.ndarray] = []

    say(f"test: {len(records)} images")
    loaded = load_examples(job.source, records, workers=config.data.workers, ahead=2 * size)
    with progress("test", len(records)) as counter:
        for number, example in loaded:
            name = records[number].name
            try:
                if isinstance(example, DataError):
                    raise example
                if patches is not None:
                    count = config.focus.patches
                    boxes.append(fitted_patches(job.source, example, patches, name, count))
                chunk.append((records[number], example))
            except DataError as error:
                failed[name] = str(error)
            if len(chunk) == size:
                yield run()
                chunk.clear()
                boxes.clear()
            counter.advance()
        if chunk:
            yield run()


def _row(record, output, target, explained, source) -> dict[str, Any]:
    p, calibrated = softmax(output), softmax(output / explained.model.temperature)
    found = int(predicted(output))
    return {
        "name": record.name,
        "label": source.classes[record.label],
        "predicted": explained.output_name(found),
        "probability": f"{p[found]:.6g}",
        "label_probability": f"{p[target]:.6g}",
        "calibrated": f"{calibrated[found]:.6g}",
        "correct": int(found == target),
    }


def _line(about: dict[str, Any]) -> str:
    if not about["metrics"]:
        return "test: no image could be read"
    value = about["metrics"]["accuracy"]
    low, high = value["interval_95"]
    unknown, broken = about["of_unknown_classes"], about.get("nan", 0)
    return (
        f"test: right on {value['mean']:.1%} of {about['images']} images "
        f"(95 % interval {low:.1%} to {high:.1%})"
        + (f"; {unknown} of classes it does not know are left out" if unknown else "")
        + (f"; of {broken} it returned NaN, which counts as wrong" if broken else "")
    )
