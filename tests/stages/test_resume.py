"""Runs that are killed at the worst moment, and go on to the same end."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import fgjax
import fgjax.stages.explain.stage
import fgjax.stages.train.history
import fgjax.stages.train.stage
import fgjax.training.checkpoints
from fgjax.run import main
from fgjax.runs.maps import MapStore, load_maps, read_traces
from fgjax.training.checkpoints import load_classifier

KILL_IN_EXPLAIN = """
import os, signal, sys
import numpy as np
from fgjax.runs.maps import MapStore
real = MapStore.write
def write(self, index, target, maps, traces):
    if index == 2:  # half of the third image: its heat map, and no word that it is done
        heat = maps["heatmap"].astype(np.float16)
        self._array("heatmap", heat.shape, "float16")[index].write(heat).result()
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, index, target, maps, traces)
MapStore.write = write
from fgjax.run import main
main(sys.argv[1:])
"""

KILL_IN_TRAINING = """
import os, signal, sys
import fgjax.training.classifier as classifier
real, steps = classifier.train_step, []
def train_step(*args, **options):
    steps.append(1)
    if len(steps) == 5:  # two steps an epoch: in the middle of the third
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **options)
classifier.train_step = train_step
from fgjax.run import main
main(sys.argv[1:])
"""

LONGER = ("train.epochs=3", "train.batch_size=15", "stages=train")


def killed(script: str, words: list[str]) -> None:
    """Runs the command in a process of its own, which must die of its SIGKILL."""
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == -9, done.stderr


def assert_same_classifier(a: Path, b: Path) -> None:
    a_model, b_model = load_classifier(a), load_classifier(b)
    assert a_model.classes == b_model.classes
    jax.tree.map(np.testing.assert_array_equal, a_model.variables, b_model.variables)


def epochs(run: Path) -> list[dict]:
    """The rows of metrics.jsonl without their seconds."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def longer(tmp_path_factory, words) -> Path:
    """Three epochs without an interruption."""
    run = tmp_path_factory.mktemp("longer") / "run"
    assert main(words(run, *LONGER)) == 0
    assert len(epochs(run)) == 3
    return run


@pytest.mark.slow
def test_killed_while_explaining(tmp_path, words, trained, finished):
    run = shutil.copytree(trained, tmp_path / "run")
    killed(KILL_IN_EXPLAIN, words(run))
    targets = MapStore(run / "maps.zarr", 3).targets()
    assert (targets[:2] >= 0).all() and targets[2] == -1
    half = load_maps(run)
    assert np.isfinite(half["heatmap"]).all() and np.isnan(half["ssr"][2]).all()
    assert not (run / "results.csv").exists()

    assert main(words(run)) == 0
    whole = load_maps(finished)
    assert set(half) == set(whole)
    for name, maps in load_maps(run).items():
        np.testing.assert_array_equal(maps, whole[name])
        np.testing.assert_array_equal(maps[:2], half[name][:2])
    traces = read_traces(finished / "maps.zarr")
    for name, trace in read_traces(run / "maps.zarr").items():
        np.testing.assert_array_equal(trace, traces[name])
    assert (run / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


@pytest.mark.slow
def test_killed_while_training(tmp_path, words, longer, capsys):
    run = tmp_path / "run"
    killed(KILL_IN_TRAINING, words(run, *LONGER))
    assert len(epochs(run)) == 2 and not (run / "checkpoint").exists()
    assert main(words(run, *LONGER)) == 0
    assert "going on after epoch 2" in capsys.readouterr().out
    assert epochs(run) == epochs(longer)
    assert_same_classifier(run, longer)
    assert not (run / "training").exists()


def stop(patch, module, name: str, call: int, *, after: bool) -> None:
    """Makes the call-th call of a function end the run, before or after it has done its work."""
    real, calls = getattr(module, name), []

    def function(*args, **options):
        calls.append(1)
        if len(calls) == call and not after:
            raise KeyboardInterrupt
        result = real(*args, **options)
        if len(calls) == call:
            raise KeyboardInterrupt
        return result

    patch.setattr(module, name, function)


STOPS = {
    "a state is saved, its row not yet": ("history", "save_tree", 2, True),
    "a state is half saved": ("history", "save_tree", 2, False),
    "a row is written": ("rows", "_keep", 3, False),
    "the checkpoint lacks its description": ("checkpoints", "save_tree", 1, True),
    "the checkpoint is whole, the stage not": ("train", "save_classifier", 1, True),
}


QUICK = ("a state is saved, its row not yet",)


@pytest.mark.parametrize(
    "moment", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in STOPS]
)
def test_interrupted_around_a_checkpoint(tmp_path, words, longer, capsys, moment):
    place, name, call, after = STOPS[moment]
    module = {
        "train": fgjax.stages.train.stage,
        "history": fgjax.stages.train.history,
        "rows": fgjax.stages.train.history.History,
        "checkpoints": fgjax.training.checkpoints,
    }[place]
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, module, name, call, after=after)
        assert main(words(run, *LONGER)) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert main(words(run, *LONGER)) == 0
    assert epochs(run) == epochs(longer)
    assert_same_classifier(run, longer)
    assert not (run / "training").exists()


@pytest.mark.slow
def test_epochs_that_are_written_meanwhile(tmp_path, words, longer, monkeypatch):
    """As an accelerator has them, interrupted in the second epoch."""
    history = fgjax.stages.train.history
    monkeypatch.setattr(history, "writes_meanwhile", lambda state: True)
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, history, "begin_saving", 2, after=False)
        assert main(words(run, *LONGER)) == 130
    assert len(epochs(run)) == 1
    assert main(words(run, *LONGER)) == 0
    assert epochs(run) == epochs(longer)
    assert_same_classifier(run, longer)


@pytest.mark.slow
def test_a_row_that_was_cut_off(tmp_path, words, longer):
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, fgjax.stages.train.history.History, "_keep", 3, after=True)
        assert main(words(run, *LONGER)) == 130
    rows = run / "metrics.jsonl"
    rows.write_bytes(rows.read_bytes()[:-20])
    assert main(words(run, *LONGER)) == 0
    assert epochs(run) == epochs(longer)
    assert_same_classifier(run, longer)


def test_interrupted_while_explaining(tmp_path, words, trained, finished, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    methods = dict(fgjax.stages.explain.stage.METHODS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fgjax.stages.explain.stage, "METHODS", methods)
        calls = []

        def interrupted(*args, **options):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return fgjax.fido(*args, **options)

        methods["fido"] = interrupted
        assert main(words(run)) == 130
    captured = capsys.readouterr()
    assert "interrupted" in captured.err and "Traceback" not in captured.err
    assert main(words(run, "stages=explain")) == 0
    assert "2 images of 3, the others are done" in capsys.readouterr().out
    np.testing.assert_array_equal(load_maps(run)["heatmap"], load_maps(finished)["heatmap"])


@pytest.mark.slow
def test_a_damaged_state_falls_back_to_an_earlier_one(tmp_path, words, longer, capsys):
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, fgjax.stages.train.history.History, "_keep", 3, after=True)
        assert main(words(run, *LONGER)) == 130
    *_, last = sorted((run / "training").glob("epoch_*"))
    for file in last.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:7])
    capsys.readouterr()
    assert main(words(run, *LONGER)) == 0
    assert f"{last} is damaged" in capsys.readouterr().out.replace("\n", " ")
    assert epochs(run) == epochs(longer)
    assert_same_classifier(run, longer)


@pytest.mark.slow
def test_training_that_diverges_says_so(tmp_path, words, capsys):
    assert main(words(tmp_path / "run", *LONGER, "train.learning_rate=1e30")) == 2
    err = capsys.readouterr().err
    assert "train.learning_rate=1e+30" in err and "not finite" in err
