"""Turns the JSON files of the benchmarks into the README's tables of FIDO's front, speed, memory
and scaling.

    python benchmarks/report.py            # prints them
    python benchmarks/report.py --write    # and puts them between the README's marks

Reads every `results/*.json` it knows the kind of, a kind by its script's name.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


class Row(NamedTuple):
    """One piece of work.

    Attributes:
      work: what it is.
      ratio: PyTorch's time over ours, with its range.
      compiled: the same of compiled PyTorch.
      seconds: ours for one image, or for the step.
      share: of the device's measured peak.
    """

    work: str
    ratio: str
    compiled: str = "–"
    seconds: str = "–"
    share: str = "–"


def _ratio(ratio: dict[str, float] | None) -> str:
    if not ratio:
        return "–"
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"


def _seconds(result: dict[str, Any]) -> str:
    return f"{result['fgjax']['median_s']:.3g}"


def speed(report: dict[str, Any]) -> Iterator[Row]:
    for case in report["cases"]:
        if "failed" in case:
            continue
        network = f"{case['model']}, {case['size']}²"
        words = [case["method"].replace("_", " "), case["unit"], network]
        words += [f"{case['images']} images"] if case["images"] > 1 else []
        words += ["bf16"] if case["precision"] == "bf16" else []
        words += [f"{k.replace('_', ' ')} {v}" for k, v in case["settings"].items()]
        yield Row(
            ", ".join(word for word in words if word),
            _ratio(case.get("ratio")),
            _ratio(case.get("ratio_compiled")),
            f"{case['seconds_per_image']:.3g}",
            f"{100 * case['share_of_peak']:.0f} %",
        )


def fido_step(report: dict[str, Any]) -> Iterator[Row]:
    for case in report["cases"]:
        network = f"{case['model']}, {case['size']}²"
        masks = f"{case['batch']} + {case['batch']} masks"
        for against, label in (("step", "without"), ("step_with_weights", "with")):
            if against in case:
                work = f"FIDO step, {masks}, {network}; PyTorch {label} weight gradients"
                result = case[against]
                yield Row(work, _ratio(result["ratio"]), seconds=_seconds(result))


def train_step(report: dict[str, Any]) -> Iterator[Row]:
    for case in report["cases"]:
        work = f"training step, {case['model']}, {case['size']}², batch {case['batch']}"
        yield Row(work, _ratio(case["step"]["ratio"]), seconds=_seconds(case["step"]))


KINDS: dict[str, Callable[[dict[str, Any]], Iterator[Row]]] = {
    "speed": speed,
    "gpu": speed,
    "fido_step": fido_step,
    "train_step": train_step,
}


def _where(about: dict[str, Any]) -> str:
    versions = about["versions"]
    where = about.get("device") or f"{about['cpu']}, {about['threads']} cores"
    where += f"; jax {versions['jax']}"
    return where + (f", torch {versions['torch'].split('+')[0]}" if "torch" in versions else "")


def _reports(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob(f"{kind}_*.json")):
        yield json.loads(path.read_text(encoding="utf-8"))


def speed_table(folder: Path = RESULTS) -> str:
    """Return the ratios to PyTorch, a row per piece of work and machine."""
    lines = [
        "| work | PyTorch time / fgjax time, median (range) | PyTorch compiled | fgjax, s "
        "| share of peak | on | script |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, rows in KINDS.items():
        for report in _reports(folder, kind):
            for row in rows(report):
                cells = [*row, _where(report["machine"]), f"`{kind}.py`"]
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def memory_table(folder: Path = RESULTS) -> str:
    """Peaks of memory, a row per method and settings."""
    lines = ["| method | settings | images | its own peak, MiB | on |", "|---|---|---|---|---|"]
    for report in _reports(folder, "peak_memory"):
        network = f"{report['model']}, {report['size']}²; {_where(report['machine'])}"
        for row in report["rows"]:
            settings = ", ".join(f"{k} {v}".replace("_", " ") for k, v in row["settings"].items())
            own = f"{(row['peak'] - row['before']) / 2**20:.0f}"
            cells = [row["method"], settings, str(row["images"]), own, network]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def scaling_table(folder: Path = RESULTS) -> str:
    """Return seconds along each curve, a row per curve and method."""
    lines = ["| over | | seconds | on |", "|---|---|---|---|"]
    labels = {"fido": "FIDO step", "rise": "RISE"}
    for report in _reports(folder, "scaling"):
        where = f"{report['model']}; {_where(report['machine'])}"
        for curve, rows in report["curves"].items():
            for method, label in labels.items():
                points = [f"{r[curve]}: {r[method]['median_s']:.3g}" for r in rows if method in r]
                lines.append(f"| {curve} | {label} | {', '.join(points)} | {where} |")
    return "\n".join(lines)


def front_table(folder: Path = RESULTS) -> str:
    """Return FIDO's settings by the area of their masks: how coherent, and what they do cut."""
    lines = [
        "| settings | area SSR + SDR % | in five pieces % | cut kept | cut deleted | transfer |",
        "|---" * 6 + "|",
    ]
    found = []
    for report in _reports(folder, "fido_front"):
        for name, images in report["rows"].items():
            value = lambda column, images=images: statistics.mean(
                image[column] for image in images if not math.isnan(image[column])
            )
            kept = {
                column: statistics.mean(min(1, i[column] / i["p(full)"]) for i in images)
                for column in images[0]
                if column.startswith("kept, ")
            }
            controls = ("blur", "Bernoulli", "shuffled", "turned", "disc")
            area = 100 * (value("area ssr") + value("area sdr"))
            pieces = 50 * (value("five pieces ssr") + value("five pieces sdr"))
            transfer = min(p for name, p in kept.items() if name.split(", ")[1] not in controls)
            cells = [name, f"{area:.1f}", f"{pieces:.1f}", f"{kept['kept, blur']:.3f}"]
            cells += [f"{value('deleted, blur'):.3f}", f"{transfer:.2f}"]
            found.append((area, "| " + " | ".join(cells) + " |"))
    return "\n".join([*lines, *(line for _, line in sorted(found))])


TABLES = {
    "front": front_table,
    "speed": speed_table,
    "memory": memory_table,
    "scaling": scaling_table,
}
"""Name of the README's marks -> what is between them."""


def insert(text: str, name: str, made: str) -> str:
    """Return the README with a table between its marks.

    Raises:
      ValueError: the marks are not there.
    """
    begin, end = f"<!-- {name}: benchmarks/report.py -->", f"<!-- end of {name} -->"
    if begin not in text or end not in text:
        raise ValueError(f"README.md has no place for the table: {begin} … {end}")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{made}\n{end}{rest.split(end, 1)[1]}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put them into README.md")
    args = parser.parse_args(argv)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        print(table(), end="\n\n")
        text = insert(text, name, table())
    if args.write:
        readme.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
