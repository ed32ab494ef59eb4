"""The patches of a run's images, as a file has them."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fgjax.core.progress import say
from fgjax.data.patch_table import PatchTable, fitted_patches, read_patches
from fgjax.data.types import DataError, Example, Source
from fgjax.models.classifier import Classifier
from fgjax.models.composed.two_stream import TwoStream
from fgjax.options.schema import Config
from fgjax.stages.job import Job

FILE = "patches.csv"


def looks_at_patches(model: Classifier) -> bool:
    """Return whether the network wants boxes of patches beside images."""
    return isinstance(model.network, TwoStream) and model.network.readout != "none"


def patch_file(config: Config, run: Path) -> Path:
    """Return where the patches are, or will be: focus.file, or patches.csv in focus.folder, in the
    folder of the run that model.checkpoint is of, or in the run's own."""
    if config.focus.file:
        return Path(config.focus.file)
    if config.focus.folder:
        return Path(config.focus.folder) / FILE
    return (Path(config.model.checkpoint).parent if config.model.checkpoint else run) / FILE


def known_patches(job: Job) -> PatchTable | None:
    """Return the patches of the images, for a network that looks at them; None for another one,
    or where no file holds any: then the network finds them itself.

    Raises:
      DataError: the file cannot be used.
    """
    if not looks_at_patches(job.explained.model):
        return None
    path = patch_file(job.config, job.run.path)
    if not job.config.focus.file and not path.is_file():
        say(f"{path}: no such file; the network finds its patches by its own global stream")
        return None
    return read_table(job.config, path, job.source)


def patches_to_train(job: Job) -> PatchTable:
    """Return the patches to train with: those given, or found by the stage before.

    Raises:
      DataError: the file cannot be used.
    """
    return read_table(job.config, patch_file(job.config, job.run.path), job.source)


def read_table(config: Config, path: Path, source: Source) -> PatchTable:
    """Read the patches of a data set's images.

    Raises:
      DataError: the file cannot be used.
    """
    try:
        return read_patches(path, [record.name for record in source.records])
    except DataError as error:
        raise DataError(f"{'focus.file: ' if config.focus.file else ''}{error}") from None


def boxes_of(
    job: Job, patches: PatchTable, names: Sequence[str], examples: Sequence[Example]
) -> Float[jax.Array, "n p 4"]:
    """Return the boxes of some images' patches, in pixels of the fitted images.

    Raises:
      DataError: there is no patch of one of them.
    """
    count = job.config.focus.patches
    pairs = zip(names, examples, strict=True)
    return jnp.asarray(
        np.stack([fitted_patches(job.source, e, patches, name, count) for name, e in pairs])
    )
