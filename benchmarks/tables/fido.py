"""FIDO's settings beside their seconds, and the variance of its gradient."""

import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tables.files import RESULTS, read_json, read_reports, to_markdown

DRAWN = {
    "iou_cue": "IoU of the joint mask with the deciding part",
    "iou_cue_needed": "the same, of the images where the network needs that part",
    "in_cue": "share of the joint mask in that part",
    "in_object": "share of the joint mask on the bird",
    "area": "area of the joint mask",
    "area_ssr": "area of the SSR",
    "area_sdr": "area of the SDR",
    "p_full": "p of the image",
    "p_without_cue": "p without the deciding part itself",
    "p_kept": "p with only the SSR",
    "p_deleted": "p without the SDR",
    "p_kept_road": "p with only the SSR, imputed around",
    "p_deleted_road": "p without the SDR, imputed",
    "p_kept_shuffled": "p with only the SSR, its pixels shuffled",
}
"""Rows of the table of drawn birds."""


def drawn_table(folder: Path = RESULTS) -> str:
    """Return what two presets say of drawn birds, beside a box in the centre and the whole image.

    The files are metrics.json of a run each.
    """
    default, soft = (
        read_json(folder / f"fido_drawn_{preset}.json")["metrics"] for preset in ("default", "soft")
    )

    def told(metric: dict[str, Any]) -> str:
        low, high = metric["interval_95"]
        return f"{metric['mean']:.3f} ({low:.3f} to {high:.3f})"

    def beside(metric: dict[str, Any], kind: str) -> str:
        value = metric["baselines"].get(kind)
        return "–" if value is None else f"{value:.3f}"

    rows = [
        [words, told(default[name]), told(soft[name]),
         *(beside(default[name], kind) for kind in ("centre_box", "constant"))]
        for name, words in DRAWN.items()
    ]  # fmt: skip
    return to_markdown(["", "default", "`soft`", "box in the centre", "the whole image"], rows)


def front_table(folder: Path = RESULTS) -> str:
    """Return FIDO's settings by the area of their masks: how coherent, and what they do cut."""
    columns = ["area SSR + SDR %", "in five pieces %", "cut kept", "cut deleted", "transfer"]
    controls = ("blur", "Bernoulli", "shuffled", "turned", "disc")
    found = []
    for report in read_reports(folder, "fido_front"):
        for name, images in report["rows"].items():
            value = lambda column, images=images: statistics.mean(
                image[column] for image in images if not math.isnan(image[column])
            )
            kept = {
                column.split(", ")[1]: statistics.mean(
                    min(1, image[column] / image["p(full)"]) for image in images
                )
                for column in images[0]
                if column.startswith("kept, ")
            }
            area = 100 * (value("area ssr") + value("area sdr"))
            pieces = 50 * (value("five pieces ssr") + value("five pieces sdr"))
            transfer = min(p for infill, p in kept.items() if infill not in controls)
            cells = [f"{area:.1f}", f"{pieces:.1f}", f"{kept['blur']:.3f}"]
            cells += [f"{value('deleted, blur'):.3f}", f"{transfer:.2f}"]
            found.append((area, [name, *cells]))
    return to_markdown(["settings", *columns], [cells for _, cells in sorted(found)])


def quality_table(folder: Path = RESULTS) -> str:
    """Return the seconds until masks suffice, destroy and are small, and until they are coherent,
    too, image by image."""

    def told(first: list[float] | None, last: list[float]) -> str:
        step, wall, cpu = (first or last)[:3]
        return f"{wall:.1f} s, {cpu:.1f} CPU-s, {step} steps" if first else f"not in {step} steps"

    head = ["settings", "image", "sufficient, necessary, small", "and coherent",
            "in five pieces at the end %"]  # fmt: skip
    rows = [
        [name, str(i + 1), told(seen["good"], seen["last"]), told(seen["coherent"], seen["last"]),
         f"{100 * seen['last'][-1]:.0f}"]
        for report in read_reports(folder, "fido_quality")
        for name, images in report["first"].items()
        for i, seen in enumerate(images)
    ]  # fmt: skip
    return to_markdown(head, rows)


def masks_table(folder: Path = RESULTS) -> str:
    """Return what masks do when they are cut, the held-out images first."""
    head = ["settings, images", "cut kept / deleted", "Bernoulli", "area SSR / SDR %",
            "in five pieces %", "in box %", "CPU-s an image"]  # fmt: skip
    return to_markdown(head, [_masks_row(*found) for found in _masks(folder)])


def transfer_table(folder: Path = RESULTS) -> str:
    """Return what the same cut masks do under other infills, and what controls do."""
    columns = ["blur σ/2", "blur 2σ", "mean", "grey", "patches", "ROAD", "shuffled", "turned",
               "disc"]  # fmt: skip
    rows = []
    for name, images in _masks(folder):
        rows.append([name, *(_kept_and_deleted(images, column) for column in columns)])
    for report in read_reports(folder, "fido_masks"):
        if whole := report.get("whole image replaced"):
            left = [f"– / {statistics.mean(whole[c]):.2f}" if c in whole else "–" for c in columns]
            name = f"the whole image replaced, {report['set'].replace('_', ' ')}"
            rows.append([name, *left])
    return to_markdown(["settings, kept / deleted", *columns], rows)


def _masks(folder: Path) -> Iterator[tuple[str, list[dict[str, float]]]]:
    for report in sorted(read_reports(folder, "fido_masks"), key=lambda r: r["set"] != "held_out"):
        for name, images in report["rows"].items():
            yield f"{name}, {len(images)} {report['set'].replace('_', ' ')}", images


def _mean(images: list[dict[str, float]], column: str) -> float:
    return statistics.mean(i[column] for i in images if not math.isnan(i[column]))


def _kept_and_deleted(images: list[dict[str, float]], column: str) -> str:
    shares = [min(1, image[f"kept, {column}"] / image["p(full)"]) for image in images]
    return f"{statistics.mean(shares):.2f} / {_mean(images, f'deleted, {column}'):.2f}"


def _masks_row(name: str, images: list[dict[str, float]]) -> list[str]:
    def pair(what: str, digits: int = 0) -> str:
        values = [100 * _mean(images, f"{what} {which}") for which in ("ssr", "sdr")]
        return " / ".join(f"{value:.{digits}f}" for value in values)

    seconds = statistics.median(image["seconds"] for image in images)
    return [
        name,
        _kept_and_deleted(images, "blur"),
        _kept_and_deleted(images, "Bernoulli"),
        pair("area", 1),
        pair("five pieces"),
        pair("in box"),
        f"{seconds:.1f}",
    ]


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


def table1_table(folder: Path = RESULTS) -> str:
    """Return overlap and coherency of three settings' masks over batch sizes and steps."""
    found = []
    for report in read_reports(folder, "fido_table1"):
        for row in report["rows"].values():
            means = {what: statistics.mean(values) for what, values in row["values"].items()}
            told = lambda what, digits, factor=1, means=means: " / ".join(
                f"{factor * means[f'{what} {mask}']:.{digits}f}" for mask in ("ssr", "sdr", "joint")
            )
            cells = [f"`{row['kind']}`", str(row["batch"]), str(row["steps"])]
            found.append([*cells, told("iou", 3), told("tv", 0), told("area", 1, 100)])
    columns = ["IoU with the deciding part", "total variation", "area %"]
    return to_markdown(["settings", "batch size", "steps", *columns], found)
