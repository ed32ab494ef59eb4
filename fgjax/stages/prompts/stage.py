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
from fgjax.evaluation.classification import fit_temperature
from fgjax.models.classifier import Classifier
from fgjax.models.composed.prompts import PromptClassifier, PromptNet
from fgjax.models.pretrained_trunk import HEAD, TRUNK
from fgjax.options.schema import ConfigError
from fgjax.stages.classifier import training_model
from fgjax.stages.frozen.cache import default_folder
from fgjax.stages.frozen.stage import OnFrozen, split_known
from fgjax.stages.images import training_records
from fgjax.stages.job import Job
from fgjax.stages.prompts.tokens import Tokens
from fgjax.stages.train.stage import train_classifier
from fgjax.training.checkpoints import load_classifier, save_classifier
from fgjax.training.prompts import PromptRecipe, fit_prompts, prompt_logits
from fgjax.training.validation import best_row

STATE = "prompts.npz"
"""An unfinished training, in the run's folder."""


class Prompts(OnFrozen):
    """Train the prompts of a frozen network."""

    name = "prompts"
    network_options = "prompts.backbone and model.pretrained"

    def missing(self, job: Job) -> None:
        """Tell, too, that the network takes no prompts."""
        super().missing(job)
        if job.config.model.name != "prompts":
            raise ConfigError(
                f"stages=prompts: {job.config.model.name or 'resnet18'} has no prompts: "
                "model.name=prompts, and in prompts.backbone the vision transformer they are given "
                "to, such as vit_small_patch14_dinov2"
            )

    def run(self, job: Job) -> int:
        """Train, or wait for the process that does."""
        failed = super().run(job)
        if job.share.leads:
            (job.run.path / STATE).unlink(missing_ok=True)  # all is in the checkpoint
        return failed

    def make(self, job: Job) -> int:
        """Train them."""
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
    fitted, validation = split_known(config, known, labels)
    about = config.prompts
    recipe = PromptRecipe(
        about.epochs, about.batch_size, about.learning_rate, about.weight_decay, config.seed
    )
    read = partial(tokens.read, [record.name for record in known])
    done, training = fit_prompts(
        model, read, labels, fitted, validation, recipe, run.path / STATE,
        lambda row: _say_epoch(row, about.epochs),
    )  # fmt: skip
    best = best_row(training.rows)
    temperature = 1.0
    if len(validation):
        logits = prompt_logits(done, read, validation, min(about.batch_size, len(fitted)))
        temperature = fit_temperature(logits, labels[validation])
    done = done.replace(temperature=round(temperature, 4))
    facts = {"backbone": about.backbone, "best_epoch": best + 1, "epochs": training.rows}
    write_atomic(run.path / "prompts.json", json.dumps(facts, indent=1) + "\n")
    save_classifier(run.path / "checkpoint", done)
    run.finish(
        "prompts",
        seconds=round(time.monotonic() - began, 1),
        images=len(fitted),
        failed=len(failed),
        computed=computed,
        best_epoch=best,
        validation_accuracy=training.rows[best]["validation_accuracy"],
        temperature=done.temperature,
    )
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


def _say_epoch(row: dict[str, Any], epochs: int) -> None:
    accuracy = row["validation_accuracy"]
    judged = "" if accuracy is None else f", validation {accuracy:.1%}"
    say(f"prompts: epoch {row['epoch']} of {epochs}: loss {row['loss']:.3f}{judged}")
