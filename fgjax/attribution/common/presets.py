"""Published settings of a method by name."""

from dataclasses import fields
from typing import Any

from fgjax.core.spelling import did_you_mean


def preset(
    config: type, presets: dict[str, dict[str, Any]], name: str, changes: dict[str, Any]
) -> Any:
    """Return a config with the settings published under `name`, and `changes` on top.

    Raises:
      ValueError: no such preset, or no such setting.
    """
    if name not in presets:
        hint = did_you_mean(name, presets)
        raise ValueError(f"preset={name!r}: one of {', '.join(presets)}.{hint}")
    unknown = set(changes) - {field.name for field in fields(config)}
    if unknown:
        raise ValueError(f"{config.__name__} has no {', '.join(sorted(unknown))}")
    return config(**{**presets[name], **changes})
