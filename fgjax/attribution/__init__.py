"""Attribution methods by name.

Every method is `method(model, images, targets, *, key, config) -> Attribution`. Each stands in a
file of its own, with its entry at the foot (see `registry.py`); this file names them all here.
"""

from typing import Any

from fgjax.attribution.common.types import Attribution
from fgjax.attribution.glas_volume import glas_volume
from fgjax.attribution.registry import CONFIGS, METHOD_ENTRIES, METHODS, PRESETS, Method

_own = METHOD_ENTRIES.own.values()
globals().update({entry.name: entry.function for entry in _own})
globals().update({entry.config.__name__: entry.config for entry in _own})

__all__ = [
    "CONFIGS",
    "METHODS",
    "PRESETS",
    "Attribution",
    "Method",
    *(entry.config.__name__ for entry in _own),
    *(entry.name for entry in _own),
    "glas_volume",
]


def __getattr__(name: str) -> Any:
    """Say that there is no such name; the methods' own names are set above."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
