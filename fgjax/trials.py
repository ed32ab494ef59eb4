"""The trials of a sweep as a table: python -m fgjax.trials RUN_DIR [where=… best=… over=…]

    python -m fgjax.trials runs/proxy_grid where=method=grad_cam,threshold>=0.5 best=accuracy
    python -m fgjax.trials runs/proxy_grid over=seed columns=accuracy,grad_cam.energy_in_cue

`trials.csv` in that folder has a row per trial: its settings, its state, its seconds and every
number that its run measured. `trials.md` is the table that was printed last.
"""

import csv
import io
import json
import operator
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich.box
import rich.table

from fgjax.evaluation.summary import BETTER
from fgjax.files import write_atomic
from fgjax.grid import short_names
from fgjax.options import ConfigError
from fgjax.progress import console, say
from fgjax.spelling import did_you_mean

USAGE = (
    "python -m fgjax.trials RUN_DIR [where=COLUMN=VALUE,…] [best=COLUMN] [over=AXIS] [columns=…]"
)
MAIN = ("accuracy", "validation_accuracy")
"""The numbers that are shown when none are asked for."""
LOWER = ("loss", "seconds")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "!=": operator.ne, "=": operator.eq,
    "<": operator.lt, ">": operator.gt,
}  # fmt: skip

Row = dict[str, Any]


def main(words: list[str] | None = None) -> int:
    """Prints the table. Returns 0, or 2 for a wrong word or a folder that is no sweep's."""
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


def read_trials(folder: str | Path) -> list[Row]:
    """A row per trial: "trial", its settings by the short names of the axes, "state", "seconds",
    and the numbers of its run.

    Numbers: `validation_accuracy` of the training; every metric of test.json, metrics.json and
    other files of that form, by its name; of compare.json, by METHOD.METRIC.

    Raises:
      ConfigError: this is no folder of a sweep.
    """
    folder = Path(folder)
    try:
        states = json.loads((folder / "trials.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(f"{folder}: holds no trials (no trials.json that can be read)") from None
    names = list(dict.fromkeys(axis for about in states.values() for axis in about["settings"]))
    short = short_names(names)
    rows = []
    for trial, about in states.items():
        settings = {short[a]: _number(about["settings"].get(a)) for a in names}
        numbers = read_numbers(folder / trial) if about["state"] == "done" else {}
        head = {"trial": trial, **settings, "state": about["state"]}
        head["seconds"] = about.get("seconds")
        rows.append(head | {k if k not in head else f"metric.{k}": v for k, v in numbers.items()})
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [{column: row.get(column) for column in columns} for row in rows]


def read_numbers(run: Path) -> dict[str, float]:
    """The numbers of one run, by name."""
    numbers: dict[str, float] = {}
    for path in sorted(run.glob("*.json"), key=lambda p: (p.name != "test.json", p.name)):
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if not isinstance(about, dict):
            continue
        if path.name == "run.json":
            trained = about.get("stages", {}).get("train", {})
            about = {
                "metrics": {"validation_accuracy": {"mean": trained.get("validation_accuracy")}}
            }
        tables = {f"{m}.": held["metrics"] for m, held in about.get("methods", {}).items()}
        for prefix, table in {"": about.get("metrics", {}), **tables}.items():
            for metric, held in table.items():
                value = held.get("mean") if isinstance(held, dict) else None
                if value is not None:
                    name = f"{prefix}{metric}"
                    numbers[f"{path.stem}.{name}" if name in numbers else name] = value
    return numbers


def axes(rows: list[Row]) -> list[str]:
    """The columns that are settings: those between "trial" and "state"."""
    columns = list(rows[0]) if rows else []
    return columns[1 : columns.index("state")] if columns else []


def where(rows: list[Row], conditions: str) -> list[Row]:
    """The rows that fit every one of `column=value`, `column>=value`, … between commas.

    Raises:
      ConfigError: a condition is none, or names no column.
    """
    for condition in filter(None, conditions.split(",")):
        found = re.fullmatch(r"([\w.]+)(<=|>=|!=|=|<|>)(.*)", condition)
        if not found:
            raise ConfigError(f"where={condition}: wants COLUMN=VALUE, or another of {_signs()}")
        column, sign, value = found[1], found[2], _number(found[3])
        _check_column(rows, column, "where")
        rows = [row for row in rows if _fits(row[column], sign, value)]
    return rows


def _fits(held: Any, sign: str, value: Any) -> bool:
    if isinstance(held, str) != isinstance(value, str) or held is None:
        return sign == "!="
    return COMPARE[sign](held, value)


def best_first(rows: list[Row], column: str) -> list[Row]:
    """The rows in the order of a number, the best first, those without it last."""
    _check_column(rows, column, "best")
    metric = column.rpartition(".")[2]
    higher = metric not in LOWER and BETTER.get(metric, True) is not False
    have = [row for row in rows if isinstance(row[column], int | float)]
    rest = [row for row in rows if row not in have]
    return sorted(have, key=lambda row: row[column], reverse=higher) + rest


def average(rows: list[Row], axis: str) -> list[Row]:
    """One row for those that differ in `axis` alone: means of the numbers, their standard
    deviations as NAME_sd (n - 1; None for a single one), and how many in "n"; done ones only."""
    if axis not in axes(rows):
        raise ConfigError(f"over={axis}: no axis of these trials.{did_you_mean(axis, axes(rows))}")
    kept = [name for name in axes(rows) if name != axis]
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        if row["state"] == "done":
            groups.setdefault(tuple(row[name] for name in kept), []).append(row)
    result = []
    for settings, group in groups.items():
        named = dict(zip(kept, settings, strict=True))
        row = {"trial": ",".join(f"{k}={v}" for k, v in named.items()), **named, "state": "done"}
        row["n"] = len(group)
        for column in list(group[0])[list(group[0]).index("state") + 1 :]:
            values = [r[column] for r in group if isinstance(r[column], int | float)]
            row[column] = statistics.fmean(values) if values else None
            row[f"{column}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        result.append(row)
    return result


def to_csv(rows: list[Row]) -> str:
    """The rows as CSV with a header; what is not known is left empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["trial"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def table(rows: list[Row], columns: list[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: the settings, the state where not all are done, and the numbers asked for
    (`MAIN` and the seconds when none are), with their spread where there is one."""
    for column in columns or ():
        _check_column(rows, column, "columns")
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
    """The table in Markdown."""
    heads, cells = table(rows, columns)
    lines = [heads, ["---"] * len(heads), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_table(rows: list[Row], folder: Path, columns: list[str] | None = None) -> None:
    """Writes trials.md."""
    write_atomic(folder / "trials.md", to_markdown(rows, columns))


def print_trials(rows: list[Row], columns: list[str] | None = None) -> None:
    """Prints the table."""
    heads, cells = table(rows, columns)
    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in heads:
        shown.add_column(head, overflow="fold")
    for line in cells:
        shown.add_row(*map(rich.text.Text, line))
    console.print(shown, soft_wrap=False)


def _check_column(rows: list[Row], column: str, word: str) -> None:
    known = list(rows[0]) if rows else []
    if rows and column not in known:
        raise ConfigError(
            f"{word}: these trials have no column {column}; {', '.join(known)}."
            f"{did_you_mean(column, known)}"
        )


def _signs() -> str:
    return " ".join(COMPARE)


def _number(text: Any) -> Any:
    """The text as a number, where it is one."""
    try:
        return json.loads(text) if re.match(r"-?[\d.]", text) else text
    except (TypeError, ValueError):
        return text


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"
    return "–" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
