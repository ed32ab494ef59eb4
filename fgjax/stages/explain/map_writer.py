"""Finished maps leave the device and go to disk while the next ones are computed."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class MapWriter:
    """`with MapWriter(write) as writer: writer.put(…)`: calls `write(…)` in a thread, in order.

    `put` waits while `waiting` calls have not begun, so that no more than so many chunks of maps,
    and the one that is being written, are kept. An error of `write` is raised by the next `put` or
    at the end, and nothing is written after it. When the block ends by another error, or is
    interrupted, what was put is written all the same: those maps are done.
    """

    def __init__(self, write: Callable[..., None], waiting: int = 1):
        self._write, self._waiting = write, waiting
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fgjax-write")
        self._calls: deque[Future] = deque()
        self._broken = False

    def __enter__(self) -> "MapWriter":
        return self

    def put(self, *chunk: Any) -> None:
        """Hand over one chunk.

        Raises:
          What `write` raised for an earlier one.
        """
        while self._calls and (self._calls[0].done() or len(self._calls) > self._waiting):
            self._calls[0].result()
            self._calls.popleft()
        self._calls.append(self._pool.submit(self._call, chunk))

    def _call(self, chunk: tuple) -> None:
        if self._broken:
            return
        try:
            self._write(*chunk)
        except BaseException:
            self._broken = True
            raise

    def __exit__(self, kind: type | None, *rest: Any) -> None:
        self._pool.shutdown()
        for call in self._calls if kind is None else ():
            call.result()
