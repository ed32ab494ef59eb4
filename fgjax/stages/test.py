"""Stage "test": how often the classifier is right, over all test images."""

import json
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fgjax.data.pipeline import load_examples
from fgjax.data.types import DataError, Example, Source
from fgjax.evaluation import summarise
from fgjax.files import write_atomic
from fgjax.functional import compiled
from fgjax.options import Config, ConfigError
from fgjax.parallel import make_mesh, replicate, shard
from fgjax.progress import progress, say
from fgjax.run_folder import RunFolder, to_csv
from fgjax.stages.setup import Explained

PROTOCOLS = {
    "accuracy": "share of test images whose highest output is the label's, one centre crop each",
    "top_5": "share of test images whose label is among the five highest outputs",
    "class_accuracy": "accuracy of each class, averaged over the classes",
    "loss": "mean cross-entropy of the test images, in nats",
}
COLUMNS = ["name", "label", "predicted", "probability", "label_probability", "correct"]
BATCH = {"cpu": 32}
"""Images per forward pass and device, by backend."""


def test_stage(config: Config, source: Source, explained: Explained, run: RunFolder) -> int:
    """Writes run/test.json and run/predictions.csv (a row per image). Returns how many failed.

    Images of classes that the classifier does not know are counted apart. An image that cannot
    be read goes to failures.csv.

    Raises:
      ConfigError: there is no labelled test image of a class the classifier knows.
    """
    if run.stage("test") and (run.path / "test.json").is_file():
        about = json.loads((run.path / "test.json").read_text(encoding="utf-8"))
        say(_line(about))
        return run.stage("test")["failed"]
    began = time.monotonic()
    labelled = [r for r in source.records if r.split == "test" and r.label is not None]
    known = [r for r in labelled if explained.index[r.label] is not None]
    if not known:
        raise ConfigError(
            f"data.path={config.data.path}: no labelled test image of a class the classifier knows"
        )
    failed: dict[str, str] = {}
    rows, logits, targets, labels = [], [], [], []
    for examples, outputs in _forward(config, source, known, explained, failed):
        for (record, _), output in zip(examples, outputs, strict=True):
            target = explained.index[record.label]
            logits.append(output)
            targets.append(target)
            labels.append(record.label)
            rows.append(_row(record, output, target, explained, source))
    run.set_failures("test", failed)
    write_atomic(run.path / "predictions.csv", to_csv(rows, COLUMNS))
    about: dict[str, Any] = {
        "images": len(rows),
        "failed": len(failed),
        "of_unknown_classes": len(labelled) - len(known),
        "metrics": judge(np.array(logits), np.array(targets), np.array(labels)) if rows else {},
    }
    write_atomic(run.path / "test.json", json.dumps(about, indent=1) + "\n")
    run.finish("test", seconds=round(time.monotonic() - began, 1), failed=len(failed))
    say(_line(about))
    return len(failed)


def judge(logits: np.ndarray, targets: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The figures of `PROTOCOLS`, each with its protocol and a 95 % bootstrap interval.

    Args:
      logits: `n k`.
      targets: the right output of each image, `n`.
      labels: its class, `n`.
    """
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    own = np.take_along_axis(logits, targets[:, None], axis=1)
    right = (logits.argmax(1) == targets).astype(np.float64)
    values = {
        "accuracy": right,
        "top_5": ((logits > own).sum(1) < 5).astype(np.float64),
        "class_accuracy": np.array([right[labels == c].mean() for c in np.unique(labels)]),
        "loss": -np.take_along_axis(log_p, targets[:, None], axis=1)[:, 0],
    }
    result = {}
    for name, value in values.items():
        about = summarise(value)
        result[name] = {
            "protocol": PROTOCOLS[name],
            "mean": float(about.mean),
            "interval_95": [float(about.low), float(about.high)],
        }
    return result


def _forward(config, source, records, explained, failed) -> Iterator[tuple[list, np.ndarray]]:
    """Batches of (record, example) with their logits; the last batch is filled up."""
    mesh = make_mesh(config.parallel)
    devices = mesh.devices.size
    size = BATCH.get(jax.default_backend(), 128) * devices
    model = compiled(replicate(mesh, explained.model) if devices > 1 else explained.model)
    chunk: list[tuple[Any, Example]] = []

    def run():
        filled = [chunk[min(i, len(chunk) - 1)][1].image for i in range(size)]
        images = jnp.asarray(np.stack(filled).astype(np.float32) / 255)
        outputs = model(shard(mesh, images) if devices > 1 else images)
        return list(chunk), np.asarray(outputs)[: len(chunk)]

    say(f"test: {len(records)} images")
    loaded = load_examples(source, records, workers=config.data.workers, ahead=2 * size)
    with progress("test", len(records)) as counter:
        for place, example in loaded:
            if isinstance(example, DataError):
                failed[records[place].name] = str(example)
            else:
                chunk.append((records[place], example))
            if len(chunk) == size:
                yield run()
                chunk.clear()
            counter.advance()
        if chunk:
            yield run()


def _row(record, output, target, explained, source) -> dict[str, Any]:
    p = np.exp(output - output.max())
    p = p / p.sum()
    predicted = int(output.argmax())
    return {
        "name": record.name,
        "label": source.classes[record.label],
        "predicted": explained.output_name(predicted),
        "probability": f"{p[predicted]:.6g}",
        "label_probability": f"{p[target]:.6g}",
        "correct": int(predicted == target),
    }


def _line(about: dict[str, Any]) -> str:
    if not about["metrics"]:
        return "test: no image could be read"
    value = about["metrics"]["accuracy"]
    low, high = value["interval_95"]
    unknown = about["of_unknown_classes"]
    return (
        f"test: right on {value['mean']:.1%} of {about['images']} images "
        f"(95 % interval {low:.1%} to {high:.1%})"
        + (f"; {unknown} of classes it does not know are left out" if unknown else "")
    )
