"""The peak of memory follows what is allocated meanwhile."""

import time

import numpy as np
import pytest

from fgjax.memory import PeakMemory, bytes_in_use


@pytest.mark.skipif(bytes_in_use() is None, reason="this system does not tell its memory")
def test_the_peak_is_that_of_meanwhile():
    before = bytes_in_use()
    with PeakMemory() as memory:
        block = np.ones(25_000_000)  # 200 MB
        time.sleep(0.1)
        del block
    assert 150e6 < memory.peak - before < 400e6
