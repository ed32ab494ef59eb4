"""Which devices JAX computes on, and whether the machine has better ones that it does not use."""

import os
from pathlib import Path

import jax

ACCELERATORS = {
    "an NVIDIA GPU": ("dev/nvidia0", "proc/driver/nvidia/version", "cuda12"),
    "a TPU": ("dev/accel0", "dev/vfio/0", "tpu"),
}
"""What is there -> files that say so, and the extra that makes JAX use it."""


def devices_line() -> str:
    """Return on what a run computes, such as "2 x NVIDIA H100, jax 0.10.2"."""
    devices = jax.devices()
    kind, platform = devices[0].device_kind, devices[0].platform
    where = kind if kind.lower() == platform else f"{kind} ({platform})"
    return f"{len(devices)} x {where}, jax {jax.__version__}"


def unused_accelerator(root: str | Path = "/") -> str | None:
    """Return what to tell a user whose machine has a GPU or TPU while JAX computes on the CPU;
    None where there is nothing to tell, or where the environment chose so (JAX_PLATFORMS, an empty
    CUDA_VISIBLE_DEVICES).

    Args:
      root: where the files of the machine's devices are looked for.
    """
    if jax.default_backend() != "cpu" or os.environ.get("JAX_PLATFORMS"):
        return None
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return None
    for name, (*files, extra) in ACCELERATORS.items():
        if any((Path(root) / file).exists() for file in files):
            return (
                f"WARNING: this machine has {name}, but JAX {jax.__version__} computes on the CPU, "
                f"many times slower: its plugin is missing or of another version. "
                f'pip install "fgjax[{extra}]" and, in a notebook, restart; or JAX_PLATFORMS=cpu '
                "says that it is meant so"
            )
    return None
