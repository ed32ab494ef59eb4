"""What a data set is: a list of records, and a way to load one of them.

A `Record` is what the index files say; nothing is decoded. An `Example` is one
record decoded and fitted to the model's input, every annotation moved along.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, UInt8

Split = Literal["train", "test"]
SPLITS: tuple[Split, Split] = ("train", "test")


class DataError(ValueError):
    """Data that cannot be used. The message says which file and what to do."""


@dataclass(frozen=True)
class Record:
    """One image of a data set, as its index describes it.

    Attributes:
      name: unique in the data set and stable between runs, e.g. `species/0001.jpg`.
      label: index into `Source.classes`, or None when the set has no labels.
      split: "train" or "test".
      validation: of those that train, whether the set's authors mean it for validation.
    """

    name: str
    label: int | None
    split: Split
    validation: bool = False


@dataclass(frozen=True)
class Example:
    """One decoded image, fitted to the model's input, with what is known of it.

    Attributes:
      image: RGB.
      label: class index or None.
      box: x0, y0, x1, y1 in pixels of `image` (x to the right, y down; x1 and y1
        are exclusive edges); clipped to the image. None: not annotated, or wholly
        outside the crop.
      mask: True on the object. None: not annotated.
      cue: True on the part that tells the class from its siblings. None: unknown.
      landmarks: x, y, visible (0 or 1) for each part. None: not annotated.
      cut: left, top, and the whole height and width, where the image is only a part that was cut
        out of the file's before it was fitted; `shape` is then that part's.
      shape: height and width of the decoded image before it was fitted (by the source's `fit`),
        by which boxes in its pixels can be moved along. None: drawn, nothing was fitted.
      part_map: 1 + the number of the part (of the source's `landmark_names`) seen in each pixel,
        0 on none. None: not annotated.
    """

    image: UInt8[np.ndarray, "h w 3"]
    label: int | None = None
    box: Float[np.ndarray, "4"] | None = None
    mask: Bool[np.ndarray, "h w"] | None = None
    cue: Bool[np.ndarray, "h w"] | None = None
    landmarks: Float[np.ndarray, "parts 3"] | None = None
    shape: tuple[int, int] | None = None
    cut: tuple[int, int, int, int] | None = None
    part_map: UInt8[np.ndarray, "h w"] | None = None


@runtime_checkable
class Source(Protocol):
    """A data set: classes, records, and `load`.

    `load(record)` decodes one record; it raises `DataError` naming the file when
    the file cannot be used. It is safe to call from several threads.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty: there are no labels."""
        ...

    @property
    def landmark_names(self) -> tuple[str, ...]:
        """The names of the landmarks."""
        ...

    @property
    def records(self) -> tuple[Record, ...]:
        """What the index says of each image."""
        ...

    def load(self, record: Record) -> Example: ...
