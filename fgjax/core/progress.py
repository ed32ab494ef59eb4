"""How far a stage is: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(highlight=False, emoji=False, soft_wrap=True)


def say(line: str) -> None:
    """Print one plain line; nothing in it is taken as markup."""
    console.print(line, markup=False)
    sys.stdout.flush()


@contextmanager
def hushed() -> Iterator[None]:
    """Print nothing while the block runs: another process says it."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


class Counter:
    """A count of finished pieces. `advance` is cheap."""

    def __init__(self, title: str, total: int, bar: Progress | None, every: float = 15.0):
        self.title, self.total, self.done = title, total, 0
        self._bar, self._every, self._last = bar, every, time.monotonic()
        self._task = bar.add_task(title, total=total) if bar else None

    def advance(self, n: int = 1) -> None:
        """Count `n` more pieces as done."""
        self.done += n
        if self._bar and self._task is not None:
            self._bar.advance(self._task, n)
        elif time.monotonic() - self._last > self._every:
            self._last = time.monotonic()
            say(f"{self.title}: {self.done} of {self.total}")


@contextmanager
def progress(title: str, total: int) -> Iterator[Counter]:
    """Show the progress of `total` pieces while the block runs."""
    if not console.is_terminal:
        yield Counter(title, total, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        yield Counter(title, total, bar)
