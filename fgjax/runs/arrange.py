"""Which row of a `maps.zarr` is which image's, and moving rows when the images are others.

    run/maps.zarr/images.json   the images' names, in the order of the rows

Maps belong to an image, not to a place in a list: where images come or go, every image takes its
maps along. Chunks are linked into a new folder, which then takes the place of the old one, so
that a kill leaves one of both.
"""

import json
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from fgjax.core.files import write_atomic
from fgjax.data.types import DataError

FILE = "images.json"


def read_names(maps: Path) -> list[str] | None:
    """Return the image of each row; None where that is not told (runs of before did not)."""
    try:
        names = json.loads((maps / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if whole else None


def write_names(maps: Path, names: Sequence[str]) -> None:
    """Say whose the rows are."""
    maps.mkdir(parents=True, exist_ok=True)
    write_atomic(maps / FILE, json.dumps(list(names), indent=0) + "\n")


def arrange(
    maps: Path,
    names: Sequence[str],
    changed: Collection[str] = (),
    before: Sequence[str] | None = None,
) -> None:
    """Make the rows those of `names`, each with the maps its image had.

    Args:
      maps: a `maps.zarr`; where there is none yet, nothing is done.
      names: of the images, in the order wanted.
      changed: images whose maps are no longer theirs: they are as if never made.
      before: whose the rows were, where the folder does not say it; None: the same as now.

    Raises:
      DataError: the maps are damaged.
    """
    new, old = (maps.with_name(f".{maps.name}.{word}") for word in ("new", "old"))
    if not maps.is_dir() and new.is_dir():  # killed between the two moves below
        os.rename(new, maps)
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    if not maps.is_dir():
        return
    known = read_names(maps)
    held = known or list(names if before is None else before)
    if held == list(names) and not set(changed) & set(held):
        if known is None:
            write_names(maps, names)
        return
    rows = {name: row for row, name in enumerate(held) if name not in changed}
    write_names(new, names)
    for about in maps.rglob("zarr.json"):
        _move_array(about, new / about.parent.relative_to(maps), [rows.get(n) for n in names])
    os.rename(maps, old)
    os.rename(new, maps)
    shutil.rmtree(old, ignore_errors=True)


def _move_array(about: Path, to: Path, rows: Sequence[int | None]) -> None:
    """Link an array's chunks, one for each image, to their new places."""
    try:
        metadata = json.loads(about.read_text(encoding="utf-8"))
        metadata["shape"][0] = len(rows)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{about}: cannot be read ({error}). Delete the folder {about.parents[1]}, and its "
            "maps are made again"
        ) from None
    (to / "c").mkdir(parents=True)
    write_atomic(to / "zarr.json", json.dumps(metadata))
    for place, row in enumerate(rows):
        chunk = about.parent / "c" / str(row)
        if row is None or not chunk.exists():
            continue
        if chunk.is_dir():
            shutil.copytree(chunk, to / "c" / str(place), copy_function=_link)
        else:
            _link(chunk, to / "c" / str(place))


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
