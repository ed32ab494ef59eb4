"""Training curves for TensorBoard."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fgjax.core.extras import MissingExtraError, extra
from fgjax.core.progress import say


class Curves:
    """Scalars over epochs, in one event file in `folder`: `tensorboard --logdir FOLDER`.

    An event file cannot be taken back, and a run that goes on may repeat its last epoch. So
    what the folder held is replaced by `rows`, the epochs that count. Without the package
    tensorboard nothing is written, and it is said once.
    """

    def __init__(self, folder: Path, rows: Iterable[Mapping[str, float | int]]):
        self._writer: Any = None
        try:
            with extra("tensorboard", "training curves"):
                from tensorboard.compat.proto.event_pb2 import Event
                from tensorboard.compat.proto.summary_pb2 import Summary
                from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except MissingExtraError as error:  # a training is worth as much without them
            say(f"train: no curves for TensorBoard are written: {error}")
            return
        self._event, self._summary = Event, Summary
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = EventFileWriter(str(folder))
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, float | int]) -> None:
        """Add an epoch: its number as `epoch`, and its figures; written when this returns."""
        if self._writer is None:
            return
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if name != "epoch" and value is not None
        ]
        summary = self._summary(value=values)
        self._writer.add_event(
            self._event(wall_time=time.time(), step=row["epoch"], summary=summary)
        )
        self._writer.flush()

    def close(self) -> None:
        """End the writer's thread."""
        if self._writer is not None:
            self._writer.close()
