"""Several processes on one run: which they are, and which images are whose.

To explain they need no connection: an image's maps depend on its own key alone, and every process
writes its images into the same folder. One that was killed is started again, by itself.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from fgjax.options.schema import ConfigError, DistributedConfig

LAUNCHERS = {
    "Slurm": ("SLURM_NTASKS", "SLURM_PROCID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "PMI": ("PMI_SIZE", "PMI_RANK"),
}
"""What tells a process how many there are, and which it is."""


@dataclass(frozen=True)
class Share:
    """One of several processes.

    Attributes:
      processes: how many there are.
      own: which this one is, from 0. Number 0 does everything but the others' images.
      connected: whether they are one JAX program and train together; see
        `fgjax.processes.connection`.
    """

    processes: int = 1
    own: int = 0
    connected: bool = False

    @property
    def leads(self) -> bool:
        """Whether this is the only process, or the first: it does everything but the others'
        images."""
        return self.own == 0

    def places(self, images: int, process: int | None = None) -> Int[np.ndarray, "m"]:
        """Return the images of a process, of this one when none is named: every so many-th."""
        return np.arange(self.own if process is None else process, images, self.processes)


ALONE = Share()


def find_share(given: DistributedConfig, environment: Mapping[str, str] = os.environ) -> Share:
    """Return which process this is: as told, or as the launcher told it.

    Raises:
      ConfigError: `distributed.find` where no launcher says anything.
    """
    if not given.find:
        return Share(given.processes, given.process_id or 0)
    for count, own in LAUNCHERS.values():
        if count in environment and own in environment:
            return Share(int(environment[count]), int(environment[own]))
    raise ConfigError(
        f"distributed.find=true: no process was started by {', '.join(LAUNCHERS)}; give "
        "distributed.processes=N distributed.process_id=K instead"
    )
