"""How much memory a piece of work takes at its peak."""

import threading
from pathlib import Path

import jax

EVERY = 0.01
"""Seconds between two looks."""


def bytes_in_use() -> int | None:
    """Of the first device where it tells, else of this process; None where neither is known."""
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats:
        return stats["bytes_in_use"]
    try:  # resident pages, on Linux
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * 4096


class PeakMemory:
    """`with PeakMemory() as memory: …` and then `memory.peak`: bytes in use, looked at 100 times
    a second, the model and all else that lies in memory included. None where it is not known."""

    def __enter__(self) -> "PeakMemory":
        self.peak = bytes_in_use()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self.peak is not None:
            self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(EVERY):
            self.peak = max(self.peak, bytes_in_use() or 0)

    def __exit__(self, *exception) -> None:
        self._done.set()
        if self.peak is not None:
            self._thread.join()
