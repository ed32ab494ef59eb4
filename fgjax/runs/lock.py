"""One process at a time in a run's folder: two would write over each other's results.

The lock is the system's own, on the file `.lock`: a process that dies, however it dies, lets go
of it. Where a file system knows no locks, nothing is locked.
"""

import os
from pathlib import Path

from fgjax.options.schema import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FILE = ".lock"
_held: dict[Path, int] = {}


def hold(folder: Path) -> None:
    """Keep other processes out of a folder until `let_go`; holding it twice is holding it once.

    Raises:
      ConfigError: another process is at work in it.
      OSError: the folder cannot be written.
    """
    path = folder.resolve() / FILE
    if fcntl is None or path in _held:
        return
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.read(file, 20).decode("ascii", "replace").strip()
            os.close(file)
            raise ConfigError(
                f"run_dir={folder}: another run is at work in this folder"
                + (f" (process {who})" if who.isdecimal() else "")
                + ". Wait until it is done, or give another run_dir=…"
            ) from None
        except OSError:  # no locks on this file system
            os.close(file)
            return
        if _is_at(file, path):
            break
        os.close(file)  # its holder has just taken it away
    os.truncate(file, 0)
    os.write(file, f"{os.getpid()}\n".encode())
    _held[path] = file


def let_go() -> None:
    """Let other processes into the folders that this one holds."""
    while _held:
        path, file = _held.popitem()
        path.unlink(missing_ok=True)
        os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False
