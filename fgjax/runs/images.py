"""images.json: the images that a run's results are of, so that one that changed is noticed.

    {"birds/1.jpg": {"content": …, "size": 81532, "modified": 1764…, "class": "Robin"}, …}

`content` is a hash of the file. A file whose size and time are those of before is not read again.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fgjax.core.files import write_atomic
from fgjax.data.types import Record

FILE = "images.json"

Seen = dict[str, dict[str, Any]]
"""Image name -> what it was."""


def look_at(
    records: Sequence[Record],
    classes: Sequence[str | None],
    file: Callable[[Record], Path] | None,
    before: Seen,
) -> Seen:
    """Return what some images are now.

    Args:
      records: the images.
      classes: a word for the class of each; None: it has none.
      file: where an image lies; None: the data set has no file for each.
      before: what they were: of the same size and time, their content is known.
    """
    found: Seen = {}
    for record, name in zip(records, classes, strict=True):
        found[record.name] = {"class": name}
        if file is not None:
            found[record.name] |= _content(file(record), before.get(record.name, {}))
    return found


def _content(path: Path, before: dict[str, Any]) -> dict[str, Any]:
    try:
        status = path.stat()
        told = {"size": status.st_size, "modified": status.st_mtime_ns}
        if before.get("content") and told.items() <= before.items():
            return {"content": before["content"], **told}
        with path.open("rb") as stream:
            return {"content": hashlib.file_digest(stream, "sha256").hexdigest(), **told}
    except OSError:  # it will be among the failures
        return {"content": None, "size": -1, "modified": 0}


def changed_images(before: Seen, now: Seen) -> set[str]:
    """Return the names of the images that are new, or another picture or of another class."""

    def about(seen: Seen, name: str) -> tuple[Any, Any] | None:
        return (seen[name].get("content"), seen[name].get("class")) if name in seen else None

    return {name for name in now if about(before, name) != about(now, name)}


def read_images(run: Path) -> Seen | None:
    """Return what images.json holds; None where it is not there or cannot be read."""
    try:
        held = json.loads((run / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(held, dict) and all(isinstance(about, dict) for about in held.values())
    return held if whole else None


def write_images(run: Path, seen: Seen) -> None:
    """Write images.json, where it does not hold the same."""
    if read_images(run) != seen:
        write_atomic(run / FILE, json.dumps(seen, indent=0) + "\n")
