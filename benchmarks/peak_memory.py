"""The peak of memory of RISE for different numbers of masks, and of FIDO for images per step.

    python benchmarks/peak_memory.py                     # ResNet-18, 96²
    python benchmarks/peak_memory.py --size 224 --out FILE
    python benchmarks/peak_memory.py --every --model vit_large_patch14_224 --size 224 --limit 8

`--every` has a row for each method that applies to the network, one image, its default settings
but for how often what it repeats is repeated (`FEW`), on which its memory does not depend; with
`--limit` methods are told that the machine has so many GiB, and those that take more are named.
Finished rows are kept in --out; the same command goes on.
Every row is a process of its own. On a CPU the peak is the process's highest resident memory, and
what it has before the method is called (the libraries, the compiled forward pass) is taken off; on
an accelerator it is what the device reports.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from side_by_side import machine

import fgjax
from fgjax.attribution.common import streaming
from fgjax.attribution.fido import images_per_step
from fgjax.attribution.registry import OWN_NETWORKS, needs
from fgjax.devices.memory import bytes_in_use
from fgjax.models.registry import NETWORKS

ROWS = (
    ("rise", {"masks": 1000}, 1),
    ("rise", {"masks": 8000}, 1),
    ("fido", {"steps": 5, "images_per_step": 1}, 8),
    ("fido", {"steps": 5, "images_per_step": 2}, 8),
    ("fido", {"steps": 5, "images_per_step": 4}, 8),
    ("fido", {"steps": 20, "images_per_step": 4}, 8),
    ("fido", {"steps": 5, "images_per_step": 4}, 16),
)
"""Method, its settings, and how many images are explained in one call."""


FEW = {
    "fido": {"steps": 2},
    "glas": {"grid": 3},
    "recursive_glas": {"grid": 3, "rounds": 2},
    "rise": {"masks": 16},
    "occlusion": {"window": 112.0, "stride": 56.0},
    "mask_perturbation": {"steps": 2},
    "extremal_perturbation": {"steps": 2},
    "lime": {"samples": 64},
    "kernel_shap": {"samples": 64},
    "smooth_gradient": {"samples": 16},
    "integrated_gradients": {"steps": 16},
    "xrai": {"steps": 16},
    "score_cam": {"channels": 16},
}
"""What a method repeats one after the other, fewer times; still more than a call's images."""


def applies(method: str, name: str) -> bool:
    """Return whether a method explains a plain network of this name."""
    wants = set(needs(method))
    tokens = NETWORKS[name].tokens
    return not wants & OWN_NETWORKS and not wants & ({"relus"} if tokens else {"attention"})


def rows_of(every: bool, name: str) -> list[tuple[str, dict, int]]:
    """Return the rows: method, settings, images."""
    if not every:
        return list(ROWS)
    return [(m, FEW.get(m, {}), 1) for m in fgjax.METHODS if applies(m, name)]


def peak() -> int:
    """Return bytes at the highest so far."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return device.memory_stats()["peak_bytes_in_use"]


def limit_memory(gib: float) -> None:
    """Let methods see as much memory as is left of so many GiB (on a CPU)."""
    free = lambda: max(1, int(gib * 2**30) - (bytes_in_use() or 0))
    streaming.host_free_bytes = images_per_step.host_free_bytes = free


def measure(model: str, size: int, method: str, settings: dict, count: int) -> dict:
    """Return the row's peak before the method and with it, in bytes."""
    classifier = fgjax.create_model(model, 200, size=size)
    images = jnp.asarray(np.random.default_rng(0).random((count, size, size, 3), np.float32))
    jax.block_until_ready(jax.jit(lambda m, x: m(x))(classifier, images[:1]))
    before = peak()
    config = fgjax.attribution.CONFIGS[method](**settings)
    targets = jnp.zeros(count, jnp.int32)
    maps = fgjax.METHODS[method](classifier, images, targets, key=jax.random.key(0), config=config)
    jax.block_until_ready(maps)
    return {"before": before, "peak": peak()}


def markdown(report: dict) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| method | settings | images | peak, MiB | of which the method's, MiB |",
        "|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        settings = ", ".join(f"{k}={v}" for k, v in row["settings"].items())
        own = row["peak"] - row["before"]
        cells = [row["method"], settings, row["images"], f"{row['peak'] / 2**20:.0f}",
                 f"{own / 2**20:.0f}"]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--every", action="store_true", help="every method on one image")
    parser.add_argument("--methods", nargs="*", help="of those, only these")
    parser.add_argument("--limit", type=float, help="GiB that the machine is said to have")
    parser.add_argument("--row", type=int, help="only this row, printed as JSON")
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON")
    args = parser.parse_args(argv)
    rows = rows_of(args.every, args.model)
    if args.row is not None:
        if args.limit:
            limit_memory(args.limit)
        print(json.dumps(measure(args.model, args.size, *rows[args.row])))
        return 0
    report = {"machine": machine(), "model": args.model, "size": args.size, "rows": []}
    if args.out and args.out.is_file():
        kept = json.loads(args.out.read_text(encoding="utf-8"))
        if (kept["model"], kept["size"]) == (args.model, args.size):
            report["rows"] = kept["rows"]
    for i, (method, settings, count) in enumerate(rows):
        about = {"method": method, "settings": settings, "images": count}
        if args.methods and method not in args.methods:
            continue
        if any(about == {key: row[key] for key in about} for row in report["rows"]):
            continue
        command = [sys.executable, __file__, "--model", args.model, "--size", str(args.size)]
        command += ["--every"] if args.every else []
        command += ["--limit", str(args.limit)] if args.limit else []
        done = subprocess.run([*command, "--row", str(i)], capture_output=True, text=True)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return 1
        report["rows"].append(about | json.loads(done.stdout.splitlines()[-1]))
        if args.out:
            args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(markdown(report))
    over = [r["method"] for r in report["rows"] if args.limit and r["peak"] > args.limit * 2**30]
    if over:
        print(f"more than {args.limit:g} GiB: {', '.join(over)}", file=sys.stderr)
    return int(bool(over))


if __name__ == "__main__":
    sys.exit(main())
