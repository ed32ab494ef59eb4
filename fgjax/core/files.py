"""Writing files so that a reader, or a kill, never meets half of one."""

import os
from pathlib import Path


def write_atomic(path: Path, text: str) -> Path:
    """Write a text file whole or not at all; what was there stays until the new one is whole.

    A file name that is no UTF-8 reaches us with surrogates in it: they are shown as \\udc..
    """
    return write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all; what was there stays until the new one is whole."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def user_cache() -> Path | None:
    """Return the folder of what is kept for a user over all runs; None for one without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fgjax"
    except RuntimeError:
        return None


def as_written(name: str) -> str:
    """Return a file's name as it stands in our files: what is no UTF-8 is shown as \\udc.."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
