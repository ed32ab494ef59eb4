"""The trials of a sweep as rows: what each was told, and every number that its run measured.

A row is a dict: "trial", its settings by the short names of the axes, "state", "seconds", numbers.
"""

import json
import operator
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fgjax.core.spelling import did_you_mean
from fgjax.evaluation.summary import BETTER
from fgjax.options.schema import ConfigError
from fgjax.sweeps.grid import short_names

LOWER = ("loss", "seconds")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "!=": operator.ne, "=": operator.eq,
    "<": operator.lt, ">": operator.gt,
}  # fmt: skip

Row = dict[str, Any]


def read_trials(folder: str | Path) -> list[Row]:
    """Return a row per trial: "trial", its settings by the short names of the axes, "state",
    "seconds", and the numbers of its run.

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
    """Return the numbers of one run, by name."""
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
    """Return the columns that are settings: those between "trial" and "state"."""
    columns = list(rows[0]) if rows else []
    return columns[1 : columns.index("state")] if columns else []


def where(rows: list[Row], conditions: str) -> list[Row]:
    """Return the rows that fit every one of `column=value`, `column>=value`, … between commas.

    Raises:
      ConfigError: a condition is none, or names no column.
    """
    for condition in filter(None, conditions.split(",")):
        found = re.fullmatch(r"([\w.]+)(<=|>=|!=|=|<|>)(.*)", condition)
        if not found:
            raise ConfigError(f"where={condition}: wants COLUMN=VALUE, or another of {_signs()}")
        column, sign, value = found[1], found[2], _number(found[3])
        check_column(rows, column, "where")
        rows = [row for row in rows if _fits(row[column], sign, value)]
    return rows


def _fits(held: Any, sign: str, value: Any) -> bool:
    if isinstance(held, str) != isinstance(value, str) or held is None:
        return sign == "!="
    return COMPARE[sign](held, value)


def best_first(rows: list[Row], column: str) -> list[Row]:
    """Return the rows in the order of a number, the best first, those without it last."""
    check_column(rows, column, "best")
    metric = column.rpartition(".")[2]
    higher = metric not in LOWER and BETTER.get(metric, True) is not False
    have = [row for row in rows if isinstance(row[column], int | float)]
    rest = [row for row in rows if row not in have]
    return sorted(have, key=lambda row: row[column], reverse=higher) + rest


def average(rows: list[Row], axis: str) -> list[Row]:
    """Return one row for those that differ in `axis` alone: means of the numbers, their standard
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


def check_column(rows: list[Row], column: str, word: str) -> None:
    """Raise ConfigError for a column that the rows have not; `word` is what asked for it."""
    known = list(rows[0]) if rows else []
    if rows and column not in known:
        raise ConfigError(
            f"{word}: these trials have no column {column}; {', '.join(known)}."
            f"{did_you_mean(column, known)}"
        )


def _signs() -> str:
    return " ".join(COMPARE)


def _number(text: Any) -> Any:
    """Return the text as a number, where it is one."""
    try:
        return json.loads(text) if re.match(r"-?[\d.]", text) else text
    except (TypeError, ValueError):
        return text
