"""Batches of one size: a short one is filled up, so that one compiled program serves all."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Int

Item = TypeVar("Item")
Placed = TypeVar("Placed")


def fill_up(items: Sequence[Item], size: int) -> list[Item]:
    """Return the items with the last one repeated until there are `size`.

    Example:
      >>> fill_up("abc", 5)
      ['a', 'b', 'c', 'c', 'c']
    """
    return [items[min(i, len(items) - 1)] for i in range(size)]


def filled_places(count: int, size: int) -> Int[np.ndarray, "size"]:
    """Return the places of `count` rows with the last one repeated until there are `size`.

    Example:
      >>> filled_places(3, 5)
      array([0, 1, 2, 2, 2])
    """
    return np.minimum(np.arange(size), count - 1)


def in_chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items, `size` at a time; the last chunk may be shorter.

    Example:
      >>> list(in_chunks("abcde", 2))
      [['a', 'b'], ['c', 'd'], ['e']]
    """
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def ahead(
    items: Iterable[Item], prepare: Callable[[Item], Placed], count: int = 2
) -> Iterator[Placed]:
    """Yield the items prepared, `count` of them before they are asked for: what is put onto a
    device is on its way while the one before is used.

    Example:
      >>> list(ahead([1, 2, 3], float))
      [1.0, 2.0, 3.0]
    """
    waiting: deque[Placed] = deque()
    for item in items:
        waiting.append(prepare(item))
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting
