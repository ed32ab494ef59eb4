"""Any folder of images, with or without class folders and masks."""

import hashlib
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from fgjax.core.progress import say
from fgjax.data.fit import Fit
from fgjax.data.images import read_fitted, read_mask
from fgjax.data.labels import class_key
from fgjax.data.pipeline import take
from fgjax.data.registry import DataSet
from fgjax.data.sets.folder_tree import (
    SUFFIXES,
    ImageFile,
    entries,
    find_images,
    is_split,
    split_of,
    usable,
)
from fgjax.data.types import DataError, Example, Record, Split


class FolderSource:
    """A folder of images as a data set.

    The folder holds one of:
    - class folders: each first-level folder is a class, its images are found at any
      depth. A folder without images is no class. Each class is split by a hash of
      its file names.
    - `train/` and `test/` (or `val/`), each with class folders: the split is theirs.
      Where both `test/` and `val/` are there, `val/` belongs to train and is marked as
      validation. Other names for them are known, in any case: `SPLIT_NAMES`. Their
      images may lie one folder deeper, in `train/images/`.
    - one folder that holds such a split, and nothing else: then that is read.
    - images and no class folders: no labels, no classes, all of them "test".
    - `images/` with any of these, and nothing else or `masks/` and `cues/` beside it: then
      `images/` is read, with those masks unless others are given.
    Or it is no folder but a single image.

    Images are files ending in jpg, jpeg, jfif, jpe, png, webp, bmp, tif, tiff, gif or, with
    the extra `heif`, heic and heif, in any case; hidden files and folders are ignored, all
    other files are counted (`left_out`). Links to folders are followed, each folder once. EXIF
    orientation is applied. Record names are the paths below the folder that was read, with "/".
    Class folders whose names differ only in case, or in how Unicode composes them, are one
    class, called as in train. An image whose name has control characters fails alone.

    Args:
      path: the folder.
      size, crop: how images are fitted, see `fgjax.data.images.Fit`.
      masks: a folder of object masks, `<masks>/<image path without suffix>.png`, of
        the image's (oriented) size; an image without one is not annotated.
      cues: a folder of masks of the part that tells the class, named and read as `masks`;
        an image without one has no known cue.
      test_share: share of each class that becomes "test". Below 1 a class with two
        images or more keeps at least one in train, and above 0 one in test; a single
        image trains. At 1 everything is test.
      seed: another seed, another split.
      limit: at most so many images of each split, spread evenly over the classes.

    Attributes:
      left_out: endings of visible files that are no images, and how many of each there are.
      drawn_split: whether `test_share` says which images are "test", not the folders.

    Raises:
      DataError: the folder is missing, a file, unreadable or without images; images
        lie beside class folders, or class folders beside those of a split; the name of
        a folder is not Unicode; the mask folder is missing or fits no image.
    """

    classes: tuple[str, ...]
    landmark_names: tuple[str, ...] = ()
    records: tuple[Record, ...]

    def __init__(
        self,
        path: str | Path,
        size: int = 224,
        crop: float = 0.875,
        masks: str | Path | None = None,
        test_share: float = 0.5,
        seed: int = 0,
        limit: int | None = None,
        cues: str | Path | None = None,
    ):
        if not 0 <= test_share <= 1:
            raise ValueError(f"test_share must lie in [0, 1], not {test_share}")
        self.fit = Fit(size, crop)
        self.left_out: Counter[str] = Counter()
        self.drawn_split = False
        path = Path(path)
        given = [None if folder is None else Path(folder) for folder in (masks, cues)]
        if path.is_file() and path.suffix.lower() in SUFFIXES:
            _check_masks(*given)
            self._root, (self._masks, self._cues) = path.parent, given
            files = [ImageFile(path.name, None, None)]
        else:
            self._root, self._masks, self._cues = _find_root(path, *given)
            files = find_images(self._root, (self._masks, self._cues), self.left_out)
        files, self._refused = _printable(self._root, files)
        if all(file.class_name is None for file in files):
            self.classes = ()
            records = [
                Record(file.name, None, file.split or "test", file.validation) for file in files
            ]
        else:
            _refuse_loose(self._root, files)
            files = _one_name_a_class(self._root, files)
            self.classes = tuple(sorted({file.class_name for file in files if file.class_name}))
            label: dict[str | None, int] = {name: i for i, name in enumerate(self.classes)}
            self.drawn_split = any(file.split is None for file in files)
            split = _hash_split(files, test_share, seed)
            records = [
                Record(
                    file.name,
                    label[file.class_name],
                    file.split or split[file.name],
                    file.validation,
                )
                for file in files
            ]
        for folder in (self._masks, self._cues):
            if folder and not any(_mask_file(folder, r).is_file() for r in records):
                raise DataError(
                    f"{folder}: no mask fits an image; the mask of {records[0].name} "
                    f"would be {_mask_file(folder, records[0])}"
                )
        self.records = take(records, limit)

    def file(self, record: Record) -> Path:
        """Return the image file of a record."""
        return self._root / record.name

    def beside(self, record: Record) -> list[Path]:
        """Return the files of a record's masks, those that are there."""
        files = [_mask_file(f, record) for f in (self._masks, self._cues) if f is not None]
        return [file for file in files if file.exists()]

    def load(self, record: Record) -> Example:
        """Decode and fits one image, and its masks where there are some."""
        if record.name in self._refused:
            raise DataError(self._refused[record.name])
        image, shape = read_fitted(self.file(record), self.fit, orient=True)
        mask, cue = (self._mask(folder, record, shape) for folder in (self._masks, self._cues))
        return Example(image=image, label=record.label, mask=mask, cue=cue, shape=shape)

    def _mask(
        self, folder: Path | None, record: Record, shape: tuple[int, int]
    ) -> Bool[np.ndarray, "h w"] | None:
        if folder is None or not (file := _mask_file(folder, record)).exists():
            return None
        return self.fit.mask(read_mask(file, shape))


def _mask_file(folder: Path, record: Record) -> Path:
    return (folder / record.name).with_suffix(".png")


ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z")
CUB_FILES = ("images.txt", "image_class_labels.txt")


def _check_masks(masks: Path | None, cues: Path | None) -> None:
    for given, what in ((masks, "masks"), (cues, "masks of cues")):
        if given is not None and not given.is_dir():
            raise DataError(f"{given}: no such folder of {what}")


def _find_root(
    path: Path, masks: Path | None, cues: Path | None
) -> tuple[Path, Path | None, Path | None]:
    """Return the folder of the images, that of their masks, and that of masks of cues."""
    wanted = "wanted: a folder of images or of class folders with images"
    if not path.exists():
        raise DataError(f"{path}: no such folder; {wanted}")
    if not path.is_dir():
        unpack = " (an archive? unpack it first)" if path.suffix.lower() in ARCHIVES else ""
        raise DataError(f"{path}: is a file, and no image{unpack}; {wanted}")
    _check_masks(masks, cues)
    if all((path / name).is_file() for name in CUB_FILES):
        raise DataError(
            f"{path}: is CUB-200-2011 as its authors ship it: config=fido_cub reads it, or "
            "data.source=cub"
        )
    folders, files = entries(path)
    if "images" in folders and set(folders) <= {"images", "masks", "cues"} and not files:
        if masks is None and "masks" in folders:
            masks = path / "masks"
        if cues is None and "cues" in folders:
            cues = path / "cues"
        path = path / "images"
        folders, files = entries(path)
    if len(folders) == 1 and not files and split_of(folders[0]) is None:
        inner = path / folders[0]
        names, loose = entries(inner)
        if len(names) > 1 and not loose and all(map(split_of, names)) and is_split(names):
            return inner, masks, cues
    return path, masks, cues


def _printable(root: Path, files: list[ImageFile]) -> tuple[list[ImageFile], dict[str, str]]:
    """Return the files under names that can be written everywhere, and why some cannot be used
    (name -> reason)."""
    named, refused = [], {}
    for file in files:
        if not usable(file.name):
            shown = ascii(file.name)[1:-1]
            refused[shown] = f"{root}: the name {shown} has unprintable characters; rename it"
            file = file._replace(name=shown)
        named.append(file)
    return named, refused


def _one_name_a_class(root: Path, files: list[ImageFile]) -> list[ImageFile]:
    """Return the files with one name for class folders that are the same class."""
    names: dict[str, list[str]] = defaultdict(list)
    for file in sorted(files, key=lambda file: (file.split == "test", file.validation)):
        assert file.class_name is not None
        spellings = names[class_key(file.class_name)]
        if file.class_name not in spellings:
            spellings.append(file.class_name)
    for spellings in names.values():
        if len(spellings) > 1:
            same = ", ".join(ascii(name) for name in spellings)
            say(f"{root}: the folders {same} differ only in how they are written: one class")
    return [
        file._replace(
            class_name=unicodedata.normalize("NFC", names[class_key(file.class_name or "")][0])
        )
        for file in files
    ]


def _refuse_loose(root: Path, files: list[ImageFile]) -> None:
    loose = [file.name for file in files if file.class_name is None]
    if loose:
        names = ", ".join(loose[:3]) + (", …" if len(loose) > 3 else "")
        raise DataError(
            f"{root}: {len(loose)} images lie beside the class folders, in none of them ({names}); "
            "move them into a class folder or away"
        )


def _hash_split(files: list[ImageFile], test_share: float, seed: int) -> dict[str, Split]:
    by_class: dict[str | None, list[str]] = defaultdict(list)
    for file in files:
        by_class[file.class_name].append(file.name)
    split: dict[str, Split] = {}
    for names in by_class.values():
        names.sort(key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
        tests = int(test_share * len(names) + 0.5)
        if 0 < test_share < 1:
            tests = min(max(tests, 1), len(names) - 1)
        for rank, name in enumerate(names):
            split[name] = "test" if rank < tests else "train"
    return split


FOLDER = DataSet(
    "folder",
    FolderSource,
    "wanted: a folder of class folders of images, or a flat one of images",
    options={
        "masks": "data.masks",
        "cues": "data.cues",
        "test_share": "data.test_share",
        "seed": "seed",
    },
    order=20,
)
