"""Turns the results of the benchmarks, JSON and CSV, into the tables of README.md and docs/results.

    python benchmarks/report.py            # prints them
    python benchmarks/report.py --write    # and puts them between their marks

A table's place is between `<!-- NAME: benchmarks/report.py -->` and `<!-- end of NAME -->`.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tables.fido import (
    drawn_table,
    front_table,
    masks_table,
    quality_table,
    table1_table,
    transfer_table,
    variance_table,
)
from tables.files import ROOT
from tables.methods import glas_normalise_table, glas_table, overview_table, short_table
from tables.networks import parity_table
from tables.parts import part_controls_table, prior_table
from tables.pods import pods_table
from tables.speed import loading_table, memory_table, onednn_table, scaling_table, speed_table
from tables.streams import two_streams_gains_table, two_streams_table
from tables.training import (
    focus_table,
    folder_choice_table,
    folder_table,
    proxy_birds_table,
    shortcut_table,
    steps_table,
)

TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "methods": ("README.md", short_table),
    "overview": ("docs/results/methods.md", overview_table),
    "glas": ("docs/results/methods.md", glas_table),
    "glas_normalise": ("docs/results/methods.md", glas_normalise_table),
    "drawn": ("docs/results/fido.md", drawn_table),
    "masks": ("docs/results/fido.md", masks_table),
    "transfer": ("docs/results/fido.md", transfer_table),
    "front": ("docs/results/fido.md", front_table),
    "quality": ("docs/results/fido.md", quality_table),
    "table1": ("docs/results/fido.md", table1_table),
    "variance": ("docs/results/fido.md", variance_table),
    "focus": ("docs/results/training.md", focus_table),
    "steps": ("docs/results/training.md", steps_table),
    "two_streams": ("docs/results/training.md", two_streams_table),
    "two_streams_gains": ("docs/results/training.md", two_streams_gains_table),
    "shortcut": ("docs/results/training.md", shortcut_table),
    "proxy_birds": ("docs/results/training.md", proxy_birds_table),
    "folder_choice": ("docs/results/training.md", folder_choice_table),
    "folder": ("docs/results/training.md", folder_table),
    "prior": ("docs/results/parts_species.md", prior_table),
    "part_controls": ("docs/results/parts_species.md", part_controls_table),
    "speed": ("docs/results/speed.md", speed_table),
    "onednn": ("docs/results/speed.md", onednn_table),
    "memory": ("docs/results/speed.md", memory_table),
    "scaling": ("docs/results/speed.md", scaling_table),
    "loading": ("docs/results/speed.md", loading_table),
    "parity": ("docs/results/networks.md", parity_table),
    "pods": ("docs/results/speed.md", pods_table),
}
"""Name of the marks -> the page they are in, and what makes what is between them."""


def insert(text: str, name: str, made: str, page: str | Path) -> str:
    """Return the text of a page with a table between its marks.

    Raises:
      ValueError: the marks are not there.
    """
    begin, end = f"<!-- {name}: benchmarks/report.py -->", f"<!-- end of {name} -->"
    if begin not in text or end not in text:
        raise ValueError(f"{page} has no place for the table: {begin} … {end}")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n\n{made}\n\n{end}{rest.split(end, 1)[1]}"


def main(argv: list[str] | None = None) -> int:
    """Print the tables, and write them with --write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put them into their pages")
    args = parser.parse_args(argv)
    for name, (page, table) in TABLES.items():
        path, made = ROOT / page, table()
        print(f"{page}: {name}", made, sep="\n\n", end="\n\n")
        text = insert(path.read_text(encoding="utf-8"), name, made, page)
        if args.write:
            path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
