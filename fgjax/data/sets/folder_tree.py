"""Which images lie in a folder, and what its folders say of them: classes, and splits."""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fgjax.data.types import DataError, Split

SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff",
                      ".gif", ".heic", ".heif"})  # fmt: skip


SPLIT_NAMES = {
    "train": ("train", "training", "trn"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst"),
}
"""What folders of a split are called, in any case."""

UNUSABLE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories that no table and no line of text can show: control characters, bytes that
are no Unicode (they come as lone surrogates), line ends."""


class ImageFile(NamedTuple):
    """An image file: its name below the root, and what its folders say of it."""

    name: str
    class_name: str | None
    split: Split | None
    validation: bool = False


def split_of(name: str) -> str | None:
    """Return which split a folder of this name holds: a key of `SPLIT_NAMES`; None: none."""
    lower = name.casefold().strip()
    return next((split for split, names in SPLIT_NAMES.items() if lower in names), None)


def is_split(names: list[str]) -> bool:
    """Return whether folders of these names say train and what is held out, not classes."""
    kinds = {split_of(name) for name in names} - {None}
    return "train" in kinds and len(kinds) > 1


def find_images(
    root: Path, masks: tuple[Path | None, ...], left_out: Counter[str]
) -> list[ImageFile]:
    """Return the image files of a folder; count the others in `left_out`."""
    seen = {_identity(folder) for folder in (root, *masks) if folder is not None}
    names, loose = entries(root, left_out)
    folders = [name for name in names if _identity(root / name) not in seen]
    files = [ImageFile(name, None, None) for name in loose]
    others = [name for name in folders if split_of(name) is None]
    if is_split(folders):
        others = [name for name in others if any(_walk(root, name, {*seen}))]
        if others:
            raise DataError(
                f"{root}: {', '.join(others[:3])}{', …' if len(others) > 3 else ''} beside the "
                f"folders of a split ({', '.join(name for name in folders if split_of(name))}): "
                "move the first away, or, if all of them are classes, rename those of the split"
            )
    if folders and not others:
        kinds = {split_of(name) for name in folders}
        for name in folders:
            # Beside a test folder, val trains: what is reported comes from test alone.
            kind = split_of(name)
            is_test = kind == "test" or (kind == "validation" and "test" not in kinds)
            split: Split = "test" if is_test else "train"
            validation = kind == "validation" and not is_test
            folder = _images_of(root, name)
            if folder != name:
                entries(root / name, left_out)
            class_folders, flat = entries(root / folder, left_out)
            files += [ImageFile(f"{folder}/{image}", None, split, validation) for image in flat]
            for class_name in class_folders:
                found = _walk(root, f"{folder}/{class_name}", {*seen}, left_out)
                files += [ImageFile(image, class_name, split, validation) for image in found]
    else:
        for class_name in folders:
            images = _walk(root, class_name, {*seen}, left_out)
            files += [ImageFile(image, class_name, None) for image in images]
    if not files:
        raise DataError(
            f"{root}: holds no images; wanted: a folder of images or of class folders "
            f"with images ({' '.join(sorted(SUFFIXES))})"
            + (f"; it holds {count_words(left_out)}" if left_out else "")
        )
    return sorted(files)


def count_words(left_out: Counter[str]) -> str:
    """Return "3 .cr2, 1 .txt": the most frequent endings first."""
    some = left_out.most_common(5)
    rest = left_out.total() - sum(count for _, count in some)
    words = [f"{count} {ending or 'without an ending'}" for ending, count in some]
    return ", ".join(words + ([f"{rest} others"] if rest else []))


def _images_of(root: Path, folder: str) -> str:
    """Return `folder`, or `folder/images` where its images are in there and nowhere else in it."""
    names, loose = entries(root / folder)
    if "images" in names and not loose:
        rest = [name for name in names if name != "images"]
        if not any(any(_walk(root, f"{folder}/{name}", set())) for name in rest):
            return f"{folder}/images"
    return folder


def _walk(
    root: Path,
    folder: str,
    seen: set[tuple[int, int]],
    left_out: Counter[str] | None = None,
) -> Iterator[str]:
    """Yield names of all images below a folder, each real folder once: links may form loops."""
    identity = _identity(root / folder)
    if identity in seen:
        return
    seen.add(identity)
    folders, images = entries(root / folder, left_out)
    for image in images:
        yield f"{folder}/{image}"
    for name in folders:
        yield from _walk(root, f"{folder}/{name}", seen, left_out)


def entries(folder: Path, left_out: Counter[str] | None = None) -> tuple[list[str], list[str]]:
    """Return the sorted names of the visible folders and of the visible image files in a folder;
    other visible files are counted by their endings."""
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: the folder may not be read ({error.strerror})") from error
    folders = [path.name for path in paths if path.is_dir()]
    images = [path.name for path in paths if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    if left_out is not None:
        others = {path.name for path in paths} - {*folders, *images}
        left_out.update(Path(name).suffix.lower() for name in sorted(others))
    for name in folders:
        if not usable(name):
            raise DataError(f"{folder}: the name {name!a} has unprintable characters; rename it")
    return folders, images


def usable(name: str) -> bool:
    """Return whether a name can be shown in a table and in a line of text: see `UNUSABLE`."""
    return not any(unicodedata.category(character) in UNUSABLE for character in name)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
