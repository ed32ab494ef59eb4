"""How much faster another Python's jax computes on a CPU: the figures that a run on jax 0.10 tells.

    taskset -c 1 python benchmarks/jax_versions.py --python OTHER/bin/python --out FILE

ResNet-18 with the compiler options of `fgjax.compiler_options`, in a process of each Python, two
rounds in turns: 8 images of 224², forward and with the gradient by the images (normalisation
folded), and a training step of 32 images of 96². Both keep the memory that they free, as the
command does. CPU-seconds of the process, the median of the calls; pin it to one core.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from side_by_side import machine

import fgjax
from fgjax.core.functional import combine, partition
from fgjax.devices.forward import compiled
from fgjax.devices.jit import program
from fgjax.models.folding import fold_batch_norm
from fgjax.training.augment.geometry_and_light import Augmentation
from fgjax.training.classifier import Recipe, start, train_step

WORKS = ("forward", "gradient", "train")


@program("explain", static_argnames="static")
def input_gradient(arrays: Any, static: Any, images: jax.Array) -> jax.Array:
    """Return the gradient of the first logits by the images."""
    return jax.grad(lambda x: combine(arrays, static)(x)[:, 0].sum())(images)


def median_seconds(call: Callable[[], Any], times: int = 9) -> float:
    """Return the median of the CPU-seconds of a call, after one that compiles."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(times):
        began = time.process_time()
        jax.block_until_ready(call())
        seconds.append(time.process_time() - began)
    return float(np.median(seconds))


def measure() -> dict[str, Any]:
    """Return this Python's CPU-seconds for each kind of work."""
    fgjax.keep_freed_memory()
    rng = np.random.default_rng(0)
    model = fold_batch_norm(fgjax.create_model("resnet18", 20, size=224))
    images = jnp.asarray(rng.random((8, 224, 224, 3), np.float32))
    arrays, static = partition(model)
    predict = compiled(model)
    found = {
        "forward": median_seconds(lambda: predict(images)),
        "gradient": median_seconds(lambda: input_gradient(arrays, static, images)),
    }
    model = fgjax.create_model("resnet18", 20, size=96)
    recipe = Recipe(optax.sgd(0.01), Augmentation(size=96))
    held = [jax.tree.map(jnp.array, start(model, recipe))]
    pixels = rng.integers(0, 255, (32, 96, 96, 3)).astype(np.uint8)
    labels = np.arange(32, dtype=np.int32) % 20

    def step() -> jax.Array:
        held[0], loss = train_step(
            held[0], pixels, labels, jax.random.key(0), network=model.network,
            mean=model.mean, std=model.std, recipe=recipe,
        )  # fmt: skip
        return loss

    return {"jax": jax.__version__, **found, "train": median_seconds(step)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", help="another Python that has fgjax; none: this one alone")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    if args.python is None:
        print(json.dumps(measure()))
        return 0
    rows: list[dict[str, Any]] = []
    for _ in range(args.rounds):
        for python in (sys.executable, args.python):
            told = subprocess.run([python, __file__], capture_output=True, text=True, check=True)
            rows.append(json.loads(told.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    ours, other = rows[::2], rows[1::2]
    mean = lambda side, work: float(np.mean([row[work] for row in side]))
    times = {work: round(mean(ours, work) / mean(other, work), 2) for work in WORKS}
    print(f"jax {other[0]['jax']} is so many times as fast as {ours[0]['jax']}: {times}")
    if args.out:
        report = {"machine": machine(), "rows": rows, "times_as_fast": times}
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
