"""Memory that programs on a CPU have freed, kept for the next call.

A program of XLA takes its working memory anew at every call, hundreds of megabytes. From glibc, as
it is, they come as fresh pages, each of which the system has to find and to fill with zeros, and go
back to it at the end. That is 5 to 25 % of the time of what a CPU computes here
(`benchmarks/cpu.py`, and with `--give-back`).
"""

import ctypes
import os

MAPPED_FROM, KEPT_AT_TOP, MAPPED_AT_ONCE, ARENAS = -3, -1, -4, -8
"""M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_MMAP_MAX and M_ARENA_MAX of glibc's malloc.h."""
LARGE, ALL = 2**30, 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, and use it again; return whether it can.

    About 2 GiB are kept, blocks of more than 1 GiB are given back. Only with glibc (Linux). Call it
    before the first program: threads that have taken memory already keep their ways. The command
    does so by itself (`devices.keep_memory`); what MALLOC_… or GLIBC_TUNABLES in the environment
    say has precedence.

    Example:
      >>> keep_freed_memory()  # doctest: +SKIP
      True
    """
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if tuned or any(name.startswith("MALLOC_") for name in os.environ) or os.name != "posix":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # An old glibc takes no threshold of more than 32 MiB, but can be told to map nothing at all.
    held = mallopt(MAPPED_FROM, LARGE) or mallopt(MAPPED_AT_ONCE, 0)
    # Threads would each have a pool, none of them large enough: XLA's are among them.
    return bool(held and mallopt(KEPT_AT_TOP, ALL) and mallopt(ARENAS, 1))
