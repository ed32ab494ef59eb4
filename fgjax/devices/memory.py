"""How much memory there is, what a compiled program takes, and what work takes at its peak."""

import os
import threading
from pathlib import Path
from typing import Any

import jax

MARGIN = 0.5
"""The share of the free memory that is planned with: convolutions take workspaces that no
analysis tells, and memory falls into pieces."""

EVERY = 0.01
"""Seconds between two looks."""


def bytes_in_use() -> int | None:
    """Of the first device where it tells, else of this process; None where neither is known."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats:
        return stats["bytes_in_use"]
    try:  # resident pages, on Linux
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * 4096


def free_bytes(device: Any) -> int | None:
    """Return what is left of the device's memory; None where it does not tell."""
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return max(0, stats["bytes_limit"] - stats.get("bytes_in_use", 0))


def host_free_bytes() -> int | None:
    """Return what a program can still have of the host's memory; None where it is not told."""
    try:  # Linux: what is free, and what the system would give up
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration, ValueError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        except (AttributeError, OSError, ValueError):  # neither macOS nor Windows tells
            return None
    return min(free, _left_of_group() or free)


def _left_of_group(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return what a container may still take; None where nothing limits it."""
    try:
        limit = int((folder / "memory.max").read_text(encoding="ascii"))
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        pages = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):  # no container, another system, or "max"
        return None
    cached = sum(int(line.split()[1]) for line in pages if line.startswith("inactive_file "))
    return max(1, limit - used + cached)


def program_bytes(program: Any) -> int | None:
    """Return what a compiled program takes, by XLA's account of it; None where it does not tell.

    Arguments, results and temporaries; what is donated counts once.

    Args:
      program: `jax.jit(f).lower(…).compile()`.
    """
    analysis = program.memory_analysis()
    if analysis is None:
        return None
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def images_that_fit(each: int, fixed: int, free: int | float, most: int) -> int:
    """Return the largest power of two of images whose step, fixed + images · each, fits; at least
    1.

    Args:
      each: bytes that an image adds to a step.
      fixed: bytes of a step without images.
      free: bytes to plan with.
      most: images beyond which there is no use, or no image.
    """
    count = 1
    while count * 2 <= most and fixed + count * 2 * each <= free:
        count *= 2
    return count


def is_exhausted(error: BaseException) -> bool:
    """Return whether an error says that a device's memory did not suffice."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


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
            self.peak = max(self.peak or 0, bytes_in_use() or 0)

    def __exit__(self, *exception) -> None:
        self._done.set()
        if self.peak is not None:
            self._thread.join()
