"""What XLA's matrix products and convolutions reach on a CPU, beside PyTorch's convolutions.

    python benchmarks/convolutions.py --out FILE

The 3×3 convolutions of ResNet-18 at 224², 8 images, forward; and a square matrix product, which
bounds what a convolution by products can reach. In GFLOP/s, the fastest of the rounds.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from side_by_side import NO_TORCH, alternate, machine, torch

LAYERS = ((64, 56), (128, 28), (256, 14), (512, 7))
"""Channels and side of ResNet-18's stages."""
IMAGES = 8


def case(channels: int, side: int, rounds: int) -> dict[str, float]:
    """GFLOP/s of both sides for one layer."""
    rng = np.random.default_rng(0)
    images = rng.random((IMAGES, side, side, channels), np.float32)
    kernel = rng.random((3, 3, channels, channels), np.float32)
    convolve = jax.jit(
        lambda x, k: jax.lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    x, k = jnp.asarray(images), jnp.asarray(kernel)
    theirs = torch.from_numpy(images.transpose(0, 3, 1, 2))  # a view: channels_last already
    weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    weight = weight.to(memory_format=torch.channels_last)
    sides = {
        "fgjax": lambda: convolve(x, k).block_until_ready(),
        "torch": lambda: torch.nn.functional.conv2d(theirs, weight, padding=1),
    }
    expected = sides["torch"]().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(sides["fgjax"](), expected, rtol=1e-3)
    work = 2 * IMAGES * side**2 * 9 * channels**2 / 1e9
    times = alternate(sides, rounds, seconds=0.3)
    return {name: work / min(seconds) for name, seconds in times.items()}


def product(side: int, rounds: int) -> dict[str, float]:
    """GFLOP/s of a square matrix product."""
    a = np.random.default_rng(0).random((side, side), np.float32)
    x, y, multiply = jnp.asarray(a), torch.from_numpy(a), jax.jit(jnp.matmul)
    sides = {"fgjax": lambda: multiply(x, x).block_until_ready(), "torch": lambda: y @ y}
    for call in sides.values():
        call()
    times = alternate(sides, rounds, seconds=0.3)
    return {name: 2 * side**3 / 1e9 / min(seconds) for name, seconds in times.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON")
    args = parser.parse_args(argv)
    if torch is None:
        print(NO_TORCH, file=sys.stderr)
        return 2
    report = {"machine": machine(), "unit": "GFLOP/s", "cases": []}
    rows = [("matrix product 1024³", product(1024, args.rounds))]
    for channels, side in LAYERS:
        rows.append((f"3×3, {channels} channels, {side}²", case(channels, side, args.rounds)))
    print("| work | XLA, GFLOP/s | PyTorch, GFLOP/s |\n|---|---|---|")
    for work, found in rows:
        report["cases"].append({"work": work, **found})
        print(f"| {work} | {found['fgjax']:.0f} | {found['torch']:.0f} |")
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
