"""What a training leaves behind, written while an accelerator computes the next epoch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgjax.stages.train import history as module
from fgjax.stages.train.history import History
from fgjax.training.classifier import TrainState


def state(value):
    return TrainState(jnp.int32(value), {"params": jnp.full((64, 64), float(value))}, {})


def row(epoch):
    return {"epoch": epoch, "validation_accuracy": 0.5, "validation_loss": float(-epoch)}


@pytest.fixture
def history(tmp_path, monkeypatch):
    """A history that takes this CPU for an accelerator."""
    monkeypatch.setattr(module, "writes_meanwhile", lambda state: True)
    return History(tmp_path)


def written(history):
    """Return the epochs whose rows, and those whose states, are on disk."""
    file = history.run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    kept = sorted(int(path.name[-4:]) for path in history.folder.glob("epoch_????"))
    return [json.loads(line)["epoch"] for line in lines], kept


def test_an_epochs_row_comes_after_its_state_and_with_the_next(history):
    for epoch in range(3):
        history.add(row(epoch), state(epoch))
        assert written(history)[0] == list(range(epoch))
    history.finish()
    assert written(history) == ([0, 1, 2], [2])  # the last is the best
    assert not list(history.folder.glob("*.partial"))
    assert History(history.run).first == 3


def test_what_is_written_is_what_was_there_when_it_was_given(history):
    """The next epoch's steps are given the state's memory, and write into it."""
    given = state(7)
    history.add(row(0), given)
    later = jax.jit(lambda s: jax.tree.map(lambda a: a + 1, s), donate_argnums=0)(given)
    jax.block_until_ready(later)
    best, found = history.best_state(state(0))
    assert best == 0 and int(found.step) == 7
    np.testing.assert_array_equal(found.variables["params"], np.full((64, 64), 7.0))


def test_who_dies_before_goes_on_an_epoch_earlier(history):
    history.add(row(0), state(0))
    history.add(row(1), state(1))
    again = History(history.run)  # the second epoch's row is not there yet
    assert again.first == 1 and int(again.last_state(state(9)).step) == 0
    history.finish()


def test_a_cpu_waits_for_its_own_writing(tmp_path):
    history = History(tmp_path)
    history.add(row(0), state(0))
    assert written(history) == ([0], [0])
