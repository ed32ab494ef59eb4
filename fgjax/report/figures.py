"""A run's figures: one PNG for each explained image."""

import re
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from fgjax.report.contents import Entry
from fgjax.report.overlay import panel
from fgjax.report.page import format_number


def write_figures(
    folder: Path,
    entries: Iterable[Entry],
    *,
    threshold: float = 0.5,
    opacity: float = 0.5,
    colormap: str = "magma",
    cell: int = 256,
) -> list[Path]:
    """Write `panel` of each entry to `folder`, which is made when missing.

    Files are named after the entries (`safe_name`); a name that was taken by an earlier
    entry of the same call gets -2, -3, …

    Returns:
      the files, in the order of the entries.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    taken, files = set(), []
    for entry in entries:
        picture = panel(
            entry.image,
            entry.maps,
            box=entry.box,
            mask=entry.mask,
            cue=entry.cue,
            title=_title(entry),
            notes=entry.notes,
            threshold=threshold,
            opacity=opacity,
            colormap=colormap,
            cell=cell,
        )
        stem = name = safe_name(entry.name)
        number = 1
        while name.lower() in taken:  # some file systems do not tell A from a
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.lower())
        files.append(folder / f"{name}.png")
        Image.fromarray(picture).save(files[-1], optimize=True)
    return files


def safe_name(name: str) -> str:
    """Return a file stem out of any text: ASCII letters, digits, `._-`; no leading dot; ≤ 100
    long."""
    stem = re.sub(r"\.(jpe?g|png|webp|bmp|gif|tiff?)$", "", name, flags=re.IGNORECASE)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._")[:100]
    return stem or "image"


def _title(entry: Entry) -> str:
    parts = [entry.name]
    if entry.label is not None:
        parts.append(f"class {entry.label}")
    if entry.predicted is not None and entry.predicted != entry.label:
        parts.append(f"predicted {entry.predicted}")
    if entry.target is not None and entry.target not in (entry.label, entry.predicted):
        parts.append(f"target {entry.target}")
    if entry.probability is not None:
        parts.append(f"p {format_number(entry.probability)}")
    return "   ·   ".join(parts)
