"""Seconds beside PyTorch's, peaks of memory, and how seconds grow."""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tables.files import RESULTS, machine, read_reports, to_markdown


class Work(NamedTuple):
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


def _methods(report: dict[str, Any]) -> Iterator[Work]:
    for case in report["cases"]:
        if "failed" in case:
            continue
        network = f"{case['model']}, {case['size']}²"
        words = [case["method"].replace("_", " "), case["unit"], network]
        words += [f"{case['images']} images"] if case["images"] > 1 else []
        words += ["bf16"] if case["precision"] == "bf16" else []
        words += [f"{k.replace('_', ' ')} {v}" for k, v in case["settings"].items()]
        yield Work(
            ", ".join(word for word in words if word),
            _ratio(case.get("ratio")),
            _ratio(case.get("ratio_compiled")),
            f"{case['seconds_per_image']:.3g}",
            f"{100 * case['share_of_peak']:.0f} %",
        )


def _fido_step(report: dict[str, Any]) -> Iterator[Work]:
    for case in report["cases"]:
        network = f"{case['model']}, {case['size']}²"
        masks = f"{case['batch']} + {case['batch']} masks"
        for against, label in (("step", "without"), ("step_with_weights", "with")):
            if against in case:
                work = f"FIDO step, {masks}, {network}; PyTorch {label} weight gradients"
                result = case[against]
                yield Work(work, _ratio(result["ratio"]), seconds=_seconds(result))


def _train_step(report: dict[str, Any]) -> Iterator[Work]:
    for case in report["cases"]:
        work = f"training step, {case['model']}, {case['size']}², batch {case['batch']}"
        yield Work(work, _ratio(case["step"]["ratio"]), seconds=_seconds(case["step"]))
        if "forward" in case:
            work, result = work.replace("training step", "forward"), case["forward"]
            yield Work(work, _ratio(result["ratio"]), seconds=_seconds(result))


KINDS: dict[str, Callable[[dict[str, Any]], Iterator[Work]]] = {
    "speed": _methods,
    "gpu": _methods,
    "fido_step": _fido_step,
    "train_step": _train_step,
}
"""Name of a script -> the rows of one of its reports."""


def speed_table(folder: Path = RESULTS) -> str:
    """Return the ratios to PyTorch, a row per piece of work and machine."""
    head = ["work", "PyTorch time / fgjax time, median (range)", "PyTorch compiled", "fgjax, s",
            "share of peak", "on", "script"]  # fmt: skip
    rows = [
        [*work, machine(report["machine"]), f"`{kind}.py`"]
        for kind, works in KINDS.items()
        for report in read_reports(folder, kind)
        for work in works(report)
    ]
    return to_markdown(head, rows)


def onednn_table(folder: Path = RESULTS) -> str:
    """Return PyTorch's time over ours with oneDNN's convolutions and without, by the clock."""
    head = ["work", "PyTorch time / fgjax time with oneDNN, median (range)", "without",
            "fgjax with, s", "PyTorch, s", "on"]  # fmt: skip
    rows = []
    for report in read_reports(folder, "cpu"):
        for row in report["rows"]:
            network = f"{row['model'].replace('_', ' ')}, {row['size']}²"
            work = f"{row['method'].replace('_', ' ')}, {row['unit']}, {network}"
            work += f", {row['images']} images" if row["images"] > 1 else ""
            ratios = [_ratio(row[f"ratio_{side}"]["wall"]) for side in ("on", "off")]
            seconds = [f"{statistics.median(row[s]['wall_s']):.3g}" for s in ("on", "torch")]
            rows.append([work, *ratios, *seconds, machine(report["machine"])])
    return to_markdown(head, rows)


def memory_table(folder: Path = RESULTS) -> str:
    """Return the peaks of memory, a row per method and settings."""
    rows = []
    for report in read_reports(folder, "peak_memory"):
        network = f"{report['model']}, {report['size']}²; {machine(report['machine'])}"
        for row in report["rows"]:
            settings = ", ".join(f"{k} {v}".replace("_", " ") for k, v in row["settings"].items())
            own, whole = row["peak"] - row["before"], row["peak"]
            peaks = [f"{size / 2**20:.0f}" for size in (own, whole)]
            rows.append([row["method"], settings, str(row["images"]), *peaks, network])
    head = ["method", "settings", "images", "its own peak, MiB", "the whole process's", "on"]
    return to_markdown(head, rows)


def loading_table(folder: Path = RESULTS) -> str:
    """Return images a second of every loader, and seconds for one large photograph."""
    rows = []
    for report in read_reports(folder, "decoding"):
        on = machine(report["machine"])
        for name, rates in report["images_per_second"].items():
            median, ends = statistics.median(rates), f"{min(rates):.0f} to {max(rates):.0f}"
            what = f"{name} ({report['workers']}), {report['images']} JPEG files"
            rows.append([what, f"{median:.0f} images/s ({ends})", on])
        large = report["large"]
        for name, part in (("whole", 1), ("part", large["part"])):
            what = f"12 megapixels, decoded at 1/{part} of their size"
            rows.append([what, f"{large[f'seconds_{name}']:.3f} CPU-seconds", on])
    return to_markdown(["", "", "on"], rows)


def scaling_table(folder: Path = RESULTS) -> str:
    """Return seconds along each curve, a row per curve and method."""
    rows = []
    labels = {"fido": "FIDO step", "rise": "RISE"}
    for report in read_reports(folder, "scaling"):
        where = f"{report['model']}; {machine(report['machine'])}"
        for curve, points in report["curves"].items():
            for method, label in labels.items():
                told = [f"{p[curve]}: {p[method]['median_s']:.3g}" for p in points if method in p]
                rows.append([curve, label, ", ".join(told), where])
    return to_markdown(["over", "", "seconds", "on"], rows)
