"""Memory that is freed and kept: counted in the pages that the system is asked for."""

import os
import subprocess
import sys

import pytest

ASKED = """
import resource, sys
from fgjax.devices.allocation import keep_freed_memory
if "keep" in sys.argv:
    print(keep_freed_memory(), end=" ")
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 100_000_000
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*faults)
"""
PAGES = 100_000_000 // os.sysconf("SC_PAGE_SIZE")


def faults(*words: str, **environ: str) -> list[str]:
    """The words that a process prints which takes and frees 100 MB four times."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", ASKED, *words], env=plain | environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_kept_memory_is_not_asked_for_again():
    can, first, *later = faults("keep")
    if can == "False":
        pytest.skip("not glibc")
    assert int(first) > PAGES // 2 and all(int(count) < PAGES // 100 for count in later)
    assert all(int(count) > PAGES // 2 for count in faults()[1:])


def test_the_environment_has_precedence():
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
    assert faults("keep", GLIBC_TUNABLES="glibc.malloc.mmap_max=65536")[0] == "False"
