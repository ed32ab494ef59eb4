"""FIDO's front: how small a mask can be against how coherent, where it suffices and destroys.

    python benchmarks/fido_front.py --birds CUB_200_2011 --weights birds.safetensors \
        --labels model_classes.csv --out fido_front_cpu.json --figure fido_front.png

Images, cut masks and numbers are those of `fido_masks.py`, by default of its development set. A
point is a setting: the area of both cut masks together (SSR + SDR) against the share of them that
is in five pieces. It is filled where cut kept is at least 0.95 of p(full) and cut deleted at most
0.05, and hollow where not: such a mask may be as small as it likes. It is on the front (bold) when
no filled one is both smaller and more coherent. "Transfer": the least that the cut SSR keeps under
an infill that is not the optimised blur; small masks pay with it.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fido_masks import DEFAULT, OTHER, SETS, birds, explain, judge, kept, mean, predictor
from side_by_side import machine

import fgjax

ROWS = {
    "the default": DEFAULT,
    "λ 1.5e-3 (the default before)": replace(DEFAULT, l1=1.5e-3),
    "one price for all": replace(DEFAULT, price_rate=0.0),
    "σ 6 to 2 px": replace(DEFAULT, smoothing=6.0, smoothing_end=2.0, noise_smoothing=2.0),
    "σ 24 to 8 px": replace(DEFAULT, smoothing=24.0, smoothing_end=8.0, noise_smoothing=8.0),
    "no smoothing": replace(DEFAULT, smoothing=0.0, noise_smoothing=0.0),
    "λ 3e-3": replace(DEFAULT, l1=3e-3),
    "λ 7.5e-4 (robust)": fgjax.fido_preset("robust"),
    "one infill": replace(DEFAULT, infill_also=()),
    "soft (the first default)": fgjax.fido_preset("soft"),
}
"""What is tried."""
KEPT, DELETED = 0.95, 0.05


class Point(NamedTuple):
    """Of a setting, means over the images, rounded as they are printed."""

    area: float
    coherent: float
    kept: float
    deleted: float
    transfer: float

    @property
    def enough(self) -> bool:
        """Whether the masks suffice and destroy when they are cut."""
        return self.kept >= KEPT and self.deleted <= DELETED

    def beats(self, other: "Point") -> bool:
        """Return whether it is nowhere worse in area and coherence, and better in one."""
        own, theirs = (self.area, -self.coherent), (other.area, -other.coherent)
        no_worse = all(a <= b for a, b in zip(own, theirs, strict=True))
        return self.enough and no_worse and own != theirs


def summary(rows: dict[str, list[dict]]) -> dict[str, Point]:
    """Return every setting's point, the smallest masks first."""
    points = {}
    for name, images in rows.items():
        both = lambda what, images=images: sum(mean(images, f"{what} {m}") for m in ("ssr", "sdr"))
        points[name] = Point(
            round(100 * both("area"), 1),
            round(50 * both("five pieces"), 1),
            round(kept(images, "kept, blur"), 3),
            round(mean(images, "deleted, blur"), 3),
            round(min(kept(images, f"kept, {other}") for other in OTHER), 2),
        )
    return dict(sorted(points.items(), key=lambda item: item[1]))


def front(points: dict[str, Point]) -> list[str]:
    """Return the names of the points that are enough and that no other one beats."""
    return [
        name
        for name, own in points.items()
        if own.enough and not any(p.beats(own) for p in points.values())
    ]


def table(rows: dict[str, list[dict]]) -> str:
    """Return the points as Markdown, the front in bold."""
    points = summary(rows)
    best = front(points)
    lines = [
        "| settings | area SSR + SDR % | in five pieces % | cut kept | cut deleted | transfer |",
        "|---" * 6 + "|",
    ]
    for name, point in points.items():
        cells = [f"**{name}**" if name in best else name, f"{point.area:.1f}",
                 f"{point.coherent:.1f}", f"{point.kept:.3f}", f"{point.deleted:.3f}",
                 f"{point.transfer:.2f}"]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: dict[str, list[dict]], path: Path) -> None:
    """Write the picture: the front green, what is not enough hollow."""
    from matplotlib.figure import Figure

    points = summary(rows)
    best = front(points)
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    height = 0.0
    for name, point in points.items():
        color = "#1b6e53" if name in best else "#7a7a7a"
        fill = color if point.enough else "none"
        axes.plot(point.coherent, point.area, "o", color=color, markerfacecolor=fill)
        about = name if point.enough else f"{name} (kept {point.kept:.2f}, {point.deleted:.2f})"
        height = max(point.area, height + 1.9)  # the smallest first: labels do not overlap
        axes.annotate(about, (point.coherent, point.area), (point.coherent - 3, height), ha="right",
                      va="center", fontsize=8,
                      arrowprops=dict(arrowstyle="-", lw=0.4, relpos=(1, 0.5)))  # fmt: skip
    axes.set_xlim(min(40, min(point.coherent for point in points.values()) - 20), 103)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of the cut masks in five pieces, % (higher is more coherent)")
    axes.set_ylabel("area of SSR + SDR, % (lower is better)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--birds", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--set", choices=SETS, default="development")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--out", type=Path, help="JSON; rows measured before are kept in it")
    parser.add_argument("--figure", type=Path, help="write the picture here, as PNG or SVG")
    args = parser.parse_args(argv)
    model, images, targets, boxes, _, names = birds(args)
    predict = predictor(model)
    report = {"rows": {}, "settings": {}}
    if args.out and args.out.is_file():
        report = json.loads(args.out.read_text(encoding="utf-8"))
    report |= {"machine": machine(), "set": args.set, "species": names}
    for name in args.rows:
        rows = []
        for image, target, box in zip(images, targets, boxes, strict=True):
            maps, seconds = explain(model, image, target, ROWS[name])
            rows.append({**judge(predict, image, target, box, maps), "seconds": seconds})
            print(".", end="", flush=True)
        report["rows"][name], report["settings"][name] = rows, str(ROWS[name])
        print("\n" + table({name: rows}).splitlines()[-1], flush=True)
        if args.out:
            args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("\n" + table(report["rows"]))
    if args.figure:
        draw(report["rows"], args.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
