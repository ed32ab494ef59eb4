"""A run says on what it computes, and tells of a GPU that JAX leaves unused."""

from types import SimpleNamespace

import jax
import pytest

from fgjax.devices.found import devices_line, unused_accelerator


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def machine(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_the_devices_are_named():
    assert devices_line() == f"{len(jax.devices())} x cpu, jax {jax.__version__}"


def test_a_gpu_is_named_with_its_platform(monkeypatch):
    gpu = SimpleNamespace(device_kind="NVIDIA T4", platform="gpu")
    monkeypatch.setattr(jax, "devices", lambda: [gpu, gpu])
    assert devices_line().startswith("2 x NVIDIA T4 (gpu), jax ")


@pytest.mark.parametrize(
    ("file", "extra"),
    [("dev/nvidia0", "cuda12"), ("proc/driver/nvidia/version", "cuda12"), ("dev/accel0", "tpu")],
)
def test_an_accelerator_that_is_not_used_is_told(tmp_path, file, extra):
    told = unused_accelerator(machine(tmp_path, file))
    assert told.startswith("WARNING") and f'pip install "fgjax[{extra}]"' in told


@pytest.mark.parametrize(
    ("name", "value"),
    [("JAX_PLATFORMS", "cpu"), ("CUDA_VISIBLE_DEVICES", ""), ("CUDA_VISIBLE_DEVICES", "-1")],
)
def test_who_wants_the_cpu_is_not_warned(tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert unused_accelerator(machine(tmp_path, "dev/nvidia0")) is None


def test_no_warning_without_one_or_when_it_is_used(tmp_path, monkeypatch):
    assert unused_accelerator(tmp_path) is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert unused_accelerator(machine(tmp_path, "dev/nvidia0")) is None
