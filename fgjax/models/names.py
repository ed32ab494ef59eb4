"""What torchvision and timm call a tensor, and what we call it: tables, not code per layer.

Each network's table stands in its own file.

A table is a list of (pattern, replacement); the first pattern that matches a tensor's whole
name says where it goes, as `module/…/tensor`. An empty replacement leaves the tensor out. One that
ends with `:0`, `:1`, … is a part of a tensor, joined with the others along their outputs; one that
ends with `:T` is transposed. A table is read backwards, too: of several libraries' names the
first is written.
"""

import re
from collections.abc import Iterable

Table = list[tuple[str, str]]


def rename(name: str, table: Table) -> str | None:
    """Return where the tensor `name` goes; "" when it is left out, None when no pattern knows
    it."""
    for pattern, replacement in table:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return None


_GROUP = re.compile(r"\((?!\?)([^()]*)\)")


def _backwards(pattern: str, replacement: str) -> tuple[str, str] | None:
    """Return a pattern of our names and the library's name for it; None: it cannot be told."""
    groups = _GROUP.findall(pattern)
    literal = _GROUP.sub("", pattern).replace(r"\.", "")
    if not replacement or ":" in replacement or re.search(r"[][\\()|?*+]", literal):
        return None
    numbers = [int(n) for n in re.findall(r"\\(\d)", replacement)]
    if sorted(numbers) != list(range(1, len(groups) + 1)):
        return None
    pieces = re.split(r"\\\d", replacement)
    ours = re.escape(pieces[0])
    for number, piece in zip(numbers, pieces[1:]):
        ours += f"(?P<g{number}>{groups[number - 1]})" + re.escape(piece)
    counted = iter(range(1, len(groups) + 1))
    theirs = _GROUP.sub(lambda _: rf"\g<g{next(counted)}>", pattern)
    return ours, theirs.replace(r"\.", ".")


def names_of(paths: Iterable[str], table: Table) -> dict[str, str]:
    """Return what a library calls each of our tensors, by the first names of the table that lead
    there.

    Raises:
      ValueError: a tensor has no name, or two have the same.
    """
    ways = [way for entry in table if (way := _backwards(*entry)) is not None]
    found: dict[str, str] = {}
    for path in paths:
        for ours, theirs in ways:
            match = re.fullmatch(ours, path)
            if match and rename(name := match.expand(theirs), table) == path:
                found[path] = name
                break
        else:
            raise ValueError(f"the names of the network have none for {path}")
    if len(set(found.values())) < len(found):
        raise ValueError("two tensors of the network have the same name")
    return found
