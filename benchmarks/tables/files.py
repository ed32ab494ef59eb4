"""Where results lie, and how they are read and become Markdown."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_reports(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Yield the reports of one script, `KIND_*.json`, by name."""
    for path in sorted(folder.glob(f"{kind}_*.json")):
        yield read_json(path)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rows_so_far(path: Path) -> list[dict[str, str]]:
    """Return the rows that a script has written, none where it has not begun."""
    return read_rows(path) if path.is_file() else []


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row, after the heads where it is the first; floats with five digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


def to_markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def machine(about: dict[str, Any]) -> str:
    """Return on what a report was measured, in words."""
    versions = about["versions"]
    where = about.get("device") or f"{about['cpu']}, {about['threads']} cores"
    where += f"; jax {versions['jax']}"
    return where + (f", torch {versions['torch'].split('+')[0]}" if "torch" in versions else "")
