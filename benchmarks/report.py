"""Turns the JSON files of the benchmarks into the README's table of speed and memory.

    python benchmarks/report.py            # prints it
    python benchmarks/report.py --write    # and puts it between the README's marks

Reads every `results/*.json` it knows the kind of, a kind by its script's name.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- speed: benchmarks/report.py -->", "<!-- end of speed -->"


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


def perturbation(report: dict[str, Any]) -> Iterator[Row]:
    for case in report["cases"]:
        for method, label in (("rise", "RISE"), ("glas", "GLAS"), ("forward", "forward passes")):
            work = f"{label}, {case[method]['passes']} passes, {case['model']}, {case['size']}²"
            yield Row(work, _ratio(case[method]["ratio"]), seconds=_seconds(case[method]))


KINDS: dict[str, Callable[[dict[str, Any]], Iterator[Row]]] = {
    "speed": speed,
    "gpu": speed,
    "fido_step": fido_step,
    "train_step": train_step,
    "perturbation": perturbation,
}
SCRIPTS = {"perturbation": "speed.py"}
"""Where a kind is not its script's name: `speed.py` has taken the place of an earlier script."""


def table(folder: Path = RESULTS) -> str:
    """The table of ratios to PyTorch, a row per piece of work and machine."""
    lines = [
        "| work | PyTorch time / fgjax time, median (range) | PyTorch compiled | fgjax, s "
        "| share of peak | on | script |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, rows in KINDS.items():
        for path in sorted(folder.glob(f"{kind}_*.json")):
            report = json.loads(path.read_text(encoding="utf-8"))
            about = report["machine"]
            where = about.get("device") or f"{about['cpu']}, {about['threads']} cores"
            versions = about["versions"]
            where += f"; jax {versions['jax']}"
            if "torch" in versions:
                where += f", torch {versions['torch'].split('+')[0]}"
            script = SCRIPTS.get(kind, f"{kind}.py")
            for row in rows(report):
                lines.append("| " + " | ".join([*row, where, f"`{script}`"]) + " |")
    return "\n".join(lines)


def insert(text: str, made: str) -> str:
    """The README with the table between its marks.

    Raises:
      ValueError: the marks are not there.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"README.md has no place for the table: {BEGIN} … {END}")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{made}\n{END}{rest.split(END, 1)[1]}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put it into README.md")
    args = parser.parse_args(argv)
    made = table()
    print(made)
    if args.write:
        readme = ROOT / "README.md"
        readme.write_text(insert(readme.read_text(encoding="utf-8"), made), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
