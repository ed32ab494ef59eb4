"""Tables of the networks beside timm's."""

from pathlib import Path

from tables.files import RESULTS, read_reports, to_markdown


def parity_table(folder: Path = RESULTS) -> str:
    """Return the largest relative difference of the logits, a row per network."""
    rows = []
    for report in read_reports(folder, "network_parity"):
        found: dict[str, list[str]] = {}
        for row in report["rows"]:
            found.setdefault(row["network"], []).append(f"{row['size']}²: {row['logits']:.1e}")
        rows += [[f"`{name}`", *cells] for name, cells in found.items()]
    return to_markdown(["network", "its own size", "another size"], rows)
