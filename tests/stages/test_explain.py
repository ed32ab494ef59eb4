"""Explaining when memory or disk run out, and in bfloat16."""

import json
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

import fgjax
import fgjax.stages.explain.stage as stage
from fgjax.attribution.common.types import Attribution
from fgjax.run import main
from fgjax.runs.maps import MapStore, load_maps, read_traces
from fgjax.stages.classifier import Explained

EXHAUSTED = "RESOURCE_EXHAUSTED: Out of memory allocating 1099511627776 bytes."


@pytest.fixture
def run(tmp_path, trained):
    """A copy of the run that is only trained."""
    return shutil.copytree(trained, tmp_path / "run")


def constant(model, images, *rest, **options):
    """A quick method: each image's mean everywhere."""
    means = images.mean((1, 2, 3))[:, None, None]
    return Attribution(jnp.broadcast_to(means, images.shape[:3]))


def fido_that_fails(monkeypatch, fails, message=EXHAUSTED, method=constant):
    """A method in the place of FIDO that raises for the calls of which `fails(number, images)`;
    returns the list of how many images each call had."""
    sizes = []

    def fido(model, images, *rest, **options):
        sizes.append(len(images))
        assert options["config"].images_per_step == len(images)
        if fails(len(sizes), len(images)):
            raise jax.errors.JaxRuntimeError(message)
        return method(model, images, *rest, **options)

    monkeypatch.setattr(stage, "METHODS", {**stage.METHODS, "fido": fido})
    return sizes


@pytest.mark.slow
def test_an_exhausted_memory_is_asked_for_less(run, words, finished, monkeypatch, capsys):
    sizes = fido_that_fails(monkeypatch, lambda call, images: images > 1, method=fgjax.fido)
    assert main(words(run, "stages=explain", "explain.images_per_step=3")) == 0
    assert sizes == [3, 1, 1, 1]
    lines = [line for line in capsys.readouterr().out.splitlines() if "exhausted" in line]
    assert lines == ["explain: the device's memory is exhausted; it goes on with 1 image at a time"]
    for name, maps in load_maps(finished).items():
        np.testing.assert_array_equal(load_maps(run)[name], maps)


@pytest.mark.slow
@pytest.mark.parametrize("together", [1, 2])
def test_images_that_stop_early(tmp_path, trained, words, capsys, together):
    """All at the first step at which they may: five steps of warm-up and twice five."""
    run = tmp_path / "stops"
    options = (
        "explain.steps=20", "explain.warmup=5", "explain.anneal=0.25", "explain.stop=1e9",
        f"explain.images_per_step={together}",
    )  # fmt: skip
    checkpoint = f"model.checkpoint={trained / 'checkpoint'}"
    assert main(words(run, checkpoint, "stages=explain", *options)) == 0
    assert "25% of the steps were saved" in capsys.readouterr().out
    assert json.loads((run / "run.json").read_text())["stages"]["explain"]["steps_saved"] == 0.25
    running = read_traces(run / "maps.zarr")["running"]
    assert running.sum(1).tolist() == [15.0] * len(running)


def test_what_was_done_before_stays(run, words, monkeypatch, capsys):
    """The second call of two images fails: the first two are not explained again."""
    sizes = fido_that_fails(monkeypatch, lambda call, images: call == 2)
    assert main(words(run, "stages=explain", "explain.images_per_step=2")) == 0
    assert sizes == [2, 2, 1]
    assert (MapStore(run / "maps.zarr", 3).targets() >= 0).all()
    # Maps that say nothing are said to.
    told = "3 of 3 maps are blank (3: the same value everywhere)"
    assert f"explain: {told}" in capsys.readouterr().out


@pytest.mark.slow
def test_blank_maps_are_counted_wherever_they_are_told_of(run, words, monkeypatch, capsys):
    fido_that_fails(monkeypatch, lambda call, images: False)
    assert main(words(run)) == 0
    told = "3 of 3 maps are blank (3: the same value everywhere)"
    assert f"evaluate: {told}" in capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["blank"] == {"maps": 3, "blank": 3, "why": {"the same value everywhere": 3}}
    assert metrics["metrics"]["blank"]["mean"] == 1
    assert told in (run / "report.html").read_text()
    assert metrics["metrics"]["smallest_kept_patches"]["defined"] == 3


def test_one_image_that_does_not_fit_is_told(run, words, monkeypatch, capsys):
    sizes = fido_that_fails(monkeypatch, lambda call, images: call > 1)
    assert main(words(run, "stages=explain")) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err and "explain.batch_size" in err and "data.size" in err
    assert sizes == [1, 1, 1, 1]  # all four of its masks at a time, two, one
    assert (MapStore(run / "maps.zarr", 3).targets() >= 0).tolist() == [True, False, False]


def test_another_error_of_the_device_is_no_lack_of_memory(run, words, monkeypatch):
    sizes = fido_that_fails(monkeypatch, lambda call, images: True, "INTERNAL: something else")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        main(words(run, "stages=explain", "explain.images_per_step=3"))
    assert sizes == [3]


def gradient_words(trained, run, *more):
    return ["config=fido_demo", "data.train_images=40", "data.test_images=8", "data.limit=3",
            "data.size=32", f"model.checkpoint={trained}/checkpoint", "explain.method=gradient",
            f"run_dir={run}", *more]  # fmt: skip


def test_model_calls_are_halved_too(tmp_path, trained, monkeypatch, capsys):
    asked = []

    def gradient(model, images, *rest, config, **options):
        asked.append((len(images), config.chunk_size))
        if len(asked) < 3:
            raise jax.errors.JaxRuntimeError(EXHAUSTED)
        return constant(model, images)

    monkeypatch.setattr(stage, "METHODS", {**stage.METHODS, "gradient": gradient})
    words = gradient_words(trained, tmp_path / "run", "stages=explain", "explain.chunk_size=40")
    assert main(words) == 0
    assert asked[:3] == [(1, 40), (1, 20), (1, 10)]
    assert "1 image at a time, 20 to a model call" in capsys.readouterr().out


def test_only_what_is_explained_is_in_bfloat16(tmp_path, trained, monkeypatch, capsys):
    """The classifier that is asked what it sees is as it was; its normalisation is folded before
    it is rounded."""
    seen, predict = [], Explained.predict

    def gradient(model, *rest, **options):
        seen.append(model)
        return constant(model, *rest)

    def told(self, images, boxes=None):
        assert self.model.network.dtype == jnp.float32
        return predict(self, images, boxes)

    monkeypatch.setattr(stage, "METHODS", {**stage.METHODS, "gradient": gradient})
    monkeypatch.setattr(Explained, "predict", told)
    for precision, dtype in (("f32", jnp.float32), ("bf16", jnp.bfloat16)):
        words = gradient_words(trained, tmp_path / precision, f"explain.precision={precision}")
        assert main([*words, "stages=explain"]) == 0
        assert (", in bf16" in capsys.readouterr().out) == (precision == "bf16")
        params = seen[-1].variables["params"]
        assert seen[-1].network.dtype == params["stem"]["kernel"].dtype == dtype
        assert list(params["stem_norm"]["norm"]) == ["bias"]
    targets = [MapStore(tmp_path / p / "maps.zarr", 3).targets() for p in ("f32", "bf16")]
    np.testing.assert_array_equal(*targets)
    assert main([*gradient_words(trained, tmp_path / "bf16"), "stages=explain"]) == 2
    assert "explain.precision (was bf16, is f32)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_in_bfloat16_is_nearly_the_same(tmp_path, trained):
    runs = {p: tmp_path / p for p in ("f32", "bf16")}
    for precision, run in runs.items():
        words = gradient_words(trained, run, f"explain.precision={precision}")
        assert main([*words, "stages=explain,evaluate"]) == 0
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics["explain"]["precision"] == precision
    one, other = (load_maps(run)["heatmap"].astype(np.float32) for run in runs.values())
    assert not np.array_equal(one, other)
    for a, b in zip(one, other, strict=True):
        assert spearmanr(a.ravel(), b.ravel()).statistic > 0.9


def test_maps_that_cannot_be_written_are_told(run, words, finished, capsys):
    """In the thread that writes; the same command goes on when the way is free."""
    blocked = run / "maps.zarr" / "ssr"
    blocked.parent.mkdir()
    blocked.write_text("no folder")
    assert main(words(run, "stages=explain")) == 2
    err = capsys.readouterr().err
    assert "cannot be read or written" in err and str(run / "maps.zarr") in err
    assert "Traceback" not in err and (MapStore(run / "maps.zarr", 3).targets() < 0).all()
    blocked.unlink()
    assert main(words(run, "stages=explain")) == 0
    np.testing.assert_array_equal(load_maps(run)["ssr"], load_maps(finished)["ssr"])


def test_maps_are_computed_while_others_are_written(run, words, monkeypatch):
    """The second image is explained before the first is written; the order stays."""
    events, write = [], MapStore.write

    def slow(self, index, *rest):
        events.append(f"write {index}")
        time.sleep(0.5)
        write(self, index, *rest)
        events.append(f"wrote {index}")

    def fido(*args, **options):
        events.append("explain")
        return fgjax.fido(*args, **options)

    monkeypatch.setattr(MapStore, "write", slow)
    monkeypatch.setattr(stage, "METHODS", {**stage.METHODS, "fido": fido})
    assert main(words(run, "stages=explain")) == 0
    writes = [event for event in events if event != "explain"]
    assert writes == [f"{what} {i}" for i in range(3) for what in ("write", "wrote")]
    assert events[: events.index("wrote 0")].count("explain") >= 2


KILL_BEHIND = """
import os, signal, sys, threading, time
from fgjax.runs.maps import MapStore
import fgjax.stages.explain.stage as stage
from fgjax.attribution.common.types import Attribution
real, fido, calls, second = MapStore.write, stage.METHODS["fido"], [], threading.Event()
def write(self, index, *rest):
    if index == 1:
        second.set()
        time.sleep(60)  # the second image is still being written
    real(self, index, *rest)
def explain(*args, **options):
    calls.append(1)
    found = fido(*args, **options)
    if len(calls) == 3 and second.wait(60):
        os.kill(os.getpid(), signal.SIGKILL)
    return found
MapStore.write = write
stage.METHODS["fido"] = explain
from fgjax.run import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_killed_while_maps_wait_to_be_written(run, words, finished):
    command = [sys.executable, "-c", KILL_BEHIND, *words(run, "stages=explain")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == -9, done.stderr
    assert (MapStore(run / "maps.zarr", 3).targets() >= 0).tolist() == [True, False, False]
    assert main(words(run, "stages=explain")) == 0
    for name, maps in load_maps(finished).items():
        np.testing.assert_array_equal(load_maps(run)[name], maps)
