"""Training curves for TensorBoard."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class Curves:
    """Scalars over epochs, in one event file in `folder`: `tensorboard --logdir FOLDER`.

    An event file cannot be taken back, and a run that goes on may repeat its last epoch. So
    what the folder held is replaced by `rows`, the epochs that count.
    """

    def __init__(self, folder: Path, rows: Iterable[Mapping[str, float | int]]):
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = EventFileWriter(str(folder))
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, float | int]) -> None:
        """Add an epoch: its number as `epoch`, and its figures; written when this returns."""
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if name != "epoch"
        ]
        event = Event(wall_time=time.time(), step=row["epoch"], summary=Summary(value=values))
        self._writer.add_event(event)
        self._writer.flush()

    def close(self) -> None:
        """End the writer's thread."""
        self._writer.close()
