"""Which image files were decoded before and found good, so that a start need not do it again."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from fgjax.core.files import user_cache


class Checked:
    """Files that could be read, by path, size and time of change, over all runs of a user.

    Args:
      path: a text file of hashes, a line each, that every process adds to; None: nothing is kept.
    """

    def __init__(self, path: Path | None):
        self._path, self._new = path, set[str]()
        try:
            known = "" if path is None else path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):  # what is lost or damaged is found anew
            known = ""
        self._known = set(known.split("\n"))

    def __contains__(self, files: Iterable[Path]) -> bool:
        return _digest(files) in self._known

    def add(self, files: Iterable[Path]) -> None:
        """Note that an image could be made of these files."""
        if digest := _digest(files):
            self._new.add(digest)

    def save(self) -> None:
        """Add what is new to the file; where that cannot be, it is found anew another time."""
        if self._path is None or not self._new:
            return
        lines = "".join(f"{digest}\n" for digest in sorted(self._new))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # A line of its own for the first, too: another process may have died within its last.
            with self._path.open("a", encoding="ascii") as file:
                file.write("\n" + lines)
        except OSError:
            return
        self._known |= self._new
        self._new.clear()


def checked_file() -> Path | None:
    """Return where a user's findings are kept; None for a user without a home."""
    base = user_cache()
    return None if base is None else base / "images_read.txt"


def _digest(files: Iterable[Path]) -> str:
    """Return a hash of the files as they are now; "" where one is missing."""
    try:
        about = [(os.path.abspath(file), os.stat(file)) for file in files]
    except OSError:
        return ""
    text = "\n".join(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}" for path, stat in about)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24]
