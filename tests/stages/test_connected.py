"""Connected processes train over the devices of all: the weights and maps are those of one.

Two processes on this machine, of four forced CPU devices each, and one process of eight.
"""

import json
import os
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from fgjax.run import main
from fgjax.runs.maps import load_maps
from fgjax.training.checkpoints import load_classifier

LONGER = ("train.epochs=3", "train.batch_size=16", "train.crop=0.8", "distributed.timeout=60",
          "stages=[train,explain]", "explain.preset=soft")  # fmt: skip
"""Three epochs of two steps; and how long a process that is gone is waited for."""

KILLED = """
import importlib, os, signal, sys
from fgjax.run import main
module, name, times, *words = sys.argv[1:]
owner = importlib.import_module(module)
if "." in name:
    owner, name = getattr(owner, name.split(".")[0]), name.split(".")[1]
real, called = getattr(owner, name), []
def call(*args):
    called.append(1)
    if len(called) == int(times):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
setattr(owner, name, call)
sys.exit(main(words))
"""
"""Runs a config, and dies when a function is called for the so-many-th time."""


ON_THE_DEVICE = """
import sys
import jax
from fgjax.devices import mesh
from fgjax.run import main
from fgjax.stages.train import images
images._free_memory = lambda: 1e18
real = jax.make_array_from_single_device_arrays
def made(shape, sharding, parts):
    if len(shape) == 4 and not sharding.is_fully_addressable:
        print("on the device: True", flush=True)
    return real(shape, sharding, parts)
jax.make_array_from_single_device_arrays = made
sys.exit(main(sys.argv[1:]))
"""
"""Runs a config with its decoded images on a device, and tells that batches are cut there."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(words, devices: int, script=("-m", "fgjax.run")) -> subprocess.Popen:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, *script, *words],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ends(*processes: subprocess.Popen, seconds: int = 400) -> tuple[list[int], list[str]]:
    """Exit codes and words of all; none of them is left behind."""
    try:
        told = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], told


def two(words, *more: tuple[str, ...], scripts=None) -> tuple[list[int], list[str]]:
    """Two connected processes of four devices each, with more words for either."""
    where = f"distributed.coordinator=127.0.0.1:{free_port()}"
    each = more or ((), ())
    scripts = scripts or [("-m", "fgjax.run")] * 2
    return ends(
        *(
            start(
                [*words, where, "distributed.processes=2", f"distributed.process_id={k}", *each[k]],
                4,
                scripts[k],
            )
            for k in (0, 1)
        )
    )


def weights(run) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(load_classifier(run).variables)]


def rows(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(run, other):
    for ours, theirs in zip(weights(run), weights(other), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    ours, theirs = rows(run), rows(other)
    assert [row["epoch"] for row in ours] == [row["epoch"] for row in theirs] == [0, 1, 2]
    for name in ("train_loss", "validation_loss", "validation_accuracy"):
        np.testing.assert_allclose(
            [row[name] for row in ours], [row[name] for row in theirs], rtol=1e-4, err_msg=name
        )
    ours, theirs = load_maps(run), load_maps(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-3, err_msg=name)


@pytest.fixture(scope="module")
def of_eight(tmp_path_factory, words):
    """The run of one process with eight devices."""
    run = tmp_path_factory.mktemp("eight") / "run"
    codes, told = ends(start(words(run, *LONGER), 8))
    assert codes == [0], told
    return run


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("coordinator=here",), "HOST:PORT of process 0, such as"),
        (("coordinator=here:99999", "processes=2", "process_id=0"), "HOST:PORT of process 0"),
        (("coordinator=here:99",), "it connects several processes; give distributed.processes=N"),
        (("coordinator=here:99", "processes=2"), "distributed.process_id=0 to 1"),
        (("coordinator=auto", "processes=2", "process_id=0"), "it finds the processes, too"),
        (("timeout=0",), "distributed.timeout=0: must be above 0"),
    ],
)
def test_what_a_coordinator_must_be_told(given, told, words, tmp_path, capsys):
    assert main(words(tmp_path / "run", *(f"distributed.{word}" for word in given))) == 2
    assert told in capsys.readouterr().err


def test_a_sweep_is_not_connected(tmp_path, capsys):
    told = ("distributed.coordinator=here:99", "distributed.processes=2")
    assert (
        main(["config=proxy_grid", f"run_dir={tmp_path}", *told, "distributed.process_id=0"]) == 2
    )
    assert "distributed.coordinator=here:99: it connects the processes of one run" in (
        capsys.readouterr().err
    )


@pytest.mark.slow
@pytest.mark.parametrize("own", [0, 1])
def test_who_is_not_connected_is_told_what_to_look_at(own, words, tmp_path):
    """Nobody listens there, or nobody else comes: a sentence in seconds, no traceback."""
    where = (f"distributed.coordinator=127.0.0.1:{free_port()}", "distributed.timeout=1")
    which = ("distributed.processes=2", f"distributed.process_id={own}")
    codes, told = ends(start(words(tmp_path / "run", *where, *which), 1), seconds=60)
    assert codes == [2], told
    assert re.search(
        r"fgjax: distributed\.coordinator=.* within 1 s \(distributed\.timeout\)", told[0]
    )
    assert "Traceback" not in told[0] and "Check failure" not in told[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_no_cluster_is_found(words, tmp_path):
    clean = words(tmp_path / "run", "distributed.coordinator=auto", "distributed.timeout=20")
    codes, told = ends(start(clean, 1), seconds=60)
    assert codes == [2] and "give distributed.coordinator=HOST:PORT" in told[0], told


@pytest.mark.slow
def test_two_processes_train_as_one(words, tmp_path, of_eight):
    run = tmp_path / "run"
    codes, told = two(words(run, *LONGER))
    assert codes == [0, 0], told
    assert "process 0 of 2, 8 devices" in told[0] and "process 1 of 2, 8 devices" in told[1]
    assert "epoch 3/3" in told[0] and "epoch" not in told[1]
    assert_same_run(run, of_eight)
    stages = json.loads((run / "run.json").read_text())["stages"]
    assert stages["explain"]["images"] == 3 and stages["train"]["images"] == rows_trained(of_eight)
    assert not (run / "training").exists()
    assert len(list((run / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_images_on_the_device_stay_there(words, tmp_path, of_eight):
    """Batches are cut from them on the device, and put together over both processes."""
    run, usual = tmp_path / "run", ("-c", ON_THE_DEVICE)
    codes, told = two(words(run, *LONGER), scripts=[usual, usual])
    assert codes == [0, 0] and all("on the device: True" in text for text in told), told
    assert_same_run(run, of_eight)


def rows_trained(run) -> int:
    return json.loads((run / "run.json").read_text())["stages"]["train"]["images"]


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_the_run_goes_on(words, tmp_path, of_eight):
    """Process 1 dies as it saves the second epoch, then process 0 at its second map."""
    run, usual = tmp_path / "run", ("-m", "fgjax.run")
    saving = ("-c", KILLED, "fgjax.stages.train.history", "save_tree", "2")
    codes, told = two(words(run, *LONGER), scripts=[usual, saving])
    assert codes[1] == -9 and codes[0] != 0, told
    assert len(rows(run)) == 1
    mapping = ("-c", KILLED, "fgjax.runs.maps", "MapStore.write", "2")
    codes, told = two(words(run, *LONGER), scripts=[mapping, usual])
    assert codes[0] == -9 and codes[1] != 0, told
    assert "going on after epoch 1" in told[0]
    codes, told = two(words(run, *LONGER))
    assert codes == [0, 0], told
    assert "1 images of 2, the others are done" in told[0]
    assert_same_run(run, of_eight)


@pytest.mark.slow
def test_processes_that_were_told_otherwise_all_end(words, tmp_path):
    codes, told = two(words(tmp_path / "run", *LONGER), (), ("seed=3",))
    assert codes == [2, 2], told
    assert all("were given other options" in text for text in told)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_proxies_and_a_batch_that_fits(words, tmp_path):
    one, run = tmp_path / "one", tmp_path / "run"
    more = ("proxy.method=grad_cam", "proxy.start=0.3", "proxy.every=1", "train.batch_size=0")
    given = (*LONGER, *more, "stages=train")
    codes, told = ends(start(words(one, *given), 8))
    assert codes == [0], told
    codes, told = two(words(run, *given))
    assert codes == [0, 0], told
    # A pixel of a proxy whose heat is at the threshold may fall on either side.
    for ours, theirs in zip(weights(run), weights(one), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-3)
    assert [row.get("proxies") for row in rows(run)] == [row.get("proxies") for row in rows(one)]
