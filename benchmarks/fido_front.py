"""FIDO's quality against its seconds on real birds: fewer steps, other masks, an early stop.

    python benchmarks/fido_front.py --birds CUB_200_2011 --weights birds.safetensors \
        --labels model_classes.csv --out fido_front_cpu.json --figure fido_front.png

The protocol of `fido_birds.py`. "Objective": both of Eqs. 2 and 3 together, the mean of the last 3
steps, in nats; every row has the same prices, so lower is better. A row is on the front (bold) when
no other that takes at most 5 % longer keeps, deletes and covers as well, as printed, and is better
in one of the four. Seconds: of an image, without compiling; the rows take turns, an image each, so
that a change of load meets all.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from fido_birds import birds, box_mask, share_inside
from side_by_side import machine

import fgjax

DEFAULT = fgjax.FidoConfig()
HALF = replace(DEFAULT, initial=0.5)
ROWS = {
    "the default: 30 steps, from 0.2": DEFAULT,
    "15 steps": replace(DEFAULT, steps=15),
    "from 0.5": HALF,
    "from 0.5, 10 steps": replace(HALF, steps=10),
    "from 0.5, 15 steps": replace(HALF, steps=15),
    "from 0.5, 20 steps": replace(HALF, steps=20),
    "from 0.5, opposite noise": replace(HALF, antithetic=True),
    "from 0.5, 4 + 4 masks": replace(HALF, batch_size=4),
    "from 0.5, masks 14, 56, full": replace(HALF, coarse_to_fine=(14, 56)),
    "from 0.5, 15 steps, masks 14, 56, full": replace(HALF, steps=15, coarse_to_fine=(14, 56)),
    "from 0.5, falling rate": replace(HALF, schedule="cosine"),
    "from 0.5, 100 steps, stops below 2": replace(HALF, steps=100, stop=2.0),
}
"""What is tried; all have the default's prices (λ, weight of TV)."""
COLUMNS = ("objective", "p kept", "p deleted", "area %", "in box %", "steps")


def explain(model, image, target, box, config: fgjax.FidoConfig) -> dict[str, float]:
    """Return one image's seconds and every column."""
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


class Point(NamedTuple):
    """Of a row: median seconds, and means of what its masks show, rounded as they are printed."""

    seconds: float
    kept: float
    deleted: float
    area: float

    def beats(self, other: "Point") -> bool:
        """Return whether it is no slower (by 5 %) and nowhere worse, and better in one."""
        own, theirs = ((-p.kept, p.deleted, p.area) for p in (self, other))
        no_worse = all(a <= b for a, b in zip(own, theirs, strict=True))
        faster = 1.05 * self.seconds < other.seconds
        return self.seconds <= 1.05 * other.seconds and no_worse and (own != theirs or faster)


def summary(rows: dict[str, list[dict]]) -> dict[str, Point]:
    """Return every row's point, fastest first."""
    points = {}
    for name, images in rows.items():
        mean = lambda column, images=images: np.nanmean([image[column] for image in images])
        points[name] = Point(
            float(np.median([image["seconds"] for image in images])),
            round(float(mean("p kept")), 3),
            round(float(mean("p deleted")), 3),
            round(float(mean("area %")), 1),
        )
    return dict(sorted(points.items(), key=lambda item: item[1]))


def front(points: dict[str, Point]) -> list[str]:
    """Return the names of the points that no other one beats."""
    return [name for name, own in points.items() if not any(p.beats(own) for p in points.values())]


def table(rows: dict[str, list[dict]]) -> str:
    """Return means and standard errors over the images, the front in bold."""
    points = summary(rows)
    best = front(points)
    lines = ["| settings | seconds an image | " + " | ".join(COLUMNS) + " |",
             "|---" * (len(COLUMNS) + 2) + "|"]  # fmt: skip
    for name in points:
        cells = [f"**{name}**" if name in best else name, f"{points[name].seconds:.1f}"]
        for column in COLUMNS:
            values = np.array([image[column] for image in rows[name]])
            digits = 3 if column.startswith("p ") else 1
            error = np.nanstd(values, ddof=1) / np.sqrt(np.isfinite(values).sum())
            cells.append(f"{np.nanmean(values):.{digits}f} ± {error:.{digits}f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: dict[str, list[dict]], path: Path) -> None:
    """Return the curve: every row a point, the front green; what keeps and deletes less says so."""
    from matplotlib.figure import Figure

    points = summary(rows)
    best = front(points)
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    by_area = sorted(points.items(), key=lambda item: item[1].area)
    for i, (name, point) in enumerate(by_area):
        axes.plot(point.seconds, point.area, "o", color="#1b6e53" if name in best else "#9a9a9a")
        weak = point.kept - point.deleted < 0.99
        about = f"{name} (p {point.kept:.2f}, {point.deleted:.2f})" if weak else name
        place = (6, -10 if i % 2 else 3)  # in turns, as neighbours are near
        axes.annotate(
            about, (point.seconds, point.area), place, textcoords="offset points", fontsize=8
        )
    axes.set_yscale("log")
    axes.set_yticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
    axes.minorticks_off()
    axes.set_xlim(0, 1.45 * max(point.seconds for point in points.values()))
    axes.set_xlabel("seconds an image")
    axes.set_ylabel("area of the joint mask, % (lower is better)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


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
        print(".", end="", flush=True)
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
