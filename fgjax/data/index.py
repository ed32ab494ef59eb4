"""What the readers of published data sets share: the folder, its lists, their checks.

`home` is everywhere one sentence about the set: what folder is wanted, and where to get it.
Errors say the file, the line number and the line's text.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from fgjax.data.labels import read_text
from fgjax.data.types import DataError

K = TypeVar("K")
T = TypeVar("T")

# Absolute, on a drive, or with a part "..": on any system, whichever this one is.
_LEADS_OUT = re.compile(r"[/\\]|[A-Za-z]:|(.*[/\\])?\.\.([/\\]|$)", re.DOTALL)


def find_root(path: str | Path, home: str, marker: str, *below: str) -> Path:
    """Return the folder with the file `marker` in it: `path` or one of those `below` it."""
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such folder; {home}")
    if not path.is_dir():
        raise DataError(f"{path}: is a file (an archive? unpack it first); {home}")
    for root in (path, *(path / folder for folder in below)):
        if (root / marker).exists():
            return root
    raise DataError(f"{path}: holds no {marker}; {home}")


def find_folder(root: Path, home: str, *names: str) -> Path:
    """Return the first of the folders `names` of `root` that is there."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root / names[0]}: no such folder; {home}")


def lines(path: Path, home: str) -> Iterator[tuple[str, str]]:
    """Yield where (for messages) and the text of each line that is not blank."""
    if not path.is_file():
        raise DataError(f"{path}: this index file of the set is missing; {home}")
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            shown = line if len(line) < 100 else f"{line[:80]}…"
            yield f"{path}, line {number}: {shown!r}", line.strip()


def rows(path: Path, home: str) -> Iterator[tuple[str, str, str]]:
    """Yield where (for messages), name and value of each line `<name> <value>`."""
    for where, line in lines(path, home):
        name, *value = line.split(maxsplit=1)
        if not value:
            raise DataError(f"{where} should be a name, a space and a value")
        yield where, name, value[0]


def read_table(
    path: Path, home: str, rows: Iterable[tuple[str, K, str]], parse: Callable[[str, str], T]
) -> dict[K, T]:
    """Return the parsed values of rows by their keys, each of which comes once."""
    table: dict[K, T] = {}
    for where, key, value in rows:
        if key in table:
            raise DataError(f"{where} gives {_called(key)} a second time")
        table[key] = parse(where, value)
    if not table:
        raise DataError(f"{path}: the file is empty; {home}")
    return table


def numbers(where: str, text: str, count: int, after: str = " after the first") -> list[float]:
    """`count` finite numbers."""
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise DataError(f"{where} should hold {count} numbers{after}")
    return values


def inclusive_box(where: str, values: Iterable[float]) -> Float[np.ndarray, "4"]:
    """Return the edges of a box given by its first and last pixels, counted from 1.

    Pixel 1 reaches from 0 to 1, so the box x1 y1 x2 y2 reaches from x1 − 1 to x2.
    """
    x1, y1, x2, y2 = values
    if x2 < x1 or y2 < y1:
        raise DataError(f"{where}: a box (x1 y1 x2 y2) needs x1 ≤ x2 and y1 ≤ y2")
    return np.array([x1 - 1, y1 - 1, x2, y2], np.float64)


def label_of(where: str, number: object, count: int | None = None) -> int:
    """Return the label, counted from 0, of a class number counted from 1 (up to `count`)."""
    # MATLAB numbers may come as floats.
    if not isinstance(number, int | float) or number < 1 or int(number) != number:
        raise DataError(f"{where}: class {number} is out of range (classes count from 1)")
    if count is not None and number > count:
        raise DataError(f"{where}: class {number} is out of range ({count} classes are named)")
    return int(number) - 1


def inside(where: str, path: str, folder: str) -> str:
    """Return a relative path that stays inside its folder."""
    if _LEADS_OUT.match(path):
        raise DataError(f"{where} leads out of the folder {folder}; it is refused")
    return path


def check_same(
    path: Path, keys: Collection[K], names: Mapping[K, str], of: str, what: str = "images"
) -> None:
    """Check that the keys of the file `path` are those of the file `of`, whose names are given."""
    missing = [name for key, name in names.items() if key not in keys]
    if missing:
        raise DataError(
            f"{path}: lines are missing for {len(missing)} images of {of}: {some(missing)}"
        )
    unknown = [str(key) for key in keys if key not in names]
    if unknown:
        raise DataError(f"{path}: has {len(unknown)} {what} that {of} has not: {some(unknown)}")


def read_mat(path: Path, home: str, *keys: str) -> list[Any]:
    """Return variables of a MATLAB file: cell and struct arrays as lists, of dicts for structs."""
    from scipy.io import loadmat  # slow to import, and few sets need it

    if not path.is_file():
        raise DataError(f"{path}: this index file of the set is missing; {home}")
    try:
        variables = loadmat(path, simplify_cells=True, variable_names=keys)
    except Exception as error:  # whatever a damaged file makes the parser raise
        raise DataError(
            f"{path}: cannot be read as a MATLAB file ({type(error).__name__}: {error}); {home}"
        ) from error
    missing = [key for key in keys if key not in variables]
    if missing:
        raise DataError(f"{path}: has no variable {some(missing)}; {home}")
    # A list of one comes simplified to its element.
    return [np.atleast_1d(variables[key]).tolist() for key in keys]


def some(names: Collection[str]) -> str:
    """At most five names, for a message."""
    return ", ".join(list(names)[:5]) + (", …" if len(names) > 5 else "")


def _called(key: object) -> str:
    return f"number {key}" if isinstance(key, int) else str(key)
