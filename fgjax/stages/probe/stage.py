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
from fgjax.core.scores import predicted
from fgjax.core.tables import finite
from fgjax.data.sets.celeba import ALL_ATTRIBUTES
from fgjax.data.types import Record
from fgjax.evaluation.classification import fit_temperature
from fgjax.models.classifier import Classifier
from fgjax.options.schema import ConfigError
from fgjax.processes.waiting import wait_for_classifier
from fgjax.stages.classifier import training_model, trains
from fgjax.stages.images import training_records
from fgjax.stages.job import Job
from fgjax.stages.probe.features import (
    FeatureFile,
    default_folder,
    features_of,
    network_key,
    what_the_head_reads,
)
from fgjax.stages.stage import Stage
from fgjax.stages.train.kinds import Plain, kind_of
from fgjax.stages.train.prepare import split_validation
from fgjax.stages.train.stage import is_trained
from fgjax.training.checkpoints import save_classifier
from fgjax.training.optimizer import HEAD
from fgjax.training.probe import Linear, fit_linear, neighbour_votes


class Probe(Stage):
    """Fit the last layer of a frozen network."""

    name = "probe"
    shared = True

    def needed(self, job: Job) -> bool:
        """Return whether there is a classifier to fit here, or to wait for."""
        waits = "explain" in job.config.stages
        return self.name in job.config.stages and (job.share.leads or waits)

    def missing(self, job: Job) -> None:
        """Tell that there is nothing to fit, or that the options do not go together."""
        config = job.config
        if not trains(config):
            raise ConfigError(
                "stages=probe makes a classifier of its own on frozen features: give its network "
                "as model.pretrained, not as model.weights or model.checkpoint"
            )
        if "train" in config.stages:
            raise ConfigError("stages: train and probe both make the run's classifier; leave one")
        if config.data.attribute == ALL_ATTRIBUTES:
            raise ConfigError("stages=probe: images with several attributes are of no one class")
        if job.share.connected:
            raise ConfigError("stages=probe: one process fits; distributed.coordinator=null")
        training_records(job.source, config)

    def run(self, job: Job) -> int:
        """Fit, or wait for the process that does."""
        if not job.share.leads:
            wait_for_classifier(job.run.path)
            return 0
        if is_trained(job.run.path):
            return job.run.stage("probe").get("failed", 0)
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
    own = np.array([record.validation for record in known], bool)
    if config.train.validation_from == "share":
        own[:] = False
    if not len(known):
        raise ConfigError(f"data.path={config.data.path}: no training image can be read")
    fitted, validation = split_validation(labels, config.train.validation, config.seed, own)
    if len(np.unique(labels[fitted])) < 2:
        raise ConfigError(f"data.path={config.data.path}: too few training images of two classes")
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
        logits, own = tried[-1](x[validation]), labels[validation]
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        rows.append(
            {
                "penalty": penalty,
                "train_accuracy": _share(tried[-1](x[fitted]), labels[fitted]),
                "validation_accuracy": _share(logits, own),
                "validation_loss": finite(-log_p[np.arange(len(own)), own].mean())
                if len(own)
                else None,
            }
        )
        if not len(validation):  # nothing chooses: the largest penalty
            break
    accuracy = lambda i: (rows[i]["validation_accuracy"], -(rows[i]["validation_loss"] or 0))
    best = max(range(len(rows)), key=accuracy) if len(validation) else 0
    return tried[best], rows, best


def _neighbours(job, known, fitted, validation, tests, classes) -> dict[str, Any]:
    (x, labels), about = known, job.config.probe
    votes = lambda of: neighbour_votes(
        of, x[fitted], labels[fitted], classes, about.neighbours, about.temperature
    )
    return {
        "neighbours": about.neighbours,
        "validation_accuracy": _share(votes(x[validation]), labels[validation]),
        "test_accuracy": _share(votes(tests[0]), tests[1]) if len(tests[1]) else None,
    }


def _share(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the share of images whose highest score is the label's; None of none."""
    return float((np.asarray(predicted(scores)) == labels).mean()) if len(labels) else None


def _say(about: dict[str, Any], best: dict[str, Any]) -> None:
    shown = lambda value: "-" if value is None else f"{value:.1%}"
    near = about["neighbours"]
    say(
        f"probe: linear, penalty {about['penalty']:g}: validation "
        f"{shown(best['validation_accuracy'])} (training {shown(best['train_accuracy'])}); "
        f"{near['neighbours']} neighbours: validation {shown(near['validation_accuracy'])}, "
        f"test {shown(near['test_accuracy'])}"
    )
