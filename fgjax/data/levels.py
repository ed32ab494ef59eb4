"""A tree of classes: the group of every class at each level above it."""

import csv
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from fgjax.data.labels import read_text
from fgjax.data.types import DataError, Source

Levels = Mapping[str, tuple[str, ...]]
"""Name of a level -> the group of every class, in the order of the classes; the finest first."""


def read_levels(path: str | Path, classes: Sequence[str]) -> Levels:
    """Read a CSV with the column class_name and, from fine to coarse, a column for each level.

    Raises:
      DataError: the file is missing or malformed, a class has no line or two, or has no group.
    """
    path = Path(path)
    rows = csv.DictReader(read_text(path).split("\n"), skipinitialspace=True)
    names = [name for name in rows.fieldnames or () if name != "class_name"]
    if not names or "class_name" not in (rows.fieldnames or ()):
        raise DataError(
            f"{path}, line 1: a file of levels starts with class_name and, from fine to coarse, a "
            "name for each level, such as class_name,genus,family"
        )
    table: dict[str, list[str]] = {}
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        name = unicodedata.normalize("NFC", (row["class_name"] or "").strip())
        groups = [(row[level] or "").strip() for level in names]
        if name in table:
            raise DataError(f"{where}: class {name!r} has a line already")
        if not name or not all(groups) or None in row:
            wanted = ",".join(rows.fieldnames or ())
            raise DataError(f"{where}: expected a value for each of {wanted}")
        table[name] = groups
    missing = [name for name in classes if name not in table]
    if missing:
        raise DataError(
            f"{path}: no line for {len(missing)} of the {len(classes)} classes, such as "
            f"{missing[0]!r}"
        )
    return {level: tuple(table[c][i] for c in classes) for i, level in enumerate(names)}


def levels_of(source: Source) -> Levels:
    """Return the levels that a data set knows of its classes; none for most sets."""
    return getattr(source, "levels", {})
