"""Every option with its default and what it is, read from the docstrings of `options.py`."""

import dataclasses
import re

from fgjax.attribution import CONFIGS
from fgjax.options.schema import Config, ExplainConfig


def describe(method: str = ExplainConfig.method) -> list[tuple[str, str, str]]:
    """Return every option: its name, its default, and what it is (from the docstrings).

    Args:
      method: whose settings are listed as explain.*.
    """
    rows = []

    def add(cls: type, prefix: str):
        # A subclass says only what it adds.
        texts = [base.__doc__ or "" for base in cls.__mro__ if base is not object]
        for f in dataclasses.fields(cls):
            if f.name == "settings" or dataclasses.is_dataclass(f.type):
                continue
            pattern = rf"^ +{f.name}: (.*?)(?=^ +[\w, ]+: |\n\n|\Z)"
            found = next((m for t in texts if (m := re.search(pattern, t, re.S | re.M))), None)
            about = " ".join(found[1].split()) if found else ""
            default = f.default
            if isinstance(default, tuple):
                default = ",".join(map(str, default))
            default = str(default).lower() if isinstance(default, bool) else default
            rows.append((f"{prefix}{f.name}", "" if default is None else str(default), about))

    add(Config, "")
    for f in dataclasses.fields(Config):
        if dataclasses.is_dataclass(f.type):
            add(f.type, f"{f.name}.")
            if f.name == "explain":
                add(CONFIGS[method], "explain.")
    return rows
