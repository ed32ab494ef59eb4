"""What there is of a kind, by name: in our own modules, in installed packages, in a file of yours.

A thing stands with an entry that says what it is: `GLAS = Method(glas, GlasConfig, …)` at the foot
of its file, or a tuple of entries. A registry finds them; to add a thing is to add a file.
"""

import importlib
import pkgutil
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from functools import cached_property
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar

from fgjax.core.spelling import did_you_mean

Entry = TypeVar("Entry")
Fact = TypeVar("Fact")

LAST = 1000
"""The place of an entry that does not say which is its own."""


class Registry(Mapping[str, Entry]):
    """The entries of a kind by name, in their order.

    Found are those of all modules in our packages, and those that installed packages declare as
    entry points. Beside the names, `registry["package.module:function"]` looks into any module
    that can be imported; what is found so is not listed.

    Args:
      kind: the entries' class. They have a `name` and an `order`.
      what: a word for one, such as "method".
      packages: whose modules hold our own.
      group: of the entry points, such as "fgjax.methods".
      subject: from an entry to the thing itself: what "function" stands for above.
    """

    def __init__(
        self,
        kind: type[Entry],
        what: str,
        packages: Sequence[str],
        group: str,
        subject: Callable[[Any], Any],
    ):
        self._kind, self._what, self._packages = kind, what, packages
        self._group, self._subject = group, subject
        self._outside: dict[str, Entry] = {}

    @cached_property
    def own(self) -> dict[str, Entry]:
        """The entries of our own modules."""
        found: dict[str, Any] = {}
        for package in self._packages:
            root = importlib.import_module(package)
            for module in pkgutil.walk_packages(root.__path__, f"{package}."):
                for entry in self._in(importlib.import_module(module.name)):
                    if found.setdefault(entry.name, entry) is not entry:
                        raise ValueError(f"{module.name}: a second {self._what} {entry.name}")
        return dict(sorted(found.items(), key=lambda pair: (pair[1].order, pair[0])))

    @cached_property
    def _every(self) -> dict[str, Entry]:
        """Those of installed packages, too. One that cannot be had is told, and left out."""
        found: dict[str, Any] = {}
        for point in sorted(entry_points(group=self._group)):
            where = f"{self._group}: {point.name} ({point.value})"
            if point.name in self.own:
                warnings.warn(f"{where}: fgjax has a {self._what} of that name", stacklevel=2)
                continue
            try:
                found[point.name] = self._from(point.value)
            except ValueError as error:
                warnings.warn(f"{where}: {error}", stacklevel=2)
        more = sorted(found.items(), key=lambda pair: (pair[1].order, pair[0]))
        return {**self.own, **dict(more)}

    def find(self, name: str) -> Entry:
        """Return the entry of a name, or of a word MODULE:NAME.

        Raises:
          ValueError: there is none; with the nearest known name, or what is wrong with the module.
        """
        if name in self.own:
            return self.own[name]
        if ":" in name:
            if name not in self._outside:
                self._outside[name] = self._from(name)
            return self._outside[name]
        if name not in self._every:
            known, hint = ", ".join(self._every), did_you_mean(name, self._every)
            raise ValueError(f"one of {known}, or package.module:name.{hint}")
        return self._every[name]

    def _from(self, word: str) -> Entry:
        """Return the entry for `package.module:name`: the name is its own, or its subject's."""
        path, _, name = word.partition(":")
        if not re.fullmatch(r"\w+(\.\w+)*", path) or not name.isidentifier():
            raise ValueError(f"{word!r} is not package.module:name")
        try:
            module = importlib.import_module(path)
        except Exception as error:  # whatever a stranger's module raises
            raise ValueError(
                f"{path} cannot be imported ({type(error).__name__}: {error}); is it installed, "
                "or in a folder of PYTHONPATH?"
            ) from None
        if not hasattr(module, name):
            known = [known for known in vars(module) if not known.startswith("_")]
            raise ValueError(f"{path} has no {name}.{did_you_mean(name, known)}")
        wanted, kind = getattr(module, name), self._kind.__name__
        for entry in self._in(module):
            if wanted is entry or wanted is self._subject(entry):
                return entry
        raise ValueError(
            f"{path} has no entry for {name}: it wants a line {name.upper()} = {kind}({name}, …)"
        )

    def _in(self, module: ModuleType) -> list[Any]:
        several = [v if isinstance(v, tuple) else (v,) for v in vars(module).values()]
        held = [value for some in several for value in some if isinstance(value, self._kind)]
        return list({id(entry): entry for entry in held}.values())

    def __getitem__(self, name: str) -> Entry:
        try:
            return self.find(name)
        except ValueError as error:
            raise KeyError(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._every)

    def __len__(self) -> int:
        return len(self._every)


class Column(MutableMapping[str, Fact], Generic[Fact]):
    """One fact of every entry, by its name. What is set here replaces the entry's own."""

    # Not annotated as a Registry: a checker of types would look into it, and that imports all.
    def __init__(self, registry: Any, fact: Callable[[Any], Fact]):
        self._registry, self._fact, self._set = registry, fact, dict[str, Fact]()

    def __getitem__(self, name: str) -> Fact:
        return self._set[name] if name in self._set else self._fact(self._registry[name])

    def __setitem__(self, name: str, value: Fact) -> None:
        self._set[name] = value

    def __delitem__(self, name: str) -> None:
        del self._set[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._registry, *self._set]))

    def __len__(self) -> int:
        return len(list(iter(self)))
