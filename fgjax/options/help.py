"""Every option with its default and what it is, as its field says."""

import dataclasses
from typing import Any

import rich.table
import rich.text

from fgjax.attribution import CONFIGS, METHODS
from fgjax.core.option import option_of
from fgjax.core.progress import console, say
from fgjax.core.spelling import did_you_mean
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


USAGE = "fgjax config=NAME key=value …   (or python -m fgjax …)"
FIRST = (
    "config=fido_demo",
    "config=fido_folder data.path=PHOTOS model.weights=FILE.safetensors",
    "config=fido_folder data.path=CLASS_FOLDERS",
    "config=fido_cub data.path=CUB_200_2011",
)
OFTEN = ("run_dir", "stages", "dry_run", "seed", "data.source", "data.path", "data.limit",
         "data.size", "model.name", "model.weights", "model.labels", "model.checkpoint",
         "explain.method", "explain.preset", "explain.target", "explain.against",
         "train.epochs")  # fmt: skip
"""The options of the short help."""


def print_help(about: str = "", method: str = "fido") -> None:
    """Print how to begin, the configs and the options that are given most often.

    Args:
      about: "all": every option; the beginning of options' names, such as "explain.": those.
      method: whose settings are listed as explain.*.
    """
    rows = describe(method)
    if about not in ("", "all"):
        found = [row for row in rows if row[0].startswith(about)]
        if not found:
            groups = dict.fromkeys(
                f"{name.partition('.')[0]}." for name, _, _ in rows if "." in name
            )
            hint = did_you_mean(about, [*groups, *(name for name, _, _ in rows)])
            say(f"no option begins with {about!r}; the groups are {', '.join(groups)}.{hint}")
        _print_options(found)
        if about.startswith("explain"):
            _say_methods(method)
        return
    say(f"usage: {USAGE}\n")
    for example in FIRST:
        say(f"  fgjax {example}")
    configs = list_configs()
    width = max(map(len, configs))
    say("\nconfigs (a name, or the path of a YAML file):")
    for name, line in configs.items():
        say(f"  config={name:<{width}}  {line}")
    say(f"\n{'' if about else 'some '}options (name=default, or the default in brackets):")
    _print_options([row for row in rows if about or row[0] in OFTEN])
    _say_methods(method)
    if not about:
        say(f"\nmore: --help all; of one group: --help explain. (or {', '.join(_groups(rows))})")
    say("The same command again goes on where it stopped. Results: RUN_DIR/report.html")


def _groups(rows: list[tuple[str, str, str]]) -> list[str]:
    heads = [f"{name.partition('.')[0]}." for name, _, _ in rows if "." in name]
    return list(dict.fromkeys(heads))


def _say_methods(method: str) -> None:
    say(
        f"\nmethods: {', '.join(METHODS)}\nexplain.* lists the settings of {method}; of another "
        "method: fgjax explain.method=NAME --help"
    )


def _print_options(rows: list[tuple[str, str, str]]) -> None:
    table = rich.table.Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, default, about in rows:
        short = len(default) < 16
        listed = default.replace(",", ", ")  # a long list is wrapped, not cut off
        table.add_row(
            rich.text.Text(f"{name}={default}" if short else name),
            rich.text.Text(about if short else f"{about} [{listed}]"),
        )
    console.print(table, soft_wrap=False)
