"""Before a run goes on: what lies in its folder is brought in line with the images of now.

Maps, rows and scores belong to an image, by its name and content. One that is another picture
now, or of another class, is done again; new ones are added; the others stay.
"""

import json
from collections.abc import Collection
from pathlib import Path

from fgjax.core.files import as_written, write_atomic
from fgjax.core.progress import say
from fgjax.core.tables import read_csv, to_csv
from fgjax.processes.waiting import wait_for_images
from fgjax.runs.arrange import arrange, read_names
from fgjax.runs.images import Seen, changed_images, look_at, read_images, write_images
from fgjax.stages.images import say_what_is_left_out
from fgjax.stages.job import Job

MAPS = "maps.zarr"
USE_IMAGES = {"explain", "evaluate", "report", "compare", "tta"}
"""Stages whose results are an image's own."""


def mend(job: Job) -> None:
    """Give every image the row that it has in the order of now, and take back what was made of
    one that changed.

    The first process does it, the others wait for it. images.json is written last: after a kill
    all of it is done again.
    """
    if not USE_IMAGES & set(job.config.stages):
        return
    records = job.records
    if job.share.leads:
        say_what_is_left_out(job.source, len(records))
    path = job.run.path
    held = read_images(path)
    now = _look(job, held or {})
    if not job.share.leads:
        wait_for_images(path, now)
        return
    # Where nothing is known of them, the fingerprint says whether they are the same.
    unknown = now if job.run.same_data else {}
    changed = changed_images(unknown if held is None else held, now)
    names = [record.name for record in records]
    maps = path / MAPS
    before = read_names(maps)
    there = maps.is_dir() or any((path / "compare").glob("*/maps.zarr"))
    if changed or (before is not None and before != names):
        if there:
            _say(names, before, changed)
        for stage in ("evaluate", "report"):
            job.run.forget(stage)
    arrange(maps, names, changed)
    for method in sorted((path / "compare").glob("*")):
        _forget_compared(method, changed)
    forget_rows(path / "tta.csv", changed)
    write_images(path, (held or {}) | now)


def _look(job: Job, before: Seen) -> Seen:
    source, labels = job.source, [record.label for record in job.records]
    classes = [None if label is None else source.classes[label] for label in labels]
    if job.config.model.weights and not job.config.model.labels:
        # The outputs are the classes by their order, not by their names.
        classes = [None if c is None else f"{label} {c}" for c, label in zip(classes, labels)]
    return look_at(job.records, classes, getattr(source, "file", None), before)


def _say(names: list[str], before: list[str] | None, changed: set[str]) -> None:
    had, have = set(names if before is None else before), set(names)
    counts = {
        "changed": len(changed & have & had),
        "new": len(have - had),
        "no longer there": len(had - have),
    }
    told = [f"{count} {word}" for word, count in counts.items() if count]
    if told:
        say(f"images: {', '.join(told)}; the others stay as they are")


def _forget_compared(method: Path, changed: Collection[str]) -> None:
    """Take back a compared method's maps and scores of some images."""
    maps = method / MAPS
    if not changed or not maps.is_dir():
        return
    names = read_names(maps) or compared_images(method)
    if names:
        arrange(maps, names, changed)
        for scores in sorted(method.glob("scores*.csv")):
            forget_rows(scores, changed)


def compared_images(method: Path) -> list[str] | None:
    """Return the images of a compared method's rows, as its settings.json has them."""
    try:
        names = json.loads((method / "settings.json").read_text(encoding="utf-8"))["images"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return names if isinstance(names, list) else None


def forget_rows(path: Path, changed: Collection[str]) -> None:
    """Take the rows of some images out of a table."""
    rows = read_csv(path)
    escaped = {as_written(name) for name in changed}
    kept = [row for row in rows if row.get("name") not in escaped]
    if len(kept) < len(rows) and None not in rows[0]:
        write_atomic(path, to_csv(kept, list(rows[0])))
