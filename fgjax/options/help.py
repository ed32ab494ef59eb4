"""Every option with its default and what it is, as its field says."""

import dataclasses
from typing import Any

import rich.table
import rich.text

from fgjax.attribution import CONFIGS, METHODS
from fgjax.core.option import option_of
from fgjax.core.progress import console, say
from fgjax.options.resolve import list_configs
from fgjax.options.schema import Config, ExplainConfig


def describe(method: str = ExplainConfig.method) -> list[tuple[str, str, str]]:
    """Return every option: its name, its default, and what it is.

    Args:
      method: whose settings are listed as explain.*.
    """
    rows = []

    def add(group: Any, prefix: str) -> None:
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


USAGE = "python -m fgjax.run config=NAME key=value …"


def print_help(method: str = "fido") -> None:
    """Print the configs with a line each, and every option with its default; of `method`, its
    own."""
    say(f"usage: {USAGE}\n")
    say("configs (a name, or the path of a YAML file):")
    configs = list_configs()
    width = max(map(len, configs))
    for name, line in configs.items():
        say(f"  config={name:<{width}}  {line}")
    say("\noptions (name=default, or the default in brackets):")
    table = rich.table.Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, default, about in describe(method):
        short = len(default) < 16
        listed = default.replace(",", ", ")  # a long list is wrapped, not cut off
        table.add_row(
            rich.text.Text(f"{name}={default}" if short else name),
            rich.text.Text(about if short else f"{about} [{listed}]"),
        )
    console.print(table, soft_wrap=False)
    say(
        f"\nexplain.* lists the settings of {method}; of another method: "
        "python -m fgjax.run explain.method=NAME --help\n"
        f"methods: {', '.join(METHODS)}"
    )
    say("\nThe same command again goes on where it stopped. Results: RUN_DIR/report.html")
