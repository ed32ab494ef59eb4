"""Two calls on their way to the device, never more."""

from collections import deque
from typing import Any

import jax

from fgjax.devices.placed import on_cpu


def calls_at_a_time(*trees: Any) -> int:
    """Return how many calls over these arrays are sent before the first is waited for: 2 on an
    accelerator, which then never waits for Python. On a CPU 1: it has nothing to wait for, and
    programs queued on forced CPU devices may wait for each other for ever."""
    return 1 if on_cpu(*trees) else 2


class InFlight:
    """Waits for a call's results once as many calls are sent as there may be, so that those that
    wait hold no more images than theirs.

    Args:
      most: see `calls_at_a_time`.
    """

    def __init__(self, most: int):
        self._most = most
        self._sent: deque[Any] = deque()

    def add(self, results: Any) -> None:
        """Note a call that was just sent. Its results must not be donated to another one."""
        self._sent.append(results)
        while len(self._sent) >= self._most:
            jax.block_until_ready(self._sent.popleft())
