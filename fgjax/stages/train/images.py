"""The training images of a run: decoded once where they fit, and kept on the device."""

import copy
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from fgjax.core.progress import progress
from fgjax.data.checked import Checked, checked_file
from fgjax.data.patch_table import PatchTable, fitted_patches
from fgjax.data.pipeline import load_examples, stack
from fgjax.data.sets.celeba import ALL_ATTRIBUTES
from fgjax.data.types import DataError, Example, Record, Source
from fgjax.devices.collectives import over_processes, own_part
from fgjax.devices.memory import free_bytes, host_free_bytes
from fgjax.options.schema import Config
from fgjax.training.classifier import Inputs

IN_MEMORY = 0.25
"""Share of the host's free memory that decoded images may take; larger sets are decoded again every
epoch."""
UNKNOWN = 4 * 2**30
"""Bytes, where it is not told how much is free."""
ON_DEVICE = 0.25
"""Share of a device's free memory that decoded images may take; else they stay in the host's."""


@jax.jit
def _gather(pixels, index):
    return pixels[index]


class Windows:
    """A data set whose images are cut at a place of their own each, a function of `seed`, `epoch`
    and the image's name: what `RandomCrop` after `Resize` does elsewhere.

    Args:
      source: the data set, with a `fit`.
      crop: smallest share of the whole image's area that is cut out and resized, what
        `RandomResizedCrop` does elsewhere; 1: the scale stays.
    """

    def __init__(self, source: Source, seed: int, epoch: int, crop: float = 1.0):
        self._source, self._seed, self._crop = source, [seed, epoch], crop
        self.classes, self.landmark_names = source.classes, source.landmark_names
        self.records = source.records

    def load(self, record: Record) -> Example:
        """Decode one image, cut at its place."""
        name = zlib.crc32(record.name.encode("utf-8", "backslashreplace"))
        raw = np.random.PCG64(np.random.SeedSequence([*self._seed, name])).random_raw(4)
        x, y, area, aspect = (raw / 2**64).tolist()
        own: Any = copy.copy(self._source)
        own.fit = replace(own.fit, place=(x, y))
        if self._crop < 1:
            least, widest = self._crop, 4 / 3
            own.fit = replace(
                own.fit, area=least + (1 - least) * area, aspect=widest ** (2 * aspect - 1)
            )
        return own.load(record)


@dataclass(frozen=True)
class TrainingImages:
    """Images of one size with their labels.

    Attributes:
      source: the data set.
      records: those of its images that can be read.
      labels: their classes, or a row of attributes each.
      pixels: all of them decoded, on the device or in the host's memory; None: too many, each is
        decoded when it is asked for.
      workers: threads that decode.
      boxes: of each image's patches, in its pixels; None: there are none.
      windows: the seed of random windows; None: all images are cut in the middle.
      crop: of those, see `Windows`.
    """

    source: Source
    records: tuple[Record, ...]
    labels: Int[np.ndarray, "n *a"]
    pixels: UInt8[jax.Array | np.ndarray, "n h w 3"] | None
    workers: int
    boxes: Float[np.ndarray, "n p 4"] | None = None
    windows: int | None = None
    crop: float = 1.0

    def batches(
        self, order: Int[np.ndarray, "m"], size: int, epoch: int | None = None
    ) -> Iterator[tuple[Inputs, Int[np.ndarray, "b *a"]]]:
        """Yield images (with boxes, where there are any) and labels in this order, `size` at a
        time; the last batch may be shorter.

        Images that are decoded on the way are decoded ahead, while the batch before is used.

        Args:
          order: places of the images.
          size: of a batch.
          epoch: of which random windows are taken, where there are any; None: the middle.

        Raises:
          DataError: an image that could be read before no longer can.
        """
        parts = [order[i : i + size] for i in range(0, len(order), size)]
        if self.pixels is not None:
            take = _gather if isinstance(self.pixels, jax.Array) else np.ndarray.__getitem__
            for part in parts:
                yield self._inputs(take(self.pixels, part), part), self.labels[part]
            return
        source = self.source
        if self.windows is not None and epoch is not None:
            source = Windows(self.source, self.windows, epoch, self.crop)
        loaded = load_examples(
            source,
            [self.records[i] for i in order],
            workers=self.workers,
            ahead=2 * size,
            on_error="raise",
        )
        for part in parts:
            images = stack([next(loaded)[1] for _ in part]).images
            yield self._inputs(images, part), self.labels[part]

    def _inputs(self, images, part):
        return images if self.boxes is None else (images, self.boxes[part])


def load_training_images(
    source: Source, records: list[Record], config: Config, patches: PatchTable | None = None
) -> tuple[TrainingImages, dict[str, str]]:
    """Return the images that can be read, and why the others cannot (name -> reason).

    Where they are not kept, those that a run before could read are not decoded for that, and of
    connected processes each reads its share.

    Args:
      patches: of every image, where the network looks at patches.
    """
    failed, boxes, count = {}, [], 0
    crop = config.train.crop if config.train.crop_from == "file" else 1.0
    anywhere = (config.train.window == "anywhere" or crop < 1) and hasattr(source, "fit")
    windows = config.seed if anywhere else None  # then each epoch has other pixels to decode
    workers = config.data.workers
    pixels = _room_for_all(source, records) if windows is None else None
    checked = Checked(checked_file())
    places = list(range(len(records)))
    if pixels is None and patches is None:
        places = _unread(source, records, checked)
    with progress("load", len(places)) as counter:
        wanted = [records[place] for place in places]
        for place, example in load_examples(source, wanted, workers=workers):
            counter.advance()
            record = wanted[place]
            try:
                if isinstance(example, DataError):
                    raise example
                if patches is not None:
                    boxes.append(
                        fitted_patches(
                            source,
                            example,
                            patches,
                            record.name,
                            config.focus.patches,
                            config.data.size,
                        )
                    )
            except DataError as error:
                failed[record.name] = str(error)
                continue
            checked.add(_files(source, record))
            if pixels is not None:
                pixels[count] = example.image
            count += 1
    checked.save()
    if pixels is None and patches is None:
        failed |= _failed_elsewhere(source, records, failed)
    good = [record for record in records if record.name not in failed]
    if config.data.attribute == ALL_ATTRIBUTES:
        labels = source.attributes_of(good)
    else:
        labels = np.array([record.label for record in good], np.int32)
    kept: Any = None
    if pixels is not None:
        kept = pixels[:count]
        if kept.nbytes <= ON_DEVICE * _free_memory():
            kept = jax.device_put(kept)
    stacked = np.stack(boxes) if boxes else None
    return TrainingImages(
        source, tuple(good), labels, kept, workers, stacked, windows, crop
    ), failed


def _room_for_all(source: Source, records: list[Record]) -> UInt8[np.ndarray, "n h w 3"] | None:
    """Return room for the pixels of all images; None where they would take too much memory of this
    process or of one that is connected with it, or none of them can be read."""
    loaded = load_examples(source, records, workers=1, ahead=1)
    shape = next((e.image.shape for _, e in loaded if isinstance(e, Example)), None)
    fits = shape is not None and len(records) * int(np.prod(shape)) <= _most_kept()
    if over_processes(np.array([not fits], np.float32))[0]:
        return None
    return np.empty((len(records), *(shape or ())), np.uint8)


def _most_kept() -> float:
    """Return bytes of decoded images that may be kept in the host's memory."""
    free = host_free_bytes()
    return UNKNOWN if free is None else IN_MEMORY * free


def _files(source: Any, record: Record) -> list[Path]:
    """Return the files that an image is made of; none where it is drawn."""
    if not hasattr(source, "file"):
        return []
    beside = source.beside(record) if hasattr(source, "beside") else []
    return [source.file(record), *beside]


def _unread(source: Source, records: list[Record], checked: Checked) -> list[int]:
    """Return places of the images that this process has to look at: those that no run has read
    before. Of connected processes each has its share of them, and whatever it does not have."""
    share = set(own_part(np.arange(len(records))).tolist())
    places = []
    for place, record in enumerate(records):
        files = _files(source, record)
        there = bool(files) and all(file.is_file() for file in files)
        if not there or (place in share and files not in checked):
            places.append(place)
    return places


def _failed_elsewhere(
    source: Source, records: list[Record], failed: dict[str, str]
) -> dict[str, str]:
    """Return the images that another one of the connected processes found it cannot read, and
    why this one cannot, either."""
    own = np.array([record.name in failed for record in records], np.float32)
    others = [records[place] for place in np.flatnonzero((over_processes(own) > 0) & (own == 0))]
    loaded = load_examples(source, others, workers=1)
    return {others[i].name: str(e) for i, e in loaded if isinstance(e, DataError)}


def _free_memory() -> float:
    """Return bytes free on an accelerator; a CPU device's memory is the host's: nothing to move
    to."""
    device = jax.local_devices()[0]
    return 0.0 if device.platform == "cpu" else float(free_bytes(device) or 0)
