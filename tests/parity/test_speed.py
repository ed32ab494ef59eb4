"""The methods in plain PyTorch that ours are timed beside compute what ours compute.

The same random weights, images and draws on both sides of a tiny network; and a network with
other weights gives another map, so that the comparison can fail.
"""

import copy
import importlib
import json

import jax
import numpy as np
import pytest
from test_benchmarks import load

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install "fgjax[parity]"')
speed, gpu = (importlib.import_module(name) for name in ("speed", "gpu"))
report = load("report")

TOLERANCE = 2e-4
"""Three times what is measured at most."""
DEAR = (
    "fido",
    "mask_perturbation",
    "recursive_glas",
    "smooth_gradient",
    "training",
    "region_grouping",
)
"""Tests of seconds each. FIDO's step is compared in tests/test_benchmarks.py, too."""


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Compiled once and run once; see tests/conftest.py. One thread: the maps are small."""
    torch.set_num_threads(1)
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()


def small(method):
    """Four images where they are trained on; region grouping needs a map of 5 x 5 or more."""
    images, size = (4, 48) if method in speed.TRAINING else (1, 32)
    return speed.make_setup("resnet_tiny", size, images, 48, "f32", chunk=8)


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.slow if m in DEAR else ()) for m in speed.MAKERS]
)
def test_both_sides_give_the_same_map(method):
    setup = small(method)
    case = speed.MAKERS[method](setup)
    ours, theirs = case.check or (case.ours, case.theirs)
    mine = ours()
    other = copy.deepcopy(case.network)
    with torch.no_grad():
        for module in other.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.mul_(1.1)
    found = [
        speed.difference(mine, speed.their_call(setup, theirs, network, case.same)())
        for network in (case.network, other)
    ]
    assert found[0] < TOLERANCE and found[1] > 5 * TOLERANCE


def test_flop_of_a_convolution_by_hand():
    """2 · h · w · k² · c_in · c_out; nothing is padded."""
    convolve = jax.jit(lambda x, k: jax.lax.conv_general_dilated(
        x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")))  # fmt: skip
    x, k = np.zeros((1, 12, 14, 5), np.float32), np.zeros((3, 3, 5, 7), np.float32)
    assert speed.program_flops(convolve, x, k) == 2 * 10 * 12 * 9 * 5 * 7


def test_masks_of_rise_are_drawn_as_ours_are(key):
    """Their mean and spread at every pixel, of many masks."""
    from fgjax.attribution.rise import rise_masks

    torch.manual_seed(0)
    theirs = speed.MAKERS["rise"](small("rise")).draw(0, 4000).numpy()[:, 0]
    ours = np.asarray(rise_masks(key, np.arange(4000), 32, 32))
    assert theirs.shape == ours.shape and theirs.min() == 0 and theirs.max() == 1
    inside = (slice(3, -3), slice(3, -3))  # at the edge ours mirror, theirs hold on
    for moment in (np.mean, np.std):
        gap = moment(theirs, axis=0) - moment(ours, axis=0)
        assert np.abs(gap[inside]).max() < 0.05


@pytest.mark.slow
def test_quick_run_writes_what_the_report_reads(tmp_path, monkeypatch):
    """And a network that cannot be compiled is told, beside the numbers of the one that is not."""

    def broken(network):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("sys.argv", ["speed.py", "--quick"])
    monkeypatch.setattr(speed, "compiled", broken)
    out = tmp_path / "speed_cpu.json"
    assert speed.main(["grad_cam", "--quick", "--compile", "--out", str(out)]) == 0
    (case,) = json.loads(out.read_text())["cases"]
    assert case["flops"] > 1e6 and 0 < case["share_of_peak"] and case["sides_differ_by"] < 1e-3
    assert case["torch.compile"] == {"failed": "RuntimeError: no compiler here"}
    assert "no compiler here" in speed.markdown([case])
    assert "ratio_compiled" not in case and case["ratio"]["median"] > 0
    (row,) = report.speed_table(tmp_path).splitlines()[2:]
    assert "grad cam, resnet_tiny, 64²" in row and "`speed.py`" in row


@pytest.fixture
def known_peak(monkeypatch):
    """Large products in bfloat16 take seconds on a CPU; one in float32 is measured above."""
    monkeypatch.setattr(speed, "measured_peak", lambda precision: 1e12)


@pytest.mark.slow
def test_gpu_script_runs_on_a_cpu(tmp_path, monkeypatch, capsys, known_peak):
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    assert gpu.main(["glas", "--quick", "--device", "cpu", "--out", str(tmp_path)]) == 0
    assert "≤ 0.012" in capsys.readouterr().out
    rows = report.speed_table(tmp_path).splitlines()[2:]
    assert len(rows) == 2 and all("glas" in row and "`gpu.py`" in row for row in rows)


@pytest.mark.slow
def test_without_torch_ours_is_measured_alone(tmp_path, monkeypatch, capsys, known_peak):
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    for module in (gpu, speed):
        monkeypatch.setattr(module, "torch_device", lambda: None)
    monkeypatch.setattr(gpu, "PRECISIONS", ("f32",))
    speed.networks.cache_clear()
    assert gpu.main(["glas", "--quick", "--device", "cpu", "--out", str(tmp_path)]) == 0
    speed.networks.cache_clear()
    assert "measured alone" in capsys.readouterr().out
    case = json.loads((tmp_path / "gpu_glas.json").read_text())["cases"][0]
    assert "torch" not in case and case["fgjax"]["median_s"] > 0
    assert "| – | – |" in report.speed_table(tmp_path)


def test_no_minutes_leave_everything_out(capsys):
    assert gpu.main(["rise", "--quick", "--device", "cpu", "--minutes", "0"]) == 1
    assert "left out, 0 minutes were over: rise: 1 images, bf16" in capsys.readouterr().out


def test_a_setting_that_fgjax_does_not_have_is_told():
    task = gpu.Task("fido", 1, 16, settings={"steps": 3, "telepathy": 1})
    assert gpu.missing_settings(task) == ["telepathy"]
