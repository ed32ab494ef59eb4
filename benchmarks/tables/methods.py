"""Every method beside the others, and the widths of GLAS."""

from pathlib import Path
from typing import Any, NamedTuple

from fgjax.options.judging import CONTROLS
from tables.files import RESULTS, ROOT, read_json, read_rows, to_markdown


class Column(NamedTuple):
    """A column of the overview.

    Attributes:
      images: the set, as in `compare_SET.csv`.
      metric: as in that file.
      head: what stands over it.
      digits: after the point.
      higher: whether more is better.
    """

    images: str
    metric: str
    head: str
    digits: int = 3
    higher: bool = True


COLUMNS = (
    Column("species", "pointing_cue", "points at part ↑", 2),
    Column("species", "energy_in_cue", "energy in part ↑"),
    Column("species", "part_deletion", "part deletion ρ ↑"),
    Column("species", "insertion_patches", "insertion ↑"),
    Column("species", "deletion_patches", "deletion ↓", higher=False),
    Column("species", "randomisation_rank_correlation", "randomised ρ, absolute ↓", higher=False),
    Column("birds", "energy_in_part_head", "birds: energy in head ↑"),
    Column("birds", "insertion_patches", "insertion ↑"),
    Column("birds", "deletion_patches", "deletion ↓", higher=False),
    Column("butterflies", "energy_in_object", "butterflies: energy in it ↑"),
    Column("butterflies", "deletion_patches", "deletion ↓", higher=False),
    Column("butterflies", "iou_best", "IoU, mask ↑"),
)
"""Insertion and deletion from an infill that no method optimises on: the image's own patches."""
SHORT = ("pointing_cue", "energy_in_cue", "part_deletion", "randomisation_rank_correlation")
"""The columns of drawn birds that the README shows; of birds all."""


def _passes() -> dict[str, str]:
    """Return method -> its passes on drawn birds, the methods in the order of their mean rank."""
    page = (ROOT / "docs" / "results" / "compare_species.md").read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    head, *rows = lines
    # What has a colon is another map of a method.
    return {row[0]: row[head.index("passes")] for row in rows if ": " not in row[0]}


def _table(columns: tuple[Column, ...], folder: Path) -> str:
    means = {
        (images, row["method"], row["metric"]): float(row["mean"])
        for images in {column.images for column in columns}
        for row in read_rows(folder / f"compare_{images}.csv")
        if row["mean"]
    }
    passes = _passes()

    def cell(column: Column, method: str) -> str:
        value = means.get((column.images, method, column.metric))
        if value is None:
            return "–"
        known = [
            round(means[column.images, name, column.metric], column.digits)
            for name in passes
            if name not in CONTROLS and (column.images, name, column.metric) in means
        ]
        text = f"{value:.{column.digits}f}"
        best = max(known) if column.higher else min(known)
        return f"**{text}**" if round(value, column.digits) == best else text

    rows = [
        [f"`{method}`", passes[method], *(cell(column, method) for column in columns)]
        for method in passes
    ]
    return to_markdown(["method", "passes", *(column.head for column in columns)], rows)


def overview_table(folder: Path = RESULTS) -> str:
    """Return every method on three sets of images, ordered by mean rank on drawn birds."""
    return _table(COLUMNS, folder)


def short_table(folder: Path = RESULTS) -> str:
    """Return the same with a few columns."""
    return _table(
        tuple(
            column
            for column in COLUMNS
            if (column.images == "species" and column.metric in SHORT) or column.images == "birds"
        ),
        folder,
    )


def glas_table(folder: Path = RESULTS) -> str:
    """Return pointing and IoU of some of GLAS' widths: grids of 7 and 11, and other images."""
    reports = [
        (read_json(folder / "glas_sigma_cpu.json"), 7),
        (read_json(folder / "glas_sigma_cpu.json"), 11),
        (read_json(folder / "glas_sigma_validation_cpu.json"), 7),
    ]

    def told(row: dict[str, Any]) -> str:
        return f"{row['pointing']:.2f} / {row['argmax']:.2f} / {row['IoU']:.2f}"

    def widths(*wanted: float | None) -> list[str]:
        found = []
        for report, grid in reports:
            (row,) = (
                row
                for row in report["rows"]
                if (row["light"], row["shadow"], row["spatial"]) == wanted and row["grid"] == grid
            )
            found.append(told(row))
        return found

    def baseline(name: str) -> list[str]:
        rows = [row for report, _ in reports for row in report["baselines"]]
        return [told(row) for row in rows if row["baseline"] == name]

    return to_markdown(
        ["σ_light, σ_shadow, σ_spatial", "grid 7", "grid 11", "grid 7, 27 other images"],
        [
            ["**45, 20, 60: the default, with grid 11**", *widths(45, 20, 60)],
            ["45, 20, 45", *widths(45, 20, 45)],
            ["5, 10, 60", *widths(5, 10, 60)],
            ["shadow 10 alone, 60", *widths(None, 10, 60)],
            ["a bell in the centre", *baseline("centre")],
            ["random", *baseline("random")],
        ],
    )


NORMALISED = {
    "constant_model": "correlation with the map of a constant model",
    "randomised": "absolute ρ, last layer randomised",
    "insertion": "insertion from blur ↑",
    "insertion_patches": "insertion from patches ↑",
    "deletion": "deletion to the mean colour ↓",
    "deletion_patches": "deletion to patches ↓",
    "energy_in_box": "energy in the box ↑",
    "iou_best": "IoU with the box, best level ↑",
    "pointing_box": "points at the box ↑",
}
"""The numbers of `glas_normalise.py`, and what the table calls them."""


def glas_normalise_table(folder: Path = RESULTS) -> str:
    """Return what GLAS' map is worth divided by the points and by the Gaussians."""
    metrics = read_json(folder / "glas_normalise_cpu.json")["metrics"]
    rows = []
    for name, head in NORMALISED.items():
        found = metrics[name]
        mean, low, high = found["difference_95"]
        ends = [f"{found[way]:.3f} ({found['range'][way][0]:.2f} to {found['range'][way][1]:.2f})"
                for way in ("points", "weights")]  # fmt: skip
        rows.append([head, *ends, f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"])
    return to_markdown(["", "points", "weights", "weights − points, 95 %"], rows)
