"""Imaginary birds: a fine-grained data set that is drawn, so that everything is known of it.

Four families differ in several parts. The two or three siblings of a family differ in
exactly one small part, the *cue*: a crest, a wing patch, a tail tip or a beak. What
explains a decision between siblings is therefore known to the pixel, and a scene can be
drawn again with any part left out or taken from another species.

    scene = sample_scene(label=0, rng=np.random.default_rng(7))
    drawing = draw(scene, size=96)
    plain = draw(scene, size=96, without="crest")
    other = draw(scene, size=96, swap={"crest": "Reedwing/fan-crested"})

Pose, flip, scale (0.4 to 1 of the largest that fits), place, light, background, leaves and
twigs in front, and loose cue parts lying in the background are drawn from the same
distribution for every class: `sample_scene` does not look at the label (but for close-ups).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, UInt8

from fgjax.data.registry import DataSet
from fgjax.data.species.catalogue import (
    CLASSES,
    PARTS,
    SPECIES,
    Species,
    species_named,
)
from fgjax.data.species.drawing import (
    Look,
    paint,
    paint_texture,
)
from fgjax.data.species.scenes import (
    BACKGROUNDS,
    TEXTURES,
    Scene,
    sample_scene,
)
from fgjax.data.types import SPLITS, DataError, Example, Record, Split

__all__ = [
    "BACKGROUNDS", "CLASSES", "PARTS", "SPECIES", "TEXTURES", "Drawing", "Scene", "Species",
    "SpeciesSource", "WithoutParts", "draw", "draw_without_parts", "sample_scene", "species_named",
]  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """A scene on the pixel grid, with all that is known of it.

    Attributes:
      image: RGB.
      label: index into CLASSES, of the scene's species (also when parts are swapped).
      part_map: 1 + index into PARTS of the part seen in each pixel (half covered counts),
        0 where there is none: background, loose parts, leaves.
      mask: part_map > 0.
      cue: where the scene's cue part is seen.
      box: x0, y0, x1, y1 around the mask, exclusive ends; None when nothing is visible.
      landmarks: x, y, visible per part of PARTS; pixels (the middle of the first pixel lies
        at 0.5); all 0 for a part the animal has not; visible 0 for a covered one.
    """

    image: UInt8[np.ndarray, "h w 3"]
    label: int
    part_map: UInt8[np.ndarray, "h w"]
    mask: Bool[np.ndarray, "h w"]
    cue: Bool[np.ndarray, "h w"]
    box: Float[np.ndarray, "4"] | None
    landmarks: Float[np.ndarray, "parts 3"]


def draw(
    scene: Scene,
    size: int = 96,
    *,
    without: str | tuple[str, ...] = (),
    swap: Mapping[str, str | int] | None = None,
) -> Drawing:
    """Draw `scene` on `size` x `size` pixels.

    Args:
      scene: what to draw.
      size: pixels, 32 to 1024.
      without: parts left out: what lies behind them is seen.
      swap: part -> the species (title or label) whose look it takes; a species without that
        part takes it away. All pixels outside the changed part stay the same.

    Raises:
      ValueError: no such size, part or species.
    """
    check_size(size)
    looks = _looks(scene, without, swap or {})
    rng = np.random.default_rng(scene.seed)
    image = paint_texture(TEXTURES[scene.background], rng, size)
    for loose in scene.distractors:
        species = SPECIES[loose.label]
        paint(image, species.looks[species.cue], loose.frame)

    part_map = np.zeros((size, size), np.uint8)
    for number, part in enumerate(PARTS, start=1):
        if part in looks:
            window, coverage = paint(image, looks[part], scene.part_frame(part))
            part_map[window][coverage >= 0.5] = number
    for occluder in scene.occluders:
        window, coverage = paint(image, occluder.look, occluder.frame)
        part_map[window][coverage >= 0.5] = 0

    mask = part_map > 0
    return Drawing(
        image=_expose(image, scene, rng),
        label=scene.label,
        part_map=part_map,
        mask=mask,
        cue=part_map == 1 + PARTS.index(SPECIES[scene.label].cue),
        box=_tight_box(mask),
        landmarks=_landmarks(scene, looks, part_map),
    )


def check_size(size: int) -> None:
    """Raise ValueError for a side that nothing is drawn at."""
    if not 32 <= size <= 1024:
        raise ValueError(f"size={size}: images are 32 to 1024 pixels wide")


def _looks(
    scene: Scene, without: str | tuple[str, ...], swap: Mapping[str, str | int]
) -> dict[str, Look]:
    without = (without,) if isinstance(without, str) else without
    for part in (*without, *swap):
        if part not in PARTS:
            raise ValueError(f"no part {part!r}: a bird has {PARTS}")
    looks = dict(SPECIES[scene.label].looks)
    for part, name in swap.items():
        looks.pop(part, None)
        donor = species_named(name).looks
        if part in donor:
            looks[part] = donor[part]
    return {part: look for part, look in looks.items() if part not in without}


def _expose(
    image: Float[np.ndarray, "h h 3"], scene: Scene, rng: np.random.Generator
) -> UInt8[np.ndarray, "h h 3"]:
    """Light and sensor noise: the same factor and offset whatever was painted."""
    size = image.shape[0]
    across = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    light = scene.brightness + scene.gradient[0] * across + scene.gradient[1] * across[:, None]
    image *= light[..., None] * (255 * np.array(scene.tint, np.float32))
    image += rng.standard_normal(image.shape, np.float32) * 4 + 0.5
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


def _tight_box(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "4"] | None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _landmarks(
    scene: Scene, looks: dict[str, Look], part_map: UInt8[np.ndarray, "h h"]
) -> Float[np.ndarray, "parts 3"]:
    size, result = part_map.shape[0], np.zeros((len(PARTS), 3), np.float32)
    for i, part in enumerate(PARTS):
        if part in looks:
            x, y = (size * v for v in scene.part_frame(part).place_point(looks[part].anchor))
            inside = 0 <= x < size and 0 <= y < size
            result[i] = x, y, inside and part_map[int(y), int(x)] == i + 1
    return result


@dataclass(frozen=True)
class WithoutParts:
    """A scene drawn again and again, each time with one part of PARTS away.

    Attributes:
      images: the scene without that part's look: what lies behind it is seen, and what hangs
        on it (an eye on a head) stays. The scene itself where the animal has not the part.
      masks: where the part is seen in the scene.
      present: the part is seen, in a pixel at least.
    """

    images: UInt8[np.ndarray, "parts h w 3"]
    masks: Bool[np.ndarray, "parts h w"]
    present: Bool[np.ndarray, "parts"]


def draw_without_parts(scene: Scene, size: int = 96) -> WithoutParts:
    """`scene` without each of its parts in turn. ValueError: no such size."""
    whole = draw(scene, size)
    looks = SPECIES[scene.label].looks
    images = [draw(scene, size, without=p).image if p in looks else whole.image for p in PARTS]
    masks = whole.part_map == np.arange(1, len(PARTS) + 1, dtype=np.uint8)[:, None, None]
    return WithoutParts(np.stack(images), masks, masks.any((1, 2)))


@dataclass(frozen=True)
class SpeciesSource:
    """A `Source` of drawn birds; image i of a split depends on (seed, split, i, size) only.

    Labels go round: image i is of class i mod 10.

    Attributes:
      size: side of the images, pixels.
      train, test: how many images of each split.
      seed: another seed is another data set of the same classes.
      background_follows_class: in the training split class k always stands before
        `BACKGROUNDS[k]`, a shortcut to learn; the test split stays as it is.
      follow_share: of the training images this share only does so, chosen at random; the others
        contradict it: they stand before another class's background. A tenth: no background
        tells anything of the class.
      close_up: birds fill about a third of the image, not an eighth, see `sample_scene`.

    Raises:
      ValueError: a size or count that cannot be.
    """

    size: int = 96
    train: int = 3000
    test: int = 500
    seed: int = 0
    background_follows_class: bool = False
    follow_share: float = 1.0
    close_up: bool = False

    classes: ClassVar[tuple[str, ...]] = CLASSES
    landmark_names: ClassVar[tuple[str, ...]] = PARTS
    families: ClassVar[tuple[str, ...]] = tuple(species.family for species in SPECIES)
    levels: ClassVar[dict[str, tuple[str, ...]]] = {"family": families}

    def __post_init__(self) -> None:
        check_size(self.size)
        for name in ("train", "test", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")
        if not 0 <= self.follow_share <= 1:
            raise ValueError(f"follow_share={self.follow_share}: from 0 to 1")

    @cached_property
    def records(self) -> tuple[Record, ...]:
        return tuple(
            Record(f"{split}/{i:06d}", i % len(SPECIES), split)
            for split, count in zip(SPLITS, (self.train, self.test), strict=True)
            for i in range(count)
        )

    def scene(self, record: Record) -> Scene:
        """Return the scene of `record`. DataError: it is not one of this data set."""
        split, index = split_and_index(record.name)
        count = {"train": self.train, "test": self.test}[split]
        if index >= count:
            raise DataError(f"{record.name}: this set has {count} {split} images ({split}={count})")
        label = index % len(SPECIES)
        follows = self.background_follows_class and split == "train"
        rng = np.random.default_rng([self.seed, int(split == "test"), index])
        background = self._background(index) if follows else None
        return sample_scene(label, rng, background=background, close_up=self.close_up)

    def _background(self, index: int) -> str:
        """Return where a training image stands; by a draw of its own: the rest stays as it is."""
        rng, label = np.random.default_rng([self.seed, 2, index]), index % len(SPECIES)
        if rng.random() < self.follow_share:
            return BACKGROUNDS[label]
        return BACKGROUNDS[(label + rng.integers(1, len(BACKGROUNDS))) % len(BACKGROUNDS)]

    def load(self, record: Record) -> Example:
        """Draw `record`. DataError: it is not one of this data set."""
        drawing = draw(self.scene(record), self.size)
        return Example(
            image=drawing.image,
            label=drawing.label,
            box=drawing.box,
            mask=drawing.mask,
            cue=drawing.cue,
            landmarks=drawing.landmarks,
            part_map=drawing.part_map,
        )

    def without_parts(self, record: Record) -> WithoutParts:
        """`record` drawn without each of its parts. DataError: it is not one of this data set."""
        return draw_without_parts(self.scene(record), self.size)


def split_and_index(name: str) -> tuple[Split, int]:
    """Return what the name of a drawing says. DataError: it is none."""
    split, _, number = name.partition("/")
    if split not in ("train", "test") or not number.isdecimal():
        raise DataError(f"{name!r} is no record of the drawn birds: they are called test/000012")
    return ("train" if split == "train" else "test"), int(number)


DRAWN = DataSet(
    "species",
    SpeciesSource,
    "wanted: nothing, the images are drawn",
    options={
        "train": "data.train_images",
        "test": "data.test_images",
        "seed": "seed",
        "background_follows_class": "data.shortcut",
        "follow_share": "data.shortcut_share",
        "close_up": "data.close_up",
    },
    wants={},
    crops=False,
    order=10,
)
