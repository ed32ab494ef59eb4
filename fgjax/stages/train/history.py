"""What a training leaves behind after every epoch, to go on from.

run/metrics.jsonl         a row per epoch
run/training/epoch_NNNN   the state after it: that of the last epoch, and of the best
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax

from fgjax.core.files import write_atomic
from fgjax.core.progress import say
from fgjax.devices.collectives import leads, of_first
from fgjax.devices.placed import on_cpu
from fgjax.options.schema import ConfigError
from fgjax.training.checkpoints import begin_saving, load_tree, save_tree
from fgjax.training.classifier import TrainState


class History:
    """The finished epochs of a training, on disk.

    Connected processes all have one; the first of them writes.

    Args:
      run: the run's folder, or one within.
      select: which epoch is wanted in the end: the best, or the last.

    Attributes:
      run: the folder.
      folder: of the states.
      rows: of the finished epochs.
      first: the epoch to go on with.
    """

    def __init__(self, run: Path, select: Literal["best", "last"] = "best"):
        self.run, self._select = run, select
        self.folder = run / "training"
        self._metrics = run / "metrics.jsonl"
        rows = _read_rows(self._metrics)
        self._writing: tuple[Callable[[], None], dict[str, Any]] | None = None
        self.first = of_first(self._finished(len(rows)))
        self.rows: list[dict[str, Any]] = rows[: self.first]

    def _finished(self, rows: int) -> int:
        for path in reversed(self._kept()):
            epoch = _epoch(path)
            # An epoch counts once its row is written too, which happens after its state.
            if epoch < rows:
                return epoch + 1
        return 0

    def _state(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch:04d}"

    def last_state(self, fresh: TrainState) -> TrainState:
        """Return the state to go on from: after the last finished epoch, or the fresh one.

        Where it is damaged, an earlier one that is kept, and `first` and `rows` go back to it.
        """
        for path in reversed(self._kept()):
            epoch = _epoch(path)
            if epoch >= self.first:
                continue
            try:
                state = load_tree(path, fresh)
            except Exception as error:  # Orbax raises many kinds; the user needs the folder's name
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                say(f"train: {path} is damaged and left out ({reason})")
                continue
            self._go_back(epoch + 1)
            return state
        self._go_back(0)
        return fresh

    def _go_back(self, first: int) -> None:
        self.first, self.rows = first, self.rows[:first]

    def _kept(self) -> list[Path]:
        return sorted(self.folder.glob("epoch_[0-9][0-9][0-9][0-9]"))

    def begin(self) -> None:
        """Forget what was written of an epoch that comes again."""
        if leads():
            self.run.mkdir(parents=True, exist_ok=True)
            write_atomic(self._metrics, "".join(json.dumps(row) + "\n" for row in self.rows))
            self._keep(set(range(self.first)))

    def add(self, row: dict[str, Any], state: TrainState) -> None:
        """Write an epoch's state and then its row; only the last and the best states are kept.

        Where an accelerator computes the next epoch meanwhile, both are there after the next call
        of this or of `finish`; who dies before goes on an epoch earlier.
        """
        self.finish()
        self.rows.append(row)
        if writes_meanwhile(state):
            self._writing = begin_saving(self._state(row["epoch"]), state), row
            return
        save_tree(self._state(row["epoch"]), state)
        self._note(row)

    def finish(self) -> None:
        """Wait until what `add` was given is on disk."""
        if self._writing is not None:
            (wait, row), self._writing = self._writing, None
            wait()
            self._note(row)

    def _note(self, row: dict[str, Any]) -> None:
        if leads():
            with self._metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            self._keep({row["epoch"], self.best})

    @property
    def best(self) -> int:
        """Of the epochs that count the one with the highest validation accuracy, of equals the one
        with the lowest loss; the last where that is wanted, or where nothing was validated."""
        if self._select == "last" or self.rows[-1]["validation_accuracy"] is None:
            return self.rows[-1]["epoch"]
        counting = [row for row in self.rows if row.get("counts", True)] or self.rows
        return max(counting, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))[
            "epoch"
        ]

    def best_state(self, fresh: TrainState) -> tuple[int, TrainState]:
        """Return the best epoch, as the first process knows it, and its state.

        Raises:
          ConfigError: it is damaged.
        """
        self.finish()
        epoch = of_first(self.best)
        try:
            return epoch, load_tree(self._state(epoch), fresh)
        except Exception as error:  # Orbax raises many kinds; the user needs the folder's name
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"{self._state(epoch)}: the best epoch of the training is damaged ({reason}); "
                f"delete {self.folder} and it begins anew"
            ) from None

    def delete(self) -> None:
        """Remove all states: the training is over."""
        self.finish()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _keep(self, epochs: set[int]) -> None:
        for path in self._kept():
            if _epoch(path) not in epochs:
                shutil.rmtree(path)


def writes_meanwhile(state: TrainState) -> bool:
    """Return whether a state is written while the next epoch is computed: by an accelerator, of a
    process that is alone. A CPU computes no faster for it, and Orbax makes connected processes
    wait for each other."""
    return jax.process_count() == 1 and not on_cpu(state)


def _epoch(path: Path) -> int:
    return int(path.name.removeprefix("epoch_"))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # the last line of a run that was cut off while writing it
            break
    return rows
