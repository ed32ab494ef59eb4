"""What torchvision and timm call a tensor, and what we call it: tables, not code per layer.

Each network's table stands in its own file.

A table is a list of (pattern, replacement); the first pattern that matches a tensor's whole
name says where it goes, as `module/…/tensor`. An empty replacement leaves the tensor out.
"""

import re

Table = list[tuple[str, str]]


def rename(name: str, table: Table) -> str | None:
    """Return where the tensor `name` goes; "" when it is left out, None when no pattern knows
    it."""
    for pattern, replacement in table:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return None
