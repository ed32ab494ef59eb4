"""Stage "prompts": a prompt for each class learns where to look, on a frozen transformer."""

import json
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fgjax.core.files import write_atomic
from fgjax.core.progress import say
from fgjax.data.sets.celeba import ALL_ATTRIBUTES
from fgjax.evaluation.classification import fit_temperature
from fgjax.models.classifier import Classifier
from fgjax.models.composed.prompts import PromptClassifier, PromptNet
from fgjax.models.pretrained_trunk import HEAD, TRUNK
from fgjax.options.schema import Config, ConfigError
from fgjax.processes.waiting import wait_for_classifier
from fgjax.stages.classifier import training_model, trains
from fgjax.stages.images import training_records
from fgjax.stages.job import Job
from fgjax.stages.probe.features import default_folder
from fgjax.stages.prompts.tokens import Tokens
from fgjax.stages.stage import Stage
from fgjax.stages.train.prepare import split_validation
from fgjax.stages.train.stage import is_trained, train_classifier
from fgjax.training.checkpoints import load_classifier, save_classifier
from fgjax.training.prompts import PromptRecipe, fit_prompts, prompt_logits

STATE = "prompts.npz"
"""An unfinished training, in the run's folder."""


class Prompts(Stage):
    """Train the prompts of a frozen network."""

    name = "prompts"
    shared = True

    def needed(self, job: Job) -> bool:
        """Return whether there is a classifier to make here, or to wait for."""
        waits = "explain" in job.config.stages
        return self.name in job.config.stages and (job.share.leads or waits)

    def missing(self, job: Job) -> None:
        """Tell that there is nothing to train, or that the options do not go together."""
        config = job.config
        if not trains(config):
            raise ConfigError(
                "stages=prompts makes a classifier of its own on a frozen network: give that as "
                "prompts.backbone and model.pretrained, not as model.weights or model.checkpoint"
            )
        if config.model.name != "prompts":
            raise ConfigError(
                f"stages=prompts: {config.model.name or 'resnet18'} has no prompts: "
                "model.name=prompts, and in prompts.backbone the vision transformer they are given "
                "to, such as vit_small_patch14_dinov2"
            )
        if both := {"train", "probe"} & set(config.stages):
            raise ConfigError(
                f"stages: {both.pop()} and prompts both make the run's classifier; leave one"
            )
        if config.data.attribute == ALL_ATTRIBUTES:
            raise ConfigError("stages=prompts: images with several attributes are of no one class")
        if job.share.connected:
            raise ConfigError("stages=prompts: one process trains; distributed.coordinator=null")
        training_records(job.source, config)

    def run(self, job: Job) -> int:
        """Train, or wait for the process that does."""
        if not job.share.leads:
            wait_for_classifier(job.run.path)
            return 0
        if is_trained(job.run.path):
            (job.run.path / STATE).unlink(missing_ok=True)
            return job.run.stage("prompts").get("failed", 0)
        return train_prompts(job)


def train_prompts(job: Job) -> int:
    """Write run/checkpoint and run/prompts.json. Return how many images failed.

    The checkpoint is that of the epoch with the best validation accuracy (lowest loss among
    equals); validation images come from the training split, as in a training. Images are neither
    flipped nor shifted: what goes into the last block is computed once.

    Raises:
      ConfigError: there is too little to train on.
    """
    began, config, run = time.monotonic(), job.config, job.run
    model = _start(job)
    records = training_records(job.source, config)
    folder = Path(config.prompts.cache) if config.prompts.cache else default_folder()
    tokens = Tokens(model, folder or run.path / "tokens")
    count, width = tokens.shape
    say(
        f"prompts: {config.prompts.backbone}, {count} tokens of {width} of each of {len(records)} "
        f"images ({count * width * 4 * len(records) / 2**20:.0f} MiB), in {tokens.folder}"
    )
    failed, computed = tokens.find(job.source, records, config.data.workers)
    run.set_failures("prompts", failed)
    known = [record for record in records if record.name not in failed]
    taken = time.monotonic() - began
    say(f"prompts: {computed} computed, {len(known) - computed} known; {taken:.0f} s")
    labels = np.array([record.label for record in known], np.int32)
    fitted, validation = _split(config, [r.validation for r in known], labels)
    about = config.prompts
    recipe = PromptRecipe(
        about.epochs, about.batch_size, about.learning_rate, about.weight_decay, config.seed
    )
    read = partial(tokens.read, [record.name for record in known])
    done, progress = fit_prompts(
        model, read, labels, fitted, validation, recipe, run.path / STATE,
        lambda row: _say_epoch(row, about.epochs),
    )  # fmt: skip
    best = progress.best_epoch()
    temperature = 1.0
    if len(validation):
        logits = prompt_logits(done, read, validation, min(about.batch_size, len(fitted)))
        temperature = fit_temperature(logits, labels[validation])
    done = done.replace(temperature=round(temperature, 4))
    facts = {"backbone": about.backbone, "best_epoch": best + 1, "epochs": progress.rows}
    write_atomic(run.path / "prompts.json", json.dumps(facts, indent=1) + "\n")
    save_classifier(run.path / "checkpoint", done)
    run.finish(
        "prompts",
        seconds=round(time.monotonic() - began, 1),
        images=len(fitted),
        failed=len(failed),
        computed=computed,
        best_epoch=best,
        validation_accuracy=progress.rows[best]["validation_accuracy"],
        temperature=done.temperature,
    )
    (run.path / STATE).unlink(missing_ok=True)
    return len(failed)


def _start(job: Job) -> PromptClassifier:
    """Return the classifier with fresh prompts on the network that stays as it is: trained weights,
    or those of a training of its own on the same images, in run/trunk."""
    config = job.config
    model: Any = training_model(config, job.source)
    assert isinstance(model.network, PromptNet)
    if config.prompts.trunk_epochs:
        return with_trunk(model, _trunk(job))
    if config.model.pretrained is None:
        say(
            "prompts: the network's weights are fresh ones; model.pretrained=… gives trained ones, "
            "prompts.trunk_epochs=… trains it first"
        )
    return model


def with_trunk(model: PromptClassifier, trunk: Classifier) -> PromptClassifier:
    """Return the classifier on another trained network of the same kind."""
    own = {k: v for k, v in trunk.variables["params"].items() if k != HEAD}
    params = {**model.variables["params"], TRUNK: own}
    return model.replace(variables={"params": params}, mean=trunk.mean, std=trunk.std)


def _trunk(job: Job) -> Classifier:
    config, folder = job.config, job.run.path / "trunk"
    own = replace(
        config,
        run_dir=str(folder),
        stages=("train",),
        model=replace(config.model, name=config.prompts.backbone),
        train=replace(config.train, epochs=config.prompts.trunk_epochs),
    )
    groups = ("data", "model", "train")
    plain = {"seed": config.seed} | {name: asdict(getattr(own, name)) for name in groups}
    say(f"prompts: {config.prompts.backbone} is trained first, in {folder}")
    train_classifier(job.beside(own, plain))
    try:
        return load_classifier(folder)
    except ValueError as error:
        raise ConfigError(
            f"{error}. Delete {folder}, and the same command trains it again"
        ) from None


def _split(config: Config, own: list[bool], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of images to train on, and of those that pick the epoch."""
    if not len(labels):
        raise ConfigError(f"data.path={config.data.path}: no training image can be read")
    given = np.array(own, bool)
    if config.train.validation_from == "share":
        given[:] = False
    fitted, validation = split_validation(labels, config.train.validation, config.seed, given)
    if len(np.unique(labels[fitted])) < 2:
        raise ConfigError(f"data.path={config.data.path}: too few training images of two classes")
    return fitted, validation


def _say_epoch(row: dict[str, Any], epochs: int) -> None:
    accuracy = row["validation_accuracy"]
    judged = "" if accuracy is None else f", validation {accuracy:.1%}"
    say(f"prompts: epoch {row['epoch']} of {epochs}: loss {row['loss']:.3f}{judged}")
