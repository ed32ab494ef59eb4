"""One run, as its stages see it."""

from functools import cached_property
from typing import Any

import jax

from fgjax.data.pipeline import fingerprint
from fgjax.data.types import Record, Source
from fgjax.options.schema import Config
from fgjax.processes.shares import ALONE, Share
from fgjax.processes.waiting import wait_for_run
from fgjax.runs.folder import RunFolder
from fgjax.stages.classifier import Explained, load_model, model_fingerprint, trains
from fgjax.stages.images import explained_records, make_source


class Job:
    """What a run was told, and what its stages share, each made when it is first asked for.

    Args:
      name: of the config.
      config: the options.
      plain: the same as a dict, as the run's folder keeps it.
      share: of several processes, which this is.
      fingerprints: of the files that results depend on; None: those of the data and the weights.
      source: the data set; None: that of `data.*`.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        plain: dict[str, Any],
        share: Share = ALONE,
        fingerprints: dict[str, str] | None = None,
        source: Source | None = None,
    ):
        self.name, self.config, self.plain, self.share = name, config, plain, share
        if fingerprints is not None:
            self.fingerprints = fingerprints
        if source is not None:
            self.source = source

    @cached_property
    def source(self) -> Source:
        """The data set.

        Raises:
          ConfigError: an option that the source needs is missing or wrong.
          DataError: the path does not hold what it should.
        """
        return make_source(self.config)

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """The test images to be explained.

        Raises:
          ConfigError: there are none.
        """
        return explained_records(self.source, self.config)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Hashes of the files that results depend on. Explained images are looked at one by one
        (see `fgjax.stages.mend`), where each has a file."""
        own, whole = hasattr(self.source, "file"), fingerprint(self.source)
        training = fingerprint(self.source, "train") if trains(self.config) else ""
        return {
            "data_fingerprint": whole,
            "training_fingerprint": training if own else whole,
            "model_fingerprint": model_fingerprint(self.config),
        }

    @cached_property
    def run(self) -> RunFolder:
        """The run's folder; a process that does not lead finds it made.

        Raises:
          ConfigError: it holds results of another config, or cannot be written.
        """
        if not self.share.leads:
            wait_for_run(self.config.run_dir)
        return RunFolder(self.config.run_dir, self.plain, self.fingerprints, self.share.own)

    @cached_property
    def explained(self) -> Explained:
        """The classifier in use: given, or this run's own once it is trained.

        Raises:
          ConfigError: it cannot be read, or its outputs cannot be told apart.
          DataError: the label file does not fit.
        """
        return load_model(self.config, self.source, self.run.path)

    @property
    def key(self) -> jax.Array:
        """The key all randomness of the run comes from."""
        return jax.random.key(self.config.seed)

    def beside(self, config: Config, plain: dict[str, Any]) -> "Job":
        """Return a job on the same images in a folder of its own, `config.run_dir`.

        Args:
          config: its options.
          plain: those of them that its folder keeps.
        """
        return Job(self.name, config, plain, self.share, {}, self.source)
