"""Stage "probe": a linear classifier on a frozen network's features, and its neighbours' votes."""

import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from fgjax.core.files import write_atomic
from fgjax.core.progress import say
from fgjax.data.types import Record
from fgjax.evaluation.classification import fit_temperature
from fgjax.models.classifier import Classifier
from fgjax.options.schema import ConfigError
from fgjax.stages.classifier import training_model
from fgjax.stages.frozen.cache import default_folder, network_key
from fgjax.stages.frozen.stage import OnFrozen, split_known
from fgjax.stages.images import training_records
from fgjax.stages.job import Job
from fgjax.stages.probe.features import FeatureFile, features_of, what_the_head_reads
from fgjax.stages.train.kinds import Plain, kind_of
from fgjax.training.checkpoints import save_classifier
from fgjax.training.optimizer import HEAD
from fgjax.training.probe import Linear, fit_linear, neighbour_votes
from fgjax.training.validation import accuracy, best_row, validated


class Probe(OnFrozen):
    """Fit the last layer of a frozen network."""

    name = "probe"

    def make(self, job: Job) -> int:
        """Fit it."""
        return fit_probe(job)


def fit_probe(job: Job) -> int:
    """Write run/checkpoint and run/probe.json. Return how many images failed.

    The penalty is the one with the best validation accuracy (lowest loss among equals);
    validation images come from the training split, as in a training.

    Raises:
      ConfigError: there is too little to fit on, or the network has no linear classifier.
    """
    began, config, run = time.monotonic(), job.config, job.run
    model = training_model(config, job.source)
    check_head(model)
    if config.model.pretrained is None:
        say("probe: the network's weights are fresh ones; model.pretrained=… gives trained ones")
    records = training_records(job.source, config)
    tests = [r for r in job.source.records if r.split == "test" and r.label is not None]
    folder = Path(config.probe.cache) if config.probe.cache else default_folder()
    path = folder / f"{network_key(model)}.npz" if folder is not None else None
    say(f"probe: {model.name}, features of {len(records)} images (and {len(tests)} test images)")
    found, failed, computed = features_of(
        model, job.source, [*records, *tests], FeatureFile(path), config.data.workers
    )
    run.set_failures("probe", failed)
    taken = time.monotonic() - began
    say(f"probe: {computed} computed, {len(found) - computed} from {path}; {taken:.0f} s")
    known, classes = [r for r in records if r.name in found], model.network.num_classes
    x, labels = _rows(found, known)
    fitted, validation = split_known(config, known, labels)
    linear, rows, best = _best(job, x, labels, fitted, validation, classes)
    logits = linear(x[validation])
    temperature = fit_temperature(logits, labels[validation]) if len(validation) else 1.0
    done = model.replace(variables=with_head(model, linear), temperature=round(temperature, 4))
    about: dict[str, Any] = {
        "features": int(x.shape[1]),
        "penalties": rows,
        "penalty": rows[best]["penalty"],
        "neighbours": _neighbours(job, (x, labels), fitted, validation, _rows(
            found, [r for r in tests if r.name in found]), classes),
    }  # fmt: skip
    write_atomic(run.path / "probe.json", json.dumps(about, indent=1) + "\n")
    save_classifier(run.path / "checkpoint", done)
    run.finish(
        "probe",
        seconds=round(time.monotonic() - began, 1),
        images=len(fitted),
        failed=len(failed),
        computed=computed,
        validation_accuracy=rows[best]["validation_accuracy"],
        temperature=done.temperature,
    )
    _say(about, rows[best])
    return len(failed)


def check_head(model: Classifier) -> None:
    """Raise ConfigError where a network's outputs are not one linear layer on its features."""
    if type(kind_of(model)) is not Plain:
        raise ConfigError(f"stages=probe: {model.name} has more to learn than its last layer")
    head = model.variables["params"].get(HEAD, {})
    if set(head) != {"kernel", "bias"} or head["kernel"].ndim != 2:
        raise ConfigError(f"stages=probe: {model.name} does not end in a linear layer")
    image = jax.ShapeDtypeStruct((1, model.size, model.size, 3), jnp.float32)
    shape = jax.eval_shape(what_the_head_reads, model, image).shape
    if shape != (1, head["kernel"].shape[0]):
        raise ConfigError(f"stages=probe: the last layer of {model.name} reads {shape}, no vector")


def with_head(model: Classifier, linear: Linear) -> Any:
    """Return the variables with another last layer."""
    head = {name: jnp.asarray(value) for name, value in linear._asdict().items()}
    return {**model.variables, "params": {**model.variables["params"], HEAD: head}}


def _rows(found: dict[str, np.ndarray], records: list[Record]) -> tuple[np.ndarray, np.ndarray]:
    labels = np.array([record.label for record in records], np.int32)
    rows = [found[record.name] for record in records]
    return np.stack(rows) if rows else np.zeros((0, 1), np.float32), labels


def _best(
    job: Job,
    x: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    fitted: Int[np.ndarray, "a"],
    validation: Int[np.ndarray, "b"],
    classes: int,
) -> tuple[Linear, list[dict[str, Any]], int]:
    """Return the classifier of the best penalty, a row for each, and the best one's place."""
    tried: list[Linear] = []
    rows = []
    for penalty in sorted(job.config.probe.penalties, reverse=True):
        start = tried[-1] if tried else None
        tried.append(fit_linear(x[fitted], labels[fitted], classes, penalty, start))
        rows.append(
            {
                "penalty": penalty,
                "train_accuracy": accuracy(tried[-1](x[fitted]), labels[fitted]),
                **validated(tried[-1](x[validation]), labels[validation]),
            }
        )
        if not len(validation):  # nothing chooses: the largest penalty
            break
    best = best_row(rows)
    return tried[best], rows, best


def _neighbours(job, known, fitted, validation, tests, classes) -> dict[str, Any]:
    (x, labels), about = known, job.config.probe
    votes = lambda of: neighbour_votes(
        of, x[fitted], labels[fitted], classes, about.neighbours, about.temperature
    )
    return {
        "neighbours": about.neighbours,
        "validation_accuracy": accuracy(votes(x[validation]), labels[validation]),
        "test_accuracy": accuracy(votes(tests[0]), tests[1]) if len(tests[1]) else None,
    }


def _say(about: dict[str, Any], best: dict[str, Any]) -> None:
    shown = lambda value: "-" if value is None else f"{value:.1%}"
    near = about["neighbours"]
    say(
        f"probe: linear, penalty {about['penalty']:g}: validation "
        f"{shown(best['validation_accuracy'])} (training {shown(best['train_accuracy'])}); "
        f"{near['neighbours']} neighbours: validation {shown(near['validation_accuracy'])}, "
        f"test {shown(near['test_accuracy'])}"
    )
