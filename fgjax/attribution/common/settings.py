"""A setting that is given to a method itself, and not to its config: told with the cure."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from fgjax.core.spelling import did_you_mean

P = ParamSpec("P")
R = TypeVar("R")


def with_config(method: Callable[P, R]) -> Callable[P, R]:
    """Return a method that says where its settings go when it is given one as a keyword."""
    known = inspect.signature(method).parameters
    config = known["config"].default
    settings = type(config)

    @functools.wraps(method)
    def call(*args: P.args, **options: P.kwargs) -> R:
        for name in options.keys() - known.keys():
            raise TypeError(_cure(method.__name__, settings, name, options[name], [*known]))
        return method(*args, **options)

    return call


def _cure(method: str, settings: type, name: str, value: Any, known: list[str]) -> str:
    fields = getattr(settings, "__dataclass_fields__", {})
    if name in fields:
        value = value if isinstance(value, int | float | str) else "…"
        return (
            f"{method}(…, {name}=…): settings are given as config="
            f"fgjax.{settings.__name__}({name}={value!r})"
        )
    hint = did_you_mean(name, [*known, *fields])
    return f"{method}() takes no {name!r}; {settings.__name__} has {', '.join(fields)}.{hint}"
