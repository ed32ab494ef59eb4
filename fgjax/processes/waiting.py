"""What one process of a run waits for from the others; they meet in the run's folder."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fgjax.core.progress import say
from fgjax.core.tables import read_csv
from fgjax.data.types import Record
from fgjax.processes.shares import Share
from fgjax.runs.folder import RunFolder, process_folder
from fgjax.runs.images import Seen, changed_images, read_images
from fgjax.runs.maps import MapStore

EVERY = 0.5
"""Seconds between two looks."""
REMIND = 60.0
"""Seconds between two lines that say what is waited for."""


def wait_for_run(path: str | Path) -> None:
    """Wait until process 0 has made the run's folder, and so has checked the options."""
    _wait(lambda: not (Path(path) / "run.json").is_file(), lambda: "process 0 to begin")


def wait_for_images(path: Path, now: Seen) -> None:
    """Wait until process 0 has brought the run's folder in line with the images that this
    process sees, too. Where nothing is said of images yet, there is nothing to be moved."""
    _wait(
        lambda: (seen := read_images(path)) is not None and bool(changed_images(seen, now)),
        lambda: (
            "process 0 to look at the images; all must be told the same data.path and data.limit"
        ),
    )


def wait_for_classifier(path: Path) -> None:
    """Wait until process 0 has trained."""
    _wait(
        lambda: not (path / "checkpoint" / "classifier.json").is_file(),
        lambda: "process 0 to train the classifier",
    )


def wait_for_maps(run: RunFolder, share: Share, records: tuple[Record, ...]) -> dict[str, str]:
    """Wait until the other processes have explained their images.

    Returns:
      the images that they could not explain, and why.
    """
    store = MapStore(run.path / "maps.zarr", len(records))
    others = [k for k in range(share.processes) if k != share.own]
    failed: dict[str, str] = {}

    def left() -> dict[int, int]:
        done = store.targets() >= 0
        failed.clear()
        for process in others:
            failed.update(_failures(process_folder(run.path, process)))
        known = np.array([record.name in failed for record in records])
        counts = {k: int((~(done | known))[share.places(len(records), k)].sum()) for k in others}
        return {k: count for k, count in counts.items() if count}

    _wait(
        lambda: bool(left()),
        lambda: " and ".join(f"process {k} ({n} images left)" for k, n in left().items()),
    )
    # What failed once may have been done since.
    done = store.targets() >= 0
    return {r.name: failed[r.name] for r, d in zip(records, done) if r.name in failed and not d}


def join_maps(run: RunFolder, share: Share, records: tuple[Record, ...]) -> int:
    """Wait for the other processes, and writes what failed in any of them into the run's own
    failures.csv. Returns how many of the others' images failed."""
    others = wait_for_maps(run, share, records)
    own = {row["name"]: row["reason"] for row in run.failures() if row["stage"] == "explain"}
    failed = own | others
    run.set_failures("explain", failed)
    done = int((MapStore(run.path / "maps.zarr", len(records)).targets() >= 0).sum())
    run.finish("explain", **run.stage("explain") | {"images": done, "failed": len(failed)})
    return len(others)


def _failures(folder: Path) -> dict[str, str]:
    rows = read_csv(folder / "failures.csv")
    return {row["name"]: row["reason"] for row in rows if row["stage"] == "explain"}


def _wait(goes_on: Callable[[], bool], what: Callable[[], str]) -> None:
    said = -REMIND
    while goes_on():
        if time.monotonic() - said > REMIND:
            if names := what():
                say(f"waiting for {names}; a process that died is started again as it was")
            said = time.monotonic()
        time.sleep(EVERY)
