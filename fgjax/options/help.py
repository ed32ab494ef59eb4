"""Every option with its default and what it is, as its field says."""

import dataclasses

from fgjax.attribution import CONFIGS
from fgjax.core.option import option_of
from fgjax.options.schema import Config, ExplainConfig


def describe(method: str = ExplainConfig.method) -> list[tuple[str, str, str]]:
    """Return every option: its name, its default, and what it is.

    Args:
      method: whose settings are listed as explain.*.
    """
    rows = []

    def add(group: type, prefix: str):
        for f in dataclasses.fields(group):
            if f.name == "settings" or dataclasses.is_dataclass(f.type):
                continue
            default = f.default
            if isinstance(default, tuple):
                default = ",".join(map(str, default))
            default = str(default).lower() if isinstance(default, bool) else default
            default = "" if default is None else str(default)
            rows.append((f"{prefix}{f.name}", default, option_of(f, group).about))

    add(Config, "")
    for f in dataclasses.fields(Config):
        if dataclasses.is_dataclass(f.type):
            add(f.type, f"{f.name}.")
            if f.name == "explain":
                add(CONFIGS[method], "explain.")
    return rows
