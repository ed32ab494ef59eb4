"""What a setting is, beside its default: its field says it once, and all that ask read it there.

@dataclass(frozen=True)
class GlasConfig:
    grid: int = option(11, "search points are the centres of k x k equal cells.")
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import Field, dataclass, field
from typing import Any, NamedTuple


class Range(NamedTuple):
    """The values that are in range: in words, and whether one is. None always is."""

    words: str
    holds: Callable[[Any], bool]


ABOVE_ZERO = Range("must be above 0", lambda value: value > 0)
NOT_NEGATIVE = Range("must not be negative", lambda value: value >= 0)
ZERO_TO_ONE = Range("from 0 to 1", lambda value: 0 <= value <= 1)
BETWEEN_ZERO_AND_ONE = Range("between 0 and 1", lambda value: 0 < value < 1)
BELOW_ONE = Range("from 0 to below 1", lambda value: 0 <= value < 1)
SHARE = Range("above 0 and at most 1", lambda value: 0 < value <= 1)
PIXELS = Range("from 32 to 4096 pixels", lambda value: 32 <= value <= 4096)


@dataclass(frozen=True)
class Option:
    """What a setting's field says of it.

    Attributes:
      about: what it is, one or two sentences.
      within: the values that can be meant.
      example: of a list, what one looks like.
      names: gives the names that it, or every item of a list, may be. Of a mapping all that it
        holds, listed or not.
      also: other names that it may be.
      path: it is a path; a ~ in it is the home folder.
      free: a finished part of a run does not depend on it: it may change when the run goes on.
    """

    about: str = ""
    within: Range | None = None
    example: str = "…"
    names: Callable[[], Iterable[str]] | None = None
    also: tuple[str, ...] = ()
    path: bool = False
    free: bool = False


def option(default: Any, about: str, **more: Any) -> Any:
    """Return a dataclass field with a default and what it is; see `Option` for the rest.

    A default that is a class is a group of options: one is made of it.
    """
    metadata = {"option": Option(about, **more)}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def option_of(of: Field, owner: type | None = None) -> Option:
    """Return what a field says of itself; or, of a plain field, "Attributes:" in the docstring of
    its class says."""
    if "option" in of.metadata:
        return of.metadata["option"]
    # What goes on in the next line stands further in, even where it has a colon.
    pattern = rf"^( +){of.name}: (.*?)(?=^\1\S|\n\n|\Z)"
    texts = [base.__doc__ or "" for base in owner.__mro__[:-1]] if owner else []
    found = next((m for text in texts if (m := re.search(pattern, text, re.S | re.M))), None)
    return Option(" ".join(found[2].split()) if found else "")
