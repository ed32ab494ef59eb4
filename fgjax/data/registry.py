"""The data sets, and what is known of each: one `DataSet` at the foot of its reader's file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fgjax.core.registry import LAST, Registry
from fgjax.data.types import Source


@dataclass(frozen=True)
class DataSet:
    """A data set, and what its reader wants to be told.

    Attributes:
      name: in `data.source`.
      make: what reads it, called with keywords: `size`, `crop` (see `crops`), and `options`.
      home: one sentence: what folder is wanted, and where to get the set.
      options: its other keywords, and the name of the option each is given.
      wants: options that must not be left out, and what to say if one is.
      crops: it cuts squares out of photographs, and takes `crop`. Drawn images are square.
      order: its place in lists.
    """

    name: str
    make: Callable[..., Source]
    home: str
    options: Mapping[str, str] = field(default_factory=dict)
    wants: Mapping[str, str] | None = None
    crops: bool = True
    order: int = LAST

    def __post_init__(self):
        if self.wants is None:  # a folder, as of nearly all
            object.__setattr__(self, "options", {"path": "data.path", **self.options})
            object.__setattr__(self, "wants", {"data.path": self.home})


SOURCES: Registry[DataSet] = Registry(
    DataSet,
    "data set",
    ["fgjax.data.sets", "fgjax.data.species"],
    "fgjax.data_sets",
    lambda entry: entry.make,
)
"""Name -> all that is known of a data set."""
