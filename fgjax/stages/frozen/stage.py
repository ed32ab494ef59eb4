"""What stages have in common that make the run's classifier on a network that stays as it is."""

import numpy as np
from jaxtyping import Int

from fgjax.data.sets.celeba import ALL_ATTRIBUTES
from fgjax.data.types import Record
from fgjax.options.schema import Config, ConfigError
from fgjax.processes.waiting import wait_for_classifier
from fgjax.stages.classifier import MAKERS, trains
from fgjax.stages.images import training_records
from fgjax.stages.job import Job
from fgjax.stages.stage import Stage
from fgjax.stages.train.prepare import split_validation
from fgjax.stages.train.stage import is_trained

Places = Int[np.ndarray, "_"]


class OnFrozen(Stage):
    """Make a classifier on a frozen network.

    Attributes:
      network_options: those that the network is given by.
    """

    shared = True
    network_options = "model.pretrained"

    def needed(self, job: Job) -> bool:
        """Return whether there is a classifier to make here, or to wait for."""
        waits = "explain" in job.config.stages
        return super().needed(job) and (job.share.leads or waits)

    def missing(self, job: Job) -> None:
        """Tell that there is nothing to make it of, or that the options do not go together."""
        config, stage = job.config, f"stages={self.name}"
        if not trains(config):
            raise ConfigError(
                f"{stage} makes a classifier of its own on a frozen network: give that as "
                f"{self.network_options}, not as model.weights or model.checkpoint"
            )
        if others := [s for s in MAKERS if s in config.stages and s != self.name]:
            raise ConfigError(
                f"stages: {others[0]} and {self.name} both make the run's classifier; leave one"
            )
        if config.data.attribute == ALL_ATTRIBUTES:
            raise ConfigError(f"{stage}: images with several attributes are of no one class")
        if job.share.connected:
            raise ConfigError(f"{stage}: one process makes it; distributed.coordinator=null")
        training_records(job.source, config)

    def run(self, job: Job) -> int:
        """Make it, or wait for the process that does."""
        if not job.share.leads:
            wait_for_classifier(job.run.path)
            return 0
        if is_trained(job.run.path):
            return job.run.stage(self.name).get("failed", 0)
        return self.make(job)

    def make(self, job: Job) -> int:
        """Write run/checkpoint; return how many images failed."""
        raise NotImplementedError


def split_known(
    config: Config, known: list[Record], labels: Int[np.ndarray, "n"]
) -> tuple[Places, Places]:
    """Return the places of images to fit on, and of those that choose.

    Raises:
      ConfigError: there is too little to fit on.
    """
    if not known:
        raise ConfigError(f"data.path={config.data.path}: no training image can be read")
    own = np.array([record.validation for record in known], bool)
    if config.train.validation_from == "share":
        own[:] = False
    fitted, validation = split_validation(labels, config.train.validation, config.seed, own)
    if len(np.unique(labels[fitted])) < 2:
        raise ConfigError(f"data.path={config.data.path}: too few training images of two classes")
    return fitted, validation
