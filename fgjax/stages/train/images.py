"""The training images of a run: decoded once where they fit, and kept on the device."""

import copy
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from fgjax.core.progress import progress
from fgjax.data.patch_table import PatchTable, fitted_patches
from fgjax.data.pipeline import load_examples, stack
from fgjax.data.sets.celeba import ALL_ATTRIBUTES
from fgjax.data.types import DataError, Example, Record, Source
from fgjax.options.schema import Config
from fgjax.training.classifier import Inputs

IN_MEMORY = 4 * 2**30
"""Bytes of decoded images that are kept; larger sets are decoded again every epoch."""
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

    Args:
      patches: of every image, where the network looks at patches.
    """
    failed, good, pixels, boxes = {}, [], None, []
    crop = config.train.crop if config.train.crop_from == "file" else 1.0
    anywhere = (config.train.window == "anywhere" or crop < 1) and hasattr(source, "fit")
    windows = config.seed if anywhere else None  # then each epoch has other pixels to decode
    workers = config.data.workers
    with progress("load", len(records)) as counter:
        for place, example in load_examples(source, records, workers=workers):
            counter.advance()
            name = records[place].name
            try:
                if isinstance(example, DataError):
                    raise example
                if patches is not None:
                    count = config.focus.patches
                    boxes.append(
                        fitted_patches(source, example, patches, name, count, config.data.size)
                    )
            except DataError as error:
                failed[name] = str(error)
                continue
            if (
                windows is None
                and pixels is None
                and len(records) * example.image.nbytes <= IN_MEMORY
            ):
                pixels = np.empty((len(records), *example.image.shape), np.uint8)
            if pixels is not None:
                pixels[len(good)] = example.image
            good.append(records[place])
    if config.data.attribute == ALL_ATTRIBUTES:
        labels = source.attributes_of(good)
    else:
        labels = np.array([record.label for record in good], np.int32)
    if pixels is not None:
        pixels = pixels[: len(good)]
        if pixels.nbytes <= ON_DEVICE * _free_memory():
            pixels = jax.device_put(pixels)
    stacked = np.stack(boxes) if boxes else None
    return TrainingImages(
        source, tuple(good), labels, pixels, workers, stacked, windows, crop
    ), failed


def _free_memory() -> float:
    """Return bytes free on an accelerator; a CPU device's memory is the host's: nothing to move
    to."""
    device = jax.local_devices()[0]
    about = device.memory_stats() if device.platform != "cpu" else None
    return about["bytes_limit"] - about["bytes_in_use"] if about else 0.0
