"""FunnyBirds in its official layout: rendered birds, and each again without its parts.

Hesse, Schaub-Meyer, Roth: FunnyBirds: A Synthetic Vision Dataset for a Part-Based Analysis of
Explainable AI Methods, ICCV 2023.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from fgjax.data.fit import Fit
from fgjax.data.images import read_image
from fgjax.data.index import find_root
from fgjax.data.labels import read_text
from fgjax.data.registry import DataSet
from fgjax.data.species.funny import Subsets
from fgjax.data.types import SPLITS, DataError, Example, Record

HOME = (
    "wanted: the folder FunnyBirds (the one with classes.json) or the one above it; get it as "
    "https://github.com/visinf/funnybirds-framework says"
)
COLOURS = {
    "eye": ((255, 255, 253), (255, 255, 254)),
    "beak": ((255, 255, 0),),
    "foot": ((255, 0, 1), (255, 0, 2)),
    "wing": ((0, 255, 1), (0, 255, 2)),
    "tail": ((0, 0, 255),),
}
"""Of each part in the part maps."""
THING = 204
"""Thing i of the background is (204, 204, 204 + i) there."""


class FunnyBirdsSource:
    """50 classes that five parts tell together, with official split and part maps.

    Read is

        classes.json                                   class_idx; which variant of each part
        parts.json                                     the parts, and their variants
        dataset_train.json, dataset_test.json          class_idx and bg_objects of each image
        train/<class>/<number>.png, test/…             the images, six digits, counted from 0
        test_part_map/<class>/<number>.png             which part or thing each pixel shows
        test_interventions/<class>/<number>/body_<parts that are left>.png
        test_interventions/<class>/<number>/background_interventions/<thing>.png

    The last three are needed for the FunnyBirds protocol only (`subsets`). The object's mask is
    that of the five parts, without the body, where there is a part map. Record names are the
    images' paths.

    Args:
      path: the folder.
      size, crop: how images are fitted, see `fgjax.data.images.Fit`.

    Raises:
      DataError: the folder or an index file is missing or damaged, a class is unknown, a class
        lacks a part, or a part is none of the five.
    """

    classes: tuple[str, ...]
    landmark_names: tuple[str, ...] = ()
    records: tuple[Record, ...]
    parts: tuple[str, ...]
    kinds: Int[np.ndarray, "k p"]
    """Class -> the variant of each part."""

    def __init__(self, path: str | Path, size: int = 224, crop: float = 0.875):
        self.fit = Fit(size, crop)
        self._root = find_root(path, HOME, "classes.json", "FunnyBirds")
        self.parts, self.classes, self.kinds = _read_classes(self._root)
        self._things: dict[str, int] = {}
        records = []
        for split in SPLITS:
            file = self._root / f"dataset_{split}.json"
            for i, about in enumerate(_read_json(file, list)):
                label = about.get("class_idx") if isinstance(about, dict) else None
                if not isinstance(label, int) or not 0 <= label < len(self.classes):
                    raise DataError(
                        f"{file}: image {i} is of class {label!r}; classes.json has 0 to "
                        f"{len(self.classes) - 1}"
                    )
                name = f"{split}/{label}/{i:06d}.png"
                self._things[name] = len(re.findall(r"\d+", str(about.get("bg_objects", ""))))
                records.append(Record(name, label, split))
        self.records = tuple(records)

    def file(self, record: Record) -> Path:
        """Return the image file of a record."""
        return self._root / record.name

    def load(self, record: Record) -> Example:
        """Decode and fit one image; its mask where there is a part map."""
        image = read_image(self.file(record))
        mask = None
        if self._part_map(record).is_file():
            seen = np.any(self._masks(record, image.shape[:2])[: len(self.parts)], axis=0)
            mask = self.fit.mask(seen)
        return Example(
            self.fit.image(image), record.label, mask=mask, shape=(image.shape[0], image.shape[1])
        )

    def subsets(self, record: Record) -> Subsets:
        """Return a test image without every subset of its parts, and without each thing.

        Raises:
          DataError: it is none, or a file of the interventions or the part map is missing.
        """
        if record.split != "test":
            raise DataError(f"{record.name}: only test images are there without their parts")
        image = read_image(self.file(record))
        folder = self._root / "test_interventions" / record.name.partition("/")[2][: -len(".png")]
        images = [self.fit.image(image)]
        for number in range(1, 2 ** len(self.parts)):
            left = sorted(p for i, p in enumerate(self.parts) if not number >> i & 1)
            images.append(self._redrawn(folder / f"body_{'_'.join(left)}.png", image))
        background = folder / "background_interventions"
        things = range(self._things[record.name])
        without = [self._redrawn(background / f"{i}.png", image) for i in things]
        masks = [self.fit.mask(mask) for mask in self._masks(record, image.shape[:2])]
        size, parts = images[0].shape, len(self.parts)
        return Subsets(
            np.stack(images),
            np.stack(masks[:parts]),
            np.array(without, np.uint8).reshape(-1, *size),
            np.array(masks[parts:], bool).reshape(-1, *size[:2]),
        )

    def _redrawn(self, file: Path, image: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
        found = read_image(file)
        if found.shape != image.shape:
            raise DataError(f"{file}: another size than its image, {found.shape[1::-1]}")
        return self.fit.image(found)

    def _part_map(self, record: Record) -> Path:
        split, _, rest = record.name.partition("/")
        return self._root / f"{split}_part_map" / rest

    def _masks(self, record: Record, shape: tuple[int, ...]) -> list[Bool[np.ndarray, "h w"]]:
        """Return where each part is seen, then where each thing is."""
        file = self._part_map(record)
        colours = read_image(file).astype(np.int32)
        if colours.shape[:2] != shape:
            raise DataError(f"{file}: another size than its image, {colours.shape[1::-1]}")
        code = colours @ np.array([1 << 16, 1 << 8, 1])
        things = [((THING, THING, THING + i),) for i in range(self._things[record.name])]
        wanted = [*(COLOURS[part] for part in self.parts), *things]
        return [np.isin(code, [(r << 16) + (g << 8) + b for r, g, b in own]) for own in wanted]


def _read_classes(root: Path) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray]:
    """Return the parts, the classes' names, and the variant of each part of each class."""
    file = root / "classes.json"
    parts = tuple(_read_json(root / "parts.json", dict))
    if not parts or not set(parts) <= set(COLOURS):
        raise DataError(
            f"{root / 'parts.json'}: has the parts {', '.join(parts) or 'of nothing'}; known are "
            f"{', '.join(COLOURS)}; {HOME}"
        )
    about = _read_json(file, list)
    try:
        about = sorted(about, key=lambda one: one["class_idx"])
        numbers = [one["class_idx"] for one in about]
        kinds = np.array([[int(one["parts"][part]) for part in parts] for one in about])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{file}: each class has a class_idx, and in parts a number for each of "
            f"{', '.join(parts)} ({type(error).__name__}: {error}); {HOME}"
        ) from None
    if numbers != list(range(len(numbers))) or not numbers:
        raise DataError(f"{file}: its class_idx are not 0 to {len(numbers) - 1}; {HOME}")
    return parts, tuple(f"{number:02d}" for number in numbers), kinds


def _read_json(file: Path, kind: type) -> Any:
    if not file.is_file():
        raise DataError(f"{file}: this index file of the set is missing; {HOME}")
    try:
        held = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: is no whole JSON file ({error}); get it again") from None
    if not isinstance(held, kind):
        raise DataError(f"{file}: should hold a {kind.__name__}; {HOME}")
    return held


FUNNYBIRDS = DataSet("funnybirds", FunnyBirdsSource, HOME, order=35)
