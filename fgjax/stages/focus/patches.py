"""The patches of a run's images: read from a file, or found once and kept in patches.csv."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from fgjax.core.progress import progress, say
from fgjax.data.patch_table import (
    Table,
    fitted_patches,
    read_patches,
    unfitted_boxes,
    write_patches,
)
from fgjax.data.pipeline import load_examples
from fgjax.data.types import DataError, Example, Source
from fgjax.devices.collectives import leads, of_first, own_number, wait_for_all
from fgjax.models.classifier import Classifier
from fgjax.models.composed.patches import extract_patches
from fgjax.options.schema import Config, ConfigError
from fgjax.processes.waiting import wait_for_run
from fgjax.runs.folder import RunFolder
from fgjax.stages.train.images import TrainingImages
from fgjax.stages.train.recipes import looks_at_patches
from fgjax.training.augment.geometry_and_light import center_crop
from fgjax.training.checkpoints import load_classifier

FILE = "patches.csv"
BATCH = 16
"""Images per forward pass."""

Train = Callable[[Config, Source, RunFolder], None]
"""The stage that trains."""


def patch_file(config: Config, run: Path) -> Path:
    """Return where the patches are, or will be: focus.file, or patches.csv in focus.folder, in the
    folder of the run that model.checkpoint is of, or in the run's own."""
    if config.focus.file:
        return Path(config.focus.file)
    if config.focus.folder:
        return Path(config.focus.folder) / FILE
    return (Path(config.model.checkpoint).parent if config.model.checkpoint else run) / FILE


def known_patches(config: Config, source: Source, run: Path, model: Classifier) -> Table | None:
    """Return the patches of the images, for a network that looks at them; None for another one, or
    where no file holds any: then the network finds them itself.

    Raises:
      DataError: the file cannot be used.
    """
    if not looks_at_patches(model):
        return None
    path = patch_file(config, run)
    if not config.focus.file and not path.is_file():
        say(f"{path}: no such file; the network finds its patches by its own global stream")
        return None
    return _read(config, path, source)


def found_patches(config: Config, source: Source, run: RunFolder, train: Train) -> Table:
    """Return the patches to train with; when there are none yet, their extractor is trained (a run
    of its own, in extractor/ beside patches.csv) and looks at every image.

    Connected processes train it together, then the first one looks.

    Raises:
      ConfigError: the extractor cannot be trained as told.
      DataError: the file cannot be used.
    """
    path = patch_file(config, run.path)
    if of_first(not config.focus.file and not path.is_file()):
        extractor = _extractor(config, source, path.parent / "extractor", train)
        count, known = config.focus.patches, config.focus.prototypes * len(source.classes)
        if config.focus.extractor == "prototypes" and count > known:
            raise ConfigError(f"focus.patches={count}: there are only {known} prototypes")
        if leads():
            write_patches(path, _extract(config, source, extractor))
        wait_for_all("patches")
    return _read(config, path, source)


def boxes_of(
    config: Config,
    source: Source,
    patches: Table,
    names: Sequence[str],
    examples: Sequence[Example],
) -> Float[jax.Array, "n p 4"]:
    """Return the boxes of some images' patches, in pixels of the fitted images.

    Raises:
      DataError: there is no patch of one of them.
    """
    count = config.focus.patches
    pairs = zip(names, examples, strict=True)
    return jnp.asarray(
        np.stack([fitted_patches(source, e, patches, name, count) for name, e in pairs])
    )


def _read(config: Config, path: Path, source: Source) -> Table:
    try:
        return read_patches(path, [record.name for record in source.records])
    except DataError as error:
        raise DataError(f"{'focus.file: ' if config.focus.file else ''}{error}") from None


def _extractor(config: Config, source: Source, folder: Path, train: Train) -> Classifier:
    focus = config.focus
    own = replace(
        config,
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
        if not leads():
            wait_for_run(folder)
        train(own, source, RunFolder(folder, plain, {}, own_number()))
        return load_classifier(folder / "checkpoint")
    except ValueError as error:
        raise ConfigError(f"focus.extractor={focus.extractor}: {error}") from None


def _extract(config: Config, source: Source, extractor: Classifier) -> Table:
    began, focus = time.monotonic(), config.focus
    table: Table = {}
    chunk = []

    def look():
        filled = [chunk[min(i, len(chunk) - 1)][1].image for i in range(BATCH)]
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

    loaded = load_examples(source, source.records, workers=config.data.workers)
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


def whole_images(
    images: TrainingImages, order: Int[np.ndarray, "m"], size: int
) -> Iterator[tuple[Float[jax.Array, "b s s 3"], Int[np.ndarray, "b"]]]:
    """Yield training images in [0, 1], their middle squares, and labels; a last short batch is
    filled up with its last image."""
    for i in range(0, len(order), BATCH):
        part = order[np.minimum(np.arange(i, i + BATCH), len(order) - 1)]
        pixels, labels = next(images.batches(part, BATCH))
        yield center_crop(jnp.asarray(pixels), size).astype(np.float32) / 255, labels
