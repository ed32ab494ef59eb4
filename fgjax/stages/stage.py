"""What every stage of a run is."""

from fgjax.stages.job import Job


class Stage:
    """One kind of work on a run: whether it is wanted, what it lacks, and doing it.

    Attributes:
      name: as the option `stages` has it.
      shared: whether processes other than the first take part.
    """

    name: str
    shared = False

    def needed(self, job: Job) -> bool:
        """Return whether the run wants this stage."""
        return self.name in job.config.stages

    def missing(self, job: Job) -> None:
        """Tell what the stage lacks, before anything takes long; nothing is computed or written.

        Raises:
          ConfigError, DataError: something is missing.
        """

    def run(self, job: Job) -> int:
        """Do what is not done yet, and return how many images failed."""
        raise NotImplementedError
