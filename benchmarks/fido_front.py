"""FIDO's quality against its seconds on real birds: fewer steps, other masks, an early stop.

    python benchmarks/fido_front.py --birds CUB_200_2011 --weights birds.safetensors \
        --labels model_classes.csv --out results/fido_front_cpu.json --figure results/fido_front.png

The protocol of `fido_birds.py`. "Objective": both of Eqs. 2 and 3 together, the mean of the last 3
steps, in nats; every row has the same prices, so lower is better. A row is on the front when no
other is both faster and has a lower objective. Seconds: of an image, without compiling; the rows
take turns, an image each, so that a change of load meets all.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from fido_birds import birds, box_mask, share_inside
from side_by_side import machine

import fgjax

DEFAULT = fgjax.FidoConfig()
ROWS = {
    "30 steps: the default": DEFAULT,
    "10 steps": replace(DEFAULT, steps=10),
    "15 steps": replace(DEFAULT, steps=15),
    "20 steps": replace(DEFAULT, steps=20),
    "50 steps": replace(DEFAULT, steps=50),
    "opposite noise": replace(DEFAULT, antithetic=True),
    "4 + 4 masks": replace(DEFAULT, batch_size=4),
    "4 + 4, opposite noise": replace(DEFAULT, batch_size=4, antithetic=True),
    "masks 14, 56, full": replace(DEFAULT, coarse_to_fine=(14, 56)),
    "15 steps, masks 14, 56, full": replace(DEFAULT, steps=15, coarse_to_fine=(14, 56)),
    "falling rate": replace(DEFAULT, schedule="cosine"),
    "stops below a gain of 1": replace(DEFAULT, steps=50, stop=1.0),
}
"""What is tried; all have the default's prices (λ, weight of TV)."""
COLUMNS = ("objective", "p kept", "p deleted", "area %", "in box %", "steps")


def explain(model, image, target, box, config: fgjax.FidoConfig) -> dict[str, float]:
    """One image's seconds and every column."""
    began = time.perf_counter()
    result = fgjax.fido(model, image[None], target[None], key=jax.random.key(0), config=config)
    result = jax.block_until_ready(result)
    seconds = time.perf_counter() - began
    last = {name: float(trace[0, -3:].mean()) for name, trace in result.traces.items()}
    joint = result.heatmap > 0.5
    return {
        "seconds": seconds,
        "objective": last["loss_ssr"] + last["loss_sdr"],
        "p kept": last["p_kept"],
        "p deleted": last["p_deleted"],
        "area %": 100 * float(joint.mean()),
        "in box %": 100 * float(share_inside(joint, box_mask(box[None], *joint.shape[1:]))[0]),
        "steps": float(np.sum(result.traces.get("running", np.ones(config.steps)))),
    }


def front(points: dict[str, tuple[float, float]]) -> list[str]:
    """The names whose (seconds, objective) no other has or beats in both; fastest first."""
    best, names = np.inf, []
    for name in sorted(points, key=points.get):
        if points[name][1] < best:
            best = points[name][1]
            names.append(name)
    return names


def summary(rows: dict[str, list[dict]]) -> dict[str, tuple[float, float]]:
    """Median seconds and mean objective of each row."""
    return {
        name: (
            float(np.median([image["seconds"] for image in images])),
            float(np.mean([image["objective"] for image in images])),
        )
        for name, images in rows.items()
    }


def table(rows: dict[str, list[dict]]) -> str:
    """Means and standard errors over the images, fastest first; the front in bold."""
    points = summary(rows)
    best = front(points)
    lines = ["| settings | seconds an image | " + " | ".join(COLUMNS) + " |",
             "|---" * (len(COLUMNS) + 2) + "|"]  # fmt: skip
    for name in sorted(points, key=points.get):
        cells = [f"**{name}**" if name in best else name, f"{points[name][0]:.1f}"]
        for column in COLUMNS:
            values = np.array([image[column] for image in rows[name]])
            digits = 3 if column.startswith("p ") else 1
            error = np.nanstd(values, ddof=1) / np.sqrt(np.isfinite(values).sum())
            cells.append(f"{np.nanmean(values):.{digits}f} ± {error:.{digits}f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: dict[str, list[dict]], path: Path) -> None:
    """The curve: every row a point, the front a line."""
    from matplotlib.figure import Figure

    points = summary(rows)
    best = front(points)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, (seconds, objective) in points.items():
        chosen = name in best
        axes.plot(seconds, objective, "o", color="#1b6e53" if chosen else "#9a9a9a")
        axes.annotate(name, (seconds, objective), (5, 4), textcoords="offset points", fontsize=8)
    axes.plot(*zip(*(points[name] for name in best), strict=True), color="#1b6e53", zorder=0)
    axes.set_xlabel("seconds an image")
    axes.set_ylabel("objective, nats (lower is better)")
    axes.margins(x=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--birds", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON")
    parser.add_argument("--figure", type=Path, help="write the curve here, as PNG or SVG")
    args = parser.parse_args(argv)
    model, images, targets, boxes = birds(args)
    report = {"machine": machine(), "load_before": os.getloadavg()[0]}
    for config in ROWS.values():  # compiled before the clock runs
        fgjax.fido(model, images[:1], targets[:1], key=jax.random.key(0), config=config)
    rows: dict[str, list[dict]] = {name: [] for name in ROWS}
    for image, target, box in zip(images, targets, boxes, strict=True):
        for name, config in ROWS.items():
            rows[name].append(explain(model, image, target, box, config))
        print(table(rows).replace("nan", "–") if len(images) == 1 else ".", end="", flush=True)
    report |= {"images": len(images), "load_after": os.getloadavg()[0], "rows": rows}
    report["settings"] = {name: str(config) for name, config in ROWS.items()}
    print("\n" + table(rows))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.figure:
        draw(rows, args.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
