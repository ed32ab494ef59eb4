"""Drawn birds that several parts tell: a class is a choice of crest, patch, tail tip, beak, legs.

All classes share body, head, wing, tail and eye. No part alone tells a class: each look is shared
with another. Every look is that of a species of the catalogue, so that the loose parts in the
background are looks of these birds, too.

    scene = sample_scene(label=0, rng=np.random.default_rng(7))
    birds = draw_subsets(scene, kind=4, size=96)
    birds.images[0b101]     # without the first and the third of TELLING
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int, UInt8

from fgjax.data.species.catalogue import PARTS
from fgjax.data.species.scenes import Scene
from fgjax.data.species.source import Drawing, draw

TELLING = ("crest", "wing_patch", "tail_tip", "beak", "legs")
"""The parts that tell a class, in the order of `KINDS`."""

KINDS = np.array(
    [
        [2, 3, 5, 8, 5],
        [1, 4, 6, 8, 3],
        [2, 4, 5, 0, 0],
        [1, 3, 7, 0, 8],
        [2, 3, 6, 0, 8],
        [2, 4, 7, 0, 5],
        [0, 4, 7, 8, 5],
        [1, 3, 5, 8, 3],
        [1, 4, 7, 0, 8],
        [0, 3, 5, 8, 0],
        [0, 4, 7, 8, 3],
        [1, 3, 5, 0, 3],
    ]
)
"""Class -> the species (its label) whose look each part of `TELLING` has."""


@dataclass(frozen=True)
class Subsets:
    """A bird drawn without every subset of its telling parts, and without each loose part.

    Attributes:
      images: number Σ 2^i over the parts i of `TELLING` that are left out; 0 is the whole bird.
      masks: where each of `TELLING` is seen in the whole bird.
      without_things: the whole bird with one loose part of the background away.
      things: where each of those is seen, but for edges that change no pixel.
    """

    images: UInt8[np.ndarray, "subsets h w 3"]
    masks: Bool[np.ndarray, "parts h w"]
    without_things: UInt8[np.ndarray, "things h w 3"]
    things: Bool[np.ndarray, "things h w"]


@dataclass(frozen=True)
class Swaps:
    """A bird drawn with one part of another class in place of its own, once for every other look.

    Attributes:
      images: the drawings.
      parts: which of `TELLING` was swapped in each.
      donors: which classes have the look that it took.
    """

    images: UInt8[np.ndarray, "swaps h w 3"]
    parts: Int[np.ndarray, "swaps"]
    donors: Bool[np.ndarray, "swaps k"]


def draw_kind(scene: Scene, kind: int, size: int = 96, without: tuple[str, ...] = ()) -> Drawing:
    """Draw the class `kind` in `scene`, whose own species is not looked at, with nothing in front.

    Raises:
      ValueError: no such class, size or part.
    """
    if not 0 <= kind < len(KINDS):
        raise ValueError(f"kind={kind}: the classes are 0 to {len(KINDS) - 1}")
    return _draw(scene, KINDS[kind].tolist(), size, without)


def _draw(scene: Scene, looks: list[int], size: int, without: tuple[str, ...] = ()) -> Drawing:
    """Draw a bird whose parts look like those of these species."""
    swap = dict(zip(TELLING, looks, strict=True))
    return draw(replace(scene, label=0, occluders=()), size, without=without, swap=swap)


def draw_swaps(scene: Scene, kind: int, size: int = 96) -> Swaps:
    """Draw the class `kind` in `scene` with each part of every other class that differs in it.

    Classes that share a part's look share the drawing.
    """
    images, parts, donors = [], [], []
    for i in range(len(TELLING)):
        for look in np.unique(KINDS[:, i]).tolist():
            if look == KINDS[kind, i]:
                continue
            looks = KINDS[kind].tolist()
            looks[i] = look
            images.append(_draw(scene, looks, size).image)
            parts.append(i)
            donors.append(KINDS[:, i] == look)
    return Swaps(np.stack(images), np.array(parts), np.stack(donors))


def draw_subsets(scene: Scene, kind: int, size: int = 96) -> Subsets:
    """Draw the class `kind` in `scene` without every subset of `TELLING`: 32 drawings and a few."""
    whole = draw_kind(scene, kind, size)
    images = [whole.image]
    for number in range(1, 2 ** len(TELLING)):
        away = tuple(part for i, part in enumerate(TELLING) if number >> i & 1)
        images.append(draw_kind(scene, kind, size, away).image)
    loose = scene.distractors
    fewer = [replace(scene, distractors=loose[:i] + loose[i + 1 :]) for i in range(len(loose))]
    without = np.zeros((len(loose), size, size, 3), np.uint8)
    for i, other in enumerate(fewer):
        without[i] = draw_kind(other, kind, size).image
    numbers = np.array([1 + PARTS.index(part) for part in TELLING], np.uint8)
    return Subsets(
        np.stack(images),
        whole.part_map == numbers[:, None, None],
        without,
        (without != whole.image).any(-1),
    )
