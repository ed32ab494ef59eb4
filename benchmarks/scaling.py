"""How the time of a FIDO step and of RISE grows with images, masks, size and devices.

    python benchmarks/scaling.py                      # ResNet-18, 96²; about 10 minutes
    python benchmarks/scaling.py --quick
    python benchmarks/scaling.py --out FILE --plot FILE.svg

One of the four is changed at a time; the others stay at one image, 8 + 8 masks of FIDO (16 of
RISE), the size said and one device. Fresh weights: time does not depend on them. Several CPU
devices are threads of one machine that JAX is told to take for devices, each in a process of its
own: they have no more cores than one, so that curve shows what the splitting costs and nothing of
what it gains.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from side_by_side import machine, make_inputs

import fgjax
from fgjax.devices.mesh import make_mesh, spread

CURVES = {
    "images": (1, 4, 16, 64, 256),
    "masks": (1, 4, 16, 64),
    "size": (96, 160, 224, 320, 448),
    "devices": (1, 2, 4, 8),
}
QUICK = {"images": (1, 4), "masks": (1, 4), "size": (32, 48), "devices": (1, 2)}
METHODS = ("fido", "rise")
WAIT = 180
"""Seconds after which a process is given up: with jax below 0.12, programs on forced devices can
wait for each other for ever."""


@dataclass(frozen=True)
class Point:
    """What is explained. masks: of RISE; FIDO has half of them per objective."""

    images: int = 1
    masks: int = 16
    size: int = 96
    devices: int = 1


def work(method: str, model: Any, point: Point):
    """Return a call that explains all images and waits for their maps."""
    images = jnp.asarray(
        np.resize(make_inputs(point.size)[0], (point.images, *[point.size] * 2, 3))
    )
    targets = jnp.zeros(point.images, jnp.int32)
    if method == "fido":
        config = fgjax.FidoConfig(steps=1, batch_size=max(1, point.masks // 2))
    else:
        # On several devices: every mask in one call, so that no two calls wait for each other.
        chunk = point.masks if point.devices > 1 else None
        config = fgjax.RiseConfig(masks=point.masks, chunk_size=chunk)
    key = jax.random.key(0)
    return lambda: jax.block_until_ready(
        fgjax.METHODS[method](model, images, targets, key=key, config=config)
    )


def seconds(call: Any, most: float, rounds: int = 5) -> dict[str, Any]:
    """Return median and rounds of a call: at least one, and no more than `most` seconds of them.
    The call before, which compiles, is left out."""
    call()
    times: list[float] = []
    while not times or (len(times) < rounds and sum(times) + times[-1] < most):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return {"median_s": statistics.median(times), "rounds_s": times}


def measure(name: str, point: Point, most: float) -> dict[str, Any]:
    """Return both methods at one point."""
    model = fgjax.create_model(name, 200, size=point.size)
    if point.devices > 1:
        model = spread(model, make_mesh(), "jit")
    return {method: seconds(work(method, model, point), most) for method in METHODS}


def measure_devices(args: argparse.Namespace, point: Point) -> dict[str, Any]:
    """Return the same in a process with so many forced CPU devices."""
    flag = f"--xla_force_host_platform_device_count={point.devices}"
    more = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}"}
    command = [sys.executable, __file__, "--model", args.model, "--size", str(args.size)]
    command += ["--seconds", str(args.seconds), "--row", str(point.devices)]
    try:
        done = subprocess.run(
            command, env=os.environ | more, capture_output=True, text=True, timeout=WAIT
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"no end within {WAIT} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no reason given"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def markdown(report: dict[str, Any]) -> str:
    """Return a table per curve."""
    lines = []
    for name, rows in report["curves"].items():
        note = "; forced CPU devices, which share its cores: overhead only"
        lines += [f"**{name}**{note if name == 'devices' else ''}", ""]
        lines += [f"| {name} | FIDO step, s | RISE, s |", "|---|---|---|"]
        for row in rows:
            cells = [row.get("failed", f"{row[m]['median_s']:.4g}" if m in row else "–")
                     for m in METHODS]  # fmt: skip
            lines.append(f"| {row[name]} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    """Return all curves on doubly logarithmic axes; the format is that of the file's ending."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3), layout="constrained")
    panels = figure.subplots(1, len(report["curves"]), squeeze=False)[0]
    for panel, (name, rows) in zip(panels, report["curves"].items(), strict=True):
        for method, label in (("fido", "FIDO step"), ("rise", "RISE")):
            points = [(row[name], row[method]["median_s"]) for row in rows if method in row]
            if points:
                panel.loglog(*zip(*points, strict=True), "o-", label=label)
        panel.set_xlabel(f"{name} (overhead only)" if name == "devices" else name)
        panel.set_xticks([row[name] for row in rows], [str(row[name]) for row in rows])
        panel.minorticks_off()
    panels[0].set_ylabel("seconds")
    if panels[0].lines:
        panels[0].legend()
    figure.savefig(path)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curves", nargs="*", metavar="CURVE", help=f"of {', '.join(CURVES)}")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=96, help="where it is not the curve")
    parser.add_argument("--seconds", type=float, default=5.0, help="for a method at a point")
    parser.add_argument("--minutes", type=float, default=10.0, help="no point begins after these")
    parser.add_argument("--quick", action="store_true", help="a tiny network, short curves")
    parser.add_argument("--row", type=int, help="only so many devices, printed as JSON")
    parser.add_argument("--plot", type=Path, help="draw the curves here (SVG or PNG)")
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON")
    args = parser.parse_args(argv)
    unknown = [name for name in args.curves if name not in CURVES]
    if unknown:
        parser.error(f"no curve {unknown[0]!r}: one of {', '.join(CURVES)}")
    if args.quick:
        vars(args).update(model="resnet_tiny", size=32, seconds=0.5)
    if args.row is not None:
        print(
            json.dumps(measure(args.model, Point(size=args.size, devices=args.row), args.seconds))
        )
        return 0
    end, points = time.monotonic() + 60 * args.minutes, QUICK if args.quick else CURVES
    report = {"machine": machine(), "model": args.model, "size": args.size, "curves": {}}
    # The dear points last, so that a short time leaves the beginning of every curve.
    for name in args.curves or points:
        report["curves"][name] = []
    pairs = [(name, value) for name in report["curves"] for value in points[name]]
    for name, value in sorted(pairs, key=lambda pair: points[pair[0]].index(pair[1])):
        row: dict[str, Any] = {name: value}
        point = replace(Point(size=args.size), **{name: value})
        if time.monotonic() > end:
            row["failed"] = f"left out: {args.minutes:g} minutes were over"
        elif name == "devices":
            row |= measure_devices(args, point)
        else:
            row |= measure(args.model, point, args.seconds)
        report["curves"][name].append(row)
        print(f"{name} {value} done", file=sys.stderr, flush=True)
        if args.out:
            args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(markdown(report))
    if args.plot:
        plot(report, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
