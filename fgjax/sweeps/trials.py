"""The trials of a sweep as a table: python -m fgjax.sweeps.trials RUN_DIR [where=… best=… over=…]

    python -m fgjax.sweeps.trials runs/proxy_grid "where=threshold>=0.5" best=accuracy
    python -m fgjax.sweeps.trials runs/proxy_grid over=seed columns=accuracy,grad_cam.energy_in_cue

`trials.csv` in that folder has a row per trial: its settings, its state, its seconds and every
number that its run measured. `trials.md` is the table that was printed last.
"""

import csv
import io
import re
import sys
from pathlib import Path
from typing import Any

import rich.box
import rich.table

from fgjax.core.files import write_atomic
from fgjax.core.progress import console, say
from fgjax.options.schema import ConfigError
from fgjax.sweeps.rows import Row, average, axes, best_first, check_column, read_trials, where

USAGE = (
    "python -m fgjax.sweeps.trials RUN_DIR [where=COLUMN=VALUE,…] [best=COLUMN] [over=AXIS] "
    "[columns=…]"
)
MAIN = ("accuracy", "validation_accuracy")
"""The numbers that are shown when none are asked for."""


def main(words: list[str] | None = None) -> int:
    """Print the table. Returns 0, or 2 for a wrong word or a folder that is no sweep's."""
    words = sys.argv[1:] if words is None else words
    try:
        folders = [word for word in words if not re.match(r"(where|best|over|columns)=", word)]
        if len(folders) != 1 or folders[0] in ("-h", "--help"):
            say(f"usage: {USAGE}")
            return 0 if set(words) & {"-h", "--help"} else 2
        told = dict(word.partition("=")[::2] for word in words if word != folders[0])
        folder = Path(folders[0])
        rows = read_trials(folder)
        write_atomic(folder / "trials.csv", to_csv(rows))
        rows = where(rows, told.get("where", ""))
        if "over" in told:
            rows = average(rows, told["over"])
        if "best" in told:
            rows = best_first(rows, told["best"])
        shown = [word for word in told.get("columns", "").split(",") if word]
        shown += [told["best"]] if "best" in told and told["best"] not in shown else []
        write_table(rows, folder, shown)
        print_trials(rows, shown)
        if "best" in told and rows:
            first = rows[0]
            said = ", ".join(f"{k} {v}" for k, v in first.items() if k in axes(rows))
            say(f"best {told['best']}: {_short(first.get(told['best']))} with {said}")
        return 0
    except ConfigError as error:
        print(f"fgjax: {error}", file=sys.stderr)
        return 2


def to_csv(rows: list[Row]) -> str:
    """Return the rows as CSV with a header; what is not known is left empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["trial"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def table(rows: list[Row], columns: list[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: the settings, the state where not all are done, and the numbers asked for
    (`MAIN` and the seconds when none are), with their spread where there is one."""
    for column in columns or ():
        check_column(rows, column, "columns")
    numbers = columns or [name for name in (*MAIN, "seconds") if rows and name in rows[0]]
    several = {row["state"] for row in rows} - {"done"}
    heads = [*axes(rows), *(["state"] if several else []), *numbers]
    cells = []
    for row in rows:
        spread = [row.get(f"{head}_sd") for head in heads]
        cells.append(
            [
                _short(row[head]) + (f" ± {_short(sd)}" if sd is not None else "")
                for head, sd in zip(heads, spread, strict=True)
            ]
        )
    return heads, cells


def to_markdown(rows: list[Row], columns: list[str] | None = None) -> str:
    """Return the table in Markdown."""
    heads, cells = table(rows, columns)
    lines = [heads, ["---"] * len(heads), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_table(rows: list[Row], folder: Path, columns: list[str] | None = None) -> None:
    """Write trials.md."""
    write_atomic(folder / "trials.md", to_markdown(rows, columns))


def print_trials(rows: list[Row], columns: list[str] | None = None) -> None:
    """Print the table."""
    heads, cells = table(rows, columns)
    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in heads:  # long ones break between words, numbers never
        shown.add_column(head.replace("_", " ").replace(".", " "), overflow="fold")
    for line in cells:
        shown.add_row(*(rich.text.Text(cell.replace(" ", "\u00a0")) for cell in line))
    console.print(shown, soft_wrap=False)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"
    return "–" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
