"""Before the training of a network that looks at patches: they are found, once, in patches.csv.

Their extractor is a classifier of its own, trained on the same images in extractor/ beside that
file. `stages=train` asks for this one, too.
"""

import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from fgjax.core.batching import fill_up
from fgjax.core.progress import progress, say
from fgjax.data.patch_table import PatchTable, unfitted_boxes, write_patches
from fgjax.data.pipeline import load_examples
from fgjax.data.types import DataError, Example
from fgjax.devices.collectives import leads, of_first, wait_for_all
from fgjax.models.classifier import Classifier
from fgjax.models.composed.patches import extract_patches
from fgjax.options.schema import ConfigError
from fgjax.stages.focus.patches import patch_file, read_table
from fgjax.stages.job import Job
from fgjax.stages.stage import Stage
from fgjax.stages.train.stage import Train, is_trained, train_classifier
from fgjax.training.checkpoints import load_classifier

BATCH = 16
"""Images per forward pass."""


class Patches(Stage):
    """Find the patches that a two-stream network is trained with."""

    name = "train"
    shared = True

    def needed(self, job: Job) -> bool:
        """Return whether this process trains a network that looks at patches."""
        config = job.config
        looks = config.model.name == "two_stream" and config.focus.readout != "none"
        return looks and Train().needed(job) and (job.share.leads or job.share.connected)

    def missing(self, job: Job) -> None:
        """Tell what is wrong with a file of patches that was given."""
        if job.config.focus.file:
            read_table(job.config, Path(job.config.focus.file), job.source)

    def run(self, job: Job) -> int:
        """Train the extractor and let it look at every image, where no file holds patches yet.

        Connected processes train it together, then the first one looks.

        Raises:
          ConfigError: the extractor cannot be trained as told.
        """
        path, focus = patch_file(job.config, job.run.path), job.config.focus
        there = bool(focus.file) or path.is_file() or is_trained(job.run.path)
        if of_first(there):
            return 0
        extractor = _extractor(job, path.parent / "extractor")
        count, known = focus.patches, focus.prototypes * len(job.source.classes)
        if focus.extractor == "prototypes" and count > known:
            raise ConfigError(f"focus.patches={count}: there are only {known} prototypes")
        if leads():
            write_patches(path, _extract(job, extractor))
        wait_for_all("patches")
        return 0


def _extractor(job: Job, folder: Path) -> Classifier:
    config, focus = job.config, job.config.focus
    own = replace(
        config,
        run_dir=str(folder),
        # The cam extractor is the global stream by itself.
        model=replace(
            config.model, name="prototypes" if focus.extractor == "prototypes" else "two_stream"
        ),
        focus=replace(focus, readout="none"),
        train=replace(config.train, epochs=focus.extractor_epochs, rates=(), freeze=()),
    )
    groups = ("data", "model", "train", "focus")
    plain = {"seed": config.seed} | {name: asdict(getattr(own, name)) for name in groups}
    say(f"patches: by {focus.extractor}, which is trained first, in {folder}")
    try:
        train_classifier(job.beside(own, plain))
        return load_classifier(folder / "checkpoint")
    except ValueError as error:
        raise ConfigError(f"focus.extractor={focus.extractor}: {error}") from None


def _extract(job: Job, extractor: Classifier) -> PatchTable:
    began, focus, source = time.monotonic(), job.config.focus, job.source
    table: PatchTable = {}
    chunk: list[tuple[str, Example]] = []

    def look() -> None:
        filled = [example.image for _, example in fill_up(chunk, BATCH)]
        found = extract_patches(
            extractor,
            np.stack(filled).astype(np.float32) / 255,
            focus.patches,
            side=focus.patch_side,
            percentile=focus.percentile,
        )
        boxes, scores = (np.asarray(part, np.float32) for part in found)
        for (name, example), box, score in zip(chunk, boxes, scores):
            box = unfitted_boxes(source, example, box)
            table[name] = np.concatenate([box, score[:, None]], axis=1)
        chunk.clear()

    loaded = load_examples(source, source.records, workers=job.config.data.workers)
    with progress("patches", len(source.records)) as counter:
        for place, example in loaded:
            counter.advance()
            if not isinstance(example, DataError):  # it is told where the image is wanted
                chunk.append((source.records[place].name, example))
            if len(chunk) == BATCH:
                look()
        if chunk:
            look()
    say(f"patches: {focus.patches} in each of {len(table)} images, "
        f"{time.monotonic() - began:.0f} s")  # fmt: skip
    return table
