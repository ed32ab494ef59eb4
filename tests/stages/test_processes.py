"""Several processes explain one run's images: the maps are those of one process."""

import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from fgjax.options.schema import ConfigError, DistributedConfig
from fgjax.processes.shares import Share, find_share
from fgjax.processes.waiting import wait_for_classifier
from fgjax.run import main
from fgjax.runs.maps import MapStore, load_maps

KILLED_AT_ITS_SECOND = """
import os, signal, sys
from fgjax.runs.maps import MapStore
real, written = MapStore.write, []
def write(self, *args):
    written.append(1)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, *args)
MapStore.write = write
from fgjax.run import main
main(sys.argv[1:])
"""


def of_two(own: int) -> tuple[str, str]:
    return "distributed.processes=2", f"distributed.process_id={own}"


def targets(run) -> list[int]:
    return MapStore(run / "maps.zarr", 3).targets().tolist()


@pytest.fixture
def fresh(tmp_path, trained):
    """A copy of the run that has only been trained, and nothing explained."""
    return shutil.copytree(trained, tmp_path / "run")


def assert_same_maps(run, other):
    ours, theirs = load_maps(run), load_maps(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-3, err_msg=name)


def test_every_image_is_somebodys():
    shares = [Share(3, k).places(8).tolist() for k in range(3)]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert Share(3, 0).places(8, 2).tolist() == [2, 5]
    assert Share().places(3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "2"}, Share(4, 2)),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, Share(2, 0)),
    ],
)
def test_the_launcher_is_asked(environment, expected):
    assert find_share(DistributedConfig(find=True), environment) == expected
    assert find_share(DistributedConfig(), environment) == Share()
    assert find_share(DistributedConfig(processes=3, process_id=1), environment) == Share(3, 1)


def test_no_launcher():
    with pytest.raises(ConfigError, match=r"distributed\.find=true.*distributed\.processes=N"):
        find_share(DistributedConfig(find=True), {})


def test_what_a_process_must_be_told(capsys, words, tmp_path):
    assert main(words(tmp_path / "a", "distributed.processes=2")) == 2
    assert "distributed.process_id=0 to 1" in capsys.readouterr().err
    assert main(words(tmp_path / "a", "distributed.processes=2", "distributed.process_id=2")) == 2
    assert "distributed.process_id=2: from 0 to 1" in capsys.readouterr().err


@pytest.mark.slow
def test_one_after_the_other(fresh, finished, words, capsys):
    """The second explains its image and leaves the rest; the first finds that one done."""
    assert main(words(fresh, *of_two(1))) == 0
    assert [t >= 0 for t in targets(fresh)] == [False, True, False]
    assert not (fresh / "metrics.json").exists() and not (fresh / "report.html").exists()
    assert main(words(fresh, *of_two(0))) == 0
    assert "waiting" not in capsys.readouterr().out
    assert_same_maps(fresh, finished)
    assert json.loads((fresh / "run.json").read_text())["stages"]["explain"]["images"] == 3
    assert (fresh / "report.html").is_file()


@pytest.mark.slow
def test_another_process_with_other_options_is_refused(fresh, words, capsys):
    assert main(words(fresh, *of_two(1))) == 0
    assert main(words(fresh, "seed=3", *of_two(1))) == 2
    assert "seed (was 0, is 3)" in capsys.readouterr().err


def test_a_process_waits_for_the_classifier(fresh, capsys):
    checkpoint = fresh / "checkpoint"
    hidden = checkpoint.rename(fresh / "hidden")
    timer = threading.Timer(0.2, lambda: hidden.rename(checkpoint))
    timer.start()
    wait_for_classifier(fresh)
    assert (checkpoint / "classifier.json").is_file()
    assert "waiting for process 0 to train" in capsys.readouterr().out


def started(script: list[str], devices: int) -> subprocess.Popen:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, *script],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", ["jit", "pmap"])
def test_two_processes_of_four_devices(way, tmp_path, trained, finished, words):
    run = tmp_path / "run"
    given = (f"model.checkpoint={trained / 'checkpoint'}", "stages=explain", f"parallel={way}")
    both = [started(["-m", "fgjax.run", *words(run, *given, *of_two(k))], 4) for k in (1, 0)]
    told = [process.communicate(timeout=400)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert "process 1 of 2" in told[0]
    assert_same_maps(run, finished)


@pytest.mark.slow
def test_a_killed_process_is_started_again(fresh, finished, words):
    """Of three images the first process has two; it dies at its second, the other goes on."""
    other = started(["-m", "fgjax.run", *words(fresh, *of_two(1), "stages=explain")], 1)
    dying = started(["-c", KILLED_AT_ITS_SECOND, *words(fresh, *of_two(0), "stages=explain")], 1)
    told = [process.communicate(timeout=300)[0] for process in (dying, other)]
    assert [dying.returncode, other.returncode] == [-9, 0], told
    assert sorted(t >= 0 for t in targets(fresh)) == [False, True, True]
    again = started(["-m", "fgjax.run", *words(fresh, *of_two(0), "stages=explain")], 1)
    told = again.communicate(timeout=300)[0]
    assert again.returncode == 0, told
    assert_same_maps(fresh, finished)
