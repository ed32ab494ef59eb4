"""The table of a comparison as text: Markdown, and what fits a terminal."""

from typing import Any

import numpy as np
import rich.box
import rich.table

from fgjax.core.progress import console
from fgjax.report.comparison import Column, Table


def to_markdown(table: Table) -> str:
    """Return the table, its best values in bold, and below it how each column was measured."""
    heads = ["method", "mean rank", *map(_head, table.columns), "passes", "s / image", "peak GiB"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    best = table.best()
    for row in table.rows:
        cells = []
        for column, cell in zip(table.columns, row.cells, strict=True):
            text = "–" if cell is None else f"{cell[0]:.3f} ({cell[1]:.2f} to {cell[2]:.2f})"
            text += f" n = {cell[3]}" if cell is not None and cell[3] < table.images else ""
            cells.append(f"**{text}**" if row.method in best.get(column.name, ()) else text)
        rank = "–" if row.rank is None or np.isnan(row.rank) else f"{row.rank:.1f}"
        costs = ["", "", ""] if row.variant else _costs(row.cost)
        lines.append("| " + " | ".join([row.method, rank, *cells, *costs]) + " |")
    lines += ["", f"{table.images} images; means with 95 % bootstrap intervals over the images. "
              "(↑), (↓): a column that ranks nothing. Passes: forward, ↔ forward and back. Seconds:"
              " median over the images, without compiling.", ""]  # fmt: skip
    lines += [*(f"{note}\n" for note in table.notes)]
    lines += [f"- {c.head}: {c.protocol}" for c in table.columns]
    return "\n".join(lines) + "\n"


def _head(column: Column) -> str:
    """Return a column's head with the arrow of what is better, in brackets where it ranks
    nothing."""
    arrow = {True: "↑", False: "↓", None: ""}[column.higher]
    arrow = f"({arrow})" if column.unranked and arrow else arrow
    return f"{column.head} {arrow}".rstrip()


def _costs(cost: dict[str, Any]) -> list[str]:
    """Return passes, seconds per image and peak memory as text."""
    parts = [f"{cost['forward_passes']}"] if cost["forward_passes"] else []
    parts += [f"{cost['backward_passes']} ↔"] if cost["backward_passes"] else []
    peak = cost["peak_bytes"]
    return [
        " + ".join(parts) or "0",
        f"{cost['seconds_per_image']:.3g}",
        "–" if peak is None else f"{peak / 2**30:.2f}",
    ]


def print_table(table: Table) -> None:
    """Print what fits a terminal: the ranks and a few columns; all are in compare.md."""
    heads = {c.name: i for i, c in enumerate(table.columns)}
    first = next((n for n in ("cue", "object", "box") if f"energy_in_{n}" in heads), None)
    chosen = [f"pointing_{first}", f"energy_in_{first}", "insertion", "deletion", "road_gap"]
    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = [heads[name] for name in chosen if name in heads]
    shown.add_column("", no_wrap=True)
    for head in ("rank", *(_head(table.columns[i]) for i in columns), "s/image"):
        shown.add_column(head, justify="right")
    for row in table.rows:
        rank = "–" if row.rank is None or np.isnan(row.rank) else f"{row.rank:.1f}"
        found = [row.cells[i] for i in columns]
        cells = ["–" if cell is None else f"{cell[0]:.3f}" for cell in found]
        shown.add_row(row.method, rank, *cells, "" if row.variant else _costs(row.cost)[1])
    console.print(shown, soft_wrap=False)
