"""Drawn birds that several parts tell, as a data set: for the FunnyBirds protocol.

Half of the training images lack some of the telling parts, so that a bird without a crest is no
news to the classifier when the protocol asks it. Test images are whole, and something lies in the
background of each.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from fgjax.data.registry import DataSet
from fgjax.data.species.catalogue import PARTS
from fgjax.data.species.funny import (
    KINDS,
    TELLING,
    Subsets,
    Swaps,
    draw_kind,
    draw_subsets,
    draw_swaps,
)
from fgjax.data.species.scenes import Scene, sample_scene
from fgjax.data.species.source import check_size, split_and_index
from fgjax.data.types import SPLITS, DataError, Example, Record

STREAM = 11
"""Of the random numbers, so that no scene is one of the other drawn birds."""
TRIES = 1000


@dataclass(frozen=True)
class FunnySource:
    """A `Source` of twelve classes; image i of a split depends on (seed, split, i, size) only.

    Attributes:
      size: side of the images, pixels.
      train, test: how many images of each split.
      seed: another seed is another data set of the same classes.
      lacking: share of the training images that lack one to four of the telling parts.

    Raises:
      ValueError: a size, count or share that cannot be.
    """

    size: int = 96
    train: int = 3000
    test: int = 500
    seed: int = 0
    lacking: float = 0.5

    classes: ClassVar[tuple[str, ...]] = tuple(f"kind {i + 1:02d}" for i in range(len(KINDS)))
    landmark_names: ClassVar[tuple[str, ...]] = PARTS
    kinds: ClassVar[np.ndarray] = KINDS
    parts: ClassVar[tuple[str, ...]] = TELLING

    def __post_init__(self) -> None:
        check_size(self.size)
        for name in ("train", "test", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")
        if not 0 <= self.lacking <= 1:
            raise ValueError(f"lacking={self.lacking}: from 0 to 1")

    @cached_property
    def records(self) -> tuple[Record, ...]:
        return tuple(
            Record(f"{split}/{i:06d}", i % len(KINDS), split)
            for split, count in zip(SPLITS, (self.train, self.test), strict=True)
            for i in range(count)
        )

    def _scene(self, record: Record) -> tuple[Scene, np.random.Generator]:
        split, index = split_and_index(record.name)
        count = {"train": self.train, "test": self.test}[split]
        if index >= count:
            raise DataError(f"{record.name}: this set has {count} {split} images ({split}={count})")
        rng = np.random.default_rng([self.seed, STREAM + int(split == "test"), index])
        for _ in range(TRIES):
            scene = sample_scene(0, rng)
            if scene.distractors or split == "train":
                break
        return scene, rng

    def load(self, record: Record) -> Example:
        """Draw `record`. DataError: it is not one of this data set."""
        scene, rng = self._scene(record)
        without: tuple[str, ...] = ()
        if record.split == "train" and rng.random() < self.lacking:
            count = int(rng.integers(1, len(TELLING)))
            without = tuple(TELLING[i] for i in rng.permutation(len(TELLING))[:count])
        drawing = draw_kind(scene, record.label or 0, self.size, without)
        return Example(
            image=drawing.image,
            label=record.label,
            box=drawing.box,
            mask=drawing.mask,
            cue=None,
            landmarks=drawing.landmarks,
        )

    def subsets(self, record: Record) -> Subsets:
        """Return `record` without every subset of its telling parts, and without each loose part.

        Raises:
          DataError: it is not one of this data set.
        """
        return draw_subsets(self._scene(record)[0], record.label or 0, self.size)

    def swaps(self, record: Record) -> Swaps:
        """Return `record` with each part of every other class that differs in it.

        Raises:
          DataError: it is not one of this data set.
        """
        return draw_swaps(self._scene(record)[0], record.label or 0, self.size)


FUNNY = DataSet(
    "funny_species",
    FunnySource,
    "wanted: nothing, the images are drawn",
    options={"train": "data.train_images", "test": "data.test_images", "seed": "seed"},
    wants={},
    crops=False,
    order=11,
)
