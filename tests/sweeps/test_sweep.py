"""Sweeps: each trial a run of its own, whatever becomes of the others."""

import json
import subprocess
import sys

import pytest

import fgjax.sweeps.sweep
from fgjax.run import main
from fgjax.sweeps.trials import read_trials


@pytest.fixture
def grid(tmp_path):
    """A sweep over two tiny trainings, and one that dies of a signal."""
    path = tmp_path / "tiny_grid.yaml"
    path.write_text(
        "base: train_species\n"
        "data: {size: 32, train_images: 40, test_images: 20}\n"
        "train: {epochs: 1, batch_size: 8}\n"
        "grid:\n  seed: [0, 1]\n  kind: {plain: {}, flat: {train.shift: 0}}\n"
    )
    return path


@pytest.mark.slow
def test_a_crash_does_not_end_the_sweep(grid, tmp_path, monkeypatch, capfd):
    real, started = subprocess.Popen, []

    def popen(command, **options):
        started.append(command[-1])
        if len(started) == 1:
            command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
        return real(command, **options)

    monkeypatch.setattr(fgjax.sweeps.sweep.subprocess, "Popen", popen)
    words = [f"config={grid}", f"run_dir={tmp_path / 'sweep'}", "grid.seed=0"]
    assert main(words) == 1
    said = capfd.readouterr().out
    assert "trial 1/2, seed=0,kind=plain: failed" in said and "signal 9" in said
    rows = read_trials(tmp_path / "sweep")
    assert [row["state"] for row in rows] == ["failed", "done"]
    test = json.loads((tmp_path / "sweep" / "seed=0,kind=flat" / "test.json").read_text())
    assert rows[1]["accuracy"] == test["metrics"]["accuracy"]["mean"]
    assert (tmp_path / "sweep" / "trials.csv").read_text().startswith("trial,seed,kind,state,")

    # Again: what failed is tried again, what is done is not started.
    assert main(words) == 0
    assert len(started) == 3 and "done before" in capfd.readouterr().out
    assert [row["state"] for row in read_trials(tmp_path / "sweep")] == ["done", "done"]
    assert not (tmp_path / "sweep" / "seed=0,kind=flat" / "training").exists()


def test_an_interrupted_sweep_goes_on(grid, tmp_path, monkeypatch, capfd):
    class Interrupted:
        def __init__(self, *args, **options):
            self.calls = 0

        def wait(self):
            self.calls += 1
            if self.calls == 1:
                raise KeyboardInterrupt
            return 130

    monkeypatch.setattr(fgjax.sweeps.sweep.subprocess, "Popen", Interrupted)
    words = [f"config={grid}", f"run_dir={tmp_path / 'sweep'}"]
    assert main(words) == 130
    assert "goes on from here" in capfd.readouterr().out
    states = json.loads((tmp_path / "sweep" / "trials.json").read_text())
    assert [about["state"] for about in states.values()] == ["running"] + ["waiting"] * 3


def test_wrong_options_are_told_before_a_trial_starts(grid, tmp_path, capsys):
    words = [f"config={grid}", f"run_dir={tmp_path / 'sweep'}"]
    assert main([*words, "grid.train.epochs=1,0"]) == 2
    err = capsys.readouterr().err
    assert "trial" in err and "train.epochs=0" in err
    assert main([*words, "train.epoch=1"]) == 2
    assert "Did you mean train.epochs" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()
    assert main([*words, "dry_run=true"]) == 0
    assert "4 trials" in capsys.readouterr().out and not (tmp_path / "sweep").exists()
