"""Stage "train": a classifier of the run's own, with a checkpoint after every epoch."""

import shutil
import time
from contextlib import nullcontext
from pathlib import Path

from fgjax.core.progress import hushed, say
from fgjax.devices.collectives import leads, of_first, wait_for_all
from fgjax.devices.mesh import own_rows
from fgjax.evaluation.classification import fit_temperature
from fgjax.models.classifier import Classifier
from fgjax.processes.waiting import wait_for_classifier
from fgjax.stages.classifier import trains
from fgjax.stages.images import training_records
from fgjax.stages.job import Job
from fgjax.stages.stage import Stage
from fgjax.stages.train.epochs import train_epochs
from fgjax.stages.train.prepare import Training, again, prepare
from fgjax.training.checkpoints import save_classifier
from fgjax.training.classifier import logits_of, start


class Train(Stage):
    """Train a classifier where none is given."""

    name = "train"
    shared = True

    def needed(self, job: Job) -> bool:
        """Return whether there is training to do here, or to wait for."""
        if self.name not in job.config.stages or not trains(job.config):
            return False
        waits = "explain" in job.config.stages
        return job.share.leads or job.share.connected or waits

    def missing(self, job: Job) -> None:
        """Tell that there is nothing to train on."""
        training_records(job.source, job.config)

    def run(self, job: Job) -> int:
        """Train, or wait for the process that does."""
        failed = 0
        if job.share.leads or job.share.connected:
            with nullcontext() if job.share.leads else hushed():
                failed = train_classifier(job)
        if not job.share.leads and "explain" in job.config.stages:
            wait_for_classifier(job.run.path)
        return failed


def is_trained(run: Path) -> bool:
    """Return whether a run's folder holds a whole classifier."""
    return (run / "checkpoint" / "classifier.json").is_file()


def train_classifier(job: Job) -> int:
    """Train, or go on training, and write run/checkpoint. Return how many images failed.

    Connected processes all call it: they train together, process 0 decides and writes. The
    checkpoint is that of the epoch with the best validation accuracy (lowest loss among equals),
    or the last; validation images come from the training split. With train.refit a second
    training, on all images and for as many epochs, makes it.

    Raises:
      ConfigError: there is nothing to train on, or the training cannot be done as told.
    """
    if of_first(is_trained(job.run.path)):
        if leads():
            for folder in ("training", "refit/training"):
                shutil.rmtree(job.run.path / folder, ignore_errors=True)
        return 0
    first = prepare(job)
    train_epochs(first)
    if not (job.config.train.refit and len(first.validation)):
        finish(first, first)
        return len(first.failed)
    best = of_first(first.history.best)
    training = again(first, best + 1)
    say(f"train: epoch {best + 1} was best; now on all {len(training.training)} images")
    train_epochs(training)
    finish(training, first)
    return len(training.failed)


def finish(training: Training, validated: Training) -> None:
    """Write the classifier of the epoch that counts, and forget how it came to be.

    Args:
      training: what made the classifier.
      validated: what chose the epoch; the same where there is no other.
    """
    run, history = training.job.run, training.history
    best, state = history.best_state(start(training.model, training.recipe))
    model = training.model.replace(variables=state.judged)
    model = training.kind.finish(model, training.images, training.training)
    model = model.replace(temperature=_temperature(model, training, validated))
    # What is there without its classifier.json is half a checkpoint.
    if leads():
        shutil.rmtree(run.path / "checkpoint", ignore_errors=True)
    save_classifier(run.path / "checkpoint", model)
    wait_for_all("trained")
    if not leads():
        return
    run.finish(
        "train",
        seconds=round(time.monotonic() - training.began, 1),
        images=len(training.training),
        failed=len(training.failed),
        best_epoch=best,
        validation_accuracy=validated.history.rows[best]["validation_accuracy"],
        refit=training is not validated,
        temperature=model.temperature,
    )
    history.delete()
    validated.history.delete()


def _temperature(model: Classifier, training: Training, validated: Training) -> float:
    """Return the temperature of a classifier's probabilities, by the validation images; of one
    that was trained again, which has seen them, that of the classifier before. 1 without any."""
    images = validated.images
    if images.labels.ndim > 1 or not len(validated.validation):
        return 1.0
    if training is not validated:
        fresh = start(validated.model, validated.recipe)
        before = validated.model.replace(variables=validated.history.best_state(fresh)[1].judged)
        model = validated.kind.finish(before, images, validated.training)
    rows = own_rows(validated.mesh, validated.batch)
    own = rows.stop - rows.start
    logits, labels = logits_of(model, images.batches(validated.validation, own), own)
    return round(fit_temperature(logits, labels), 4)
