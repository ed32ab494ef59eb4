"""Tables on disk: CSV text, and numbers as JSON has them."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsFloat


def to_csv(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as CSV text with a header line."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file; none where there is no such file, or it is no such text."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))
    except (FileNotFoundError, UnicodeDecodeError, csv.Error):
        return []


def finite(value: SupportsFloat | None, digits: int | None = None) -> float | None:
    """Return a number as JSON has it: what is not finite is null.

    Args:
      value: the number.
      digits: round to so many decimals.
    """
    if value is None or not math.isfinite(float(value)):
        return None
    return float(value) if digits is None else round(float(value), digits)
