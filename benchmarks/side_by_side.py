"""Timing of ours and PyTorch in turns, and what machine it was."""

import math
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fgjax.attribution.common.infill import blur

try:
    import torch
except ImportError:
    torch = None

NO_TORCH = (
    f"{Path(sys.argv[0]).name} compares with PyTorch, which is not installed: "
    'pip install "fgjax[parity]" (torch 2.13, Python 3.11 or newer)'
)


def make_inputs(size, seed=0):
    """Return an image of soft blobs in [0, 1], its blurred infill, `1 h w 3`, and a target."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    image = rng.uniform(0.2, 0.8, (1, size, size, 3))
    for colour in rng.uniform(-0.5, 0.5, (8, 3)):
        centre, radius = rng.uniform(0.1, 0.9, 2), rng.uniform(0.05, 0.2)
        bump = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * radius**2))
        image += bump[None, :, :, None] * colour
    image = np.clip(image, 0, 1).astype(np.float32)
    return image, np.array(blur(jnp.asarray(image))), np.array([3], np.int32)


def _timed(function, repeats=1):
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def alternate(sides, rounds, seconds=1.0):
    """Return seconds per call of each side, `{name: [round, ...]}`, the sides taking turns.

    Every side is called once before, uncounted. In a round each is called as often as
    fills about `seconds`, and who starts changes from round to round.
    """
    repeats = max(1, math.ceil(seconds / max(max(_timed(f) for f in sides.values()), 1e-9)))
    times = {name: [] for name in sides}
    for i in range(rounds):
        order = list(sides) if i % 2 == 0 else list(reversed(sides))
        for name in order:
            time.sleep(0.05)  # the other side's worker threads go to sleep
            times[name].append(_timed(sides[name], repeats))
    return times


def summarise(times):
    """Return median and range of both sides, and PyTorch / ours: the median over rounds of the
    ratio within a round, with its range, and that of each side's fastest round (what is
    left when other load is not). Above 1 ours is faster."""
    ratios = [b / a for a, b in zip(times["fgjax"], times["torch"], strict=True)]
    out = {
        name: {"median_s": statistics.median(t), "min_s": min(t), "max_s": max(t), "rounds_s": t}
        for name, t in times.items()
    }
    out["ratio"] = {
        "median": statistics.median(ratios),
        "min": min(ratios),
        "max": max(ratios),
        "fastest": min(times["torch"]) / min(times["fgjax"]),
    }
    return out


def machine():
    """Return what the numbers were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = lines[0].split(":")[1].strip() if lines else cpu
    versions = {"python": platform.python_version(), "jax": jax.__version__}
    names = [Path(a).name for a in sys.argv[1:]]  # no folders of this machine
    if torch:
        versions["torch"] = torch.__version__
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": len(os.sched_getaffinity(0)),
        "system": platform.system(),
        "versions": {**versions, "numpy": np.__version__},
        "command": " ".join([f"python benchmarks/{Path(sys.argv[0]).name}", *names]),
    }
