"""FIDO's settings beside their seconds, and the variance of its gradient."""

import math
import statistics
from pathlib import Path
from typing import Any

from tables.files import RESULTS, read_json, read_reports, to_markdown


def front_table(folder: Path = RESULTS) -> str:
    """Return what FIDO's settings show for their seconds, the fastest first."""
    columns = {"objective": 1, "p kept": 3, "p deleted": 3, "area %": 1, "in box %": 0, "steps": 0}
    rows = []
    for report in read_reports(folder, "fido_front"):
        seconds = {
            name: statistics.median(image["seconds"] for image in images)
            for name, images in report["rows"].items()
        }
        for name in sorted(seconds, key=seconds.__getitem__):
            cells = [name, f"{seconds[name]:.1f}"]
            for column, digits in columns.items():
                found = [i[column] for i in report["rows"][name] if not math.isnan(i[column])]
                cells.append(f"{statistics.mean(found):.{digits}f}")
            rows.append(cells)
    return to_markdown(["settings", "s an image", *columns], rows)


def variance_table(folder: Path = RESULTS) -> str:
    """Return the variance of the mask gradient, a row per temperature.

    The columns of a network are those of its first masks, all pixels at 0.5.
    """
    report = read_json(folder / "gradient_variance_cpu.json")
    toy: dict[tuple[float, int], dict[str, Any]] = {
        (row["t"], row["B"]): row for row in report["toy"]["variance"]
    }
    (network,) = (n for n in report["networks"] if not n["name"].startswith("resnet"))
    rows = []
    for row in network["rows"]:
        if row["start"] != "0":
            continue
        t = row["t"]
        variances = [f"{toy[t, masks]['original float32']:.5f}" for masks in (1, 8, 32)]
        ratios = [f"{toy[t, 8][f'ratio {kind}']:.4f}" for kind in ("float32", "float64")]
        samplers = [row[name]["variance"]["8"] for name in ("original", "simplified")]
        noise = f"{row['noise_to_signal']:.1f}"
        equal = f"{samplers[0] / samplers[1]:.4f}"
        rows.append([f"{t:g}", ", ".join(variances), ", ".join(ratios), noise, equal])
    head = ["t", "toy objective: variance with 1, 8, 32 masks", "Eq. 5 / Eq. 8 in float32, float64",
            "MobileNetV2, 8 masks: noise / signal", "Eq. 5 / Eq. 8"]  # fmt: skip
    return to_markdown(head, rows)
