"""From the rows of tta.csv to the table: JSON, Markdown and the console."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import rich.box
import rich.table
from jaxtyping import Float

from fgjax.attribution.glas import GlasConfig
from fgjax.core.progress import console, say
from fgjax.core.tables import finite
from fgjax.evaluation import difference_interval, summarise
from fgjax.evaluation.crops import GRADIENT_SIGMA, SPECK
from fgjax.options.judging import CROPS
from fgjax.options.schema import Config
from fgjax.stages.tta.crops import DETAIL, MISSING, fido_settings

TITLES = {
    "none": "baseline (BL)",
    "box_only": "ground-truth box alone",
    "box": "BL + ground-truth box",
    "random": "BL + random crop",
    "center": "BL + center crop",
    "gradient": "BL + gradient",
    "detector": "BL + detector",
    "fido_original": "BL + FIDO, Chang et al.",
    "fido_simplified": "BL + FIDO, ours",
    "fido_original_cleaned": "– Chang et al., no specks",
    "fido_simplified_cleaned": "– ours, no specks",
    "glas": "BL + GLAS",
}
"""The rows of the table, in its order."""
PROTOCOL = (
    "share of test images whose label has the highest probability; of a row BL + …, the "
    "probability is the mean of the image's softmax probability and the crop's. Intervals: 95 %, "
    "bootstrap over images; of a difference, paired. A crop is a square part of what the model "
    f"sees, cut from the file at {DETAIL} times the model's resolution. Maps explain the "
    "predicted class"
)


def summary(
    rows: list[dict[str, str]], wanted: list[str], sentences: dict[str, str]
) -> dict[str, Any]:
    """Return the table from the rows of tta.csv: per row accuracy, difference to the baseline,
    time.

    Args:
      rows: of the crops `wanted`, in any order.
      wanted: names of crops, "none" the first.
      sentences: what each row of the table is.
    """
    by_crop = {crop: {r["name"]: r for r in rows if r["crop"] == crop} for crop in wanted}
    baseline = by_crop["none"]
    names = list(baseline)

    def right(crop: str, column: str = "correct") -> Float[np.ndarray, "n"]:
        values = [by_crop[crop].get(name, {}).get(column, "") for name in names]
        return np.array([float(value) if value else np.nan for value in values])

    table = {}
    shown = ["none", *(["box_only"] if "box" in wanted else []), *wanted[1:]]
    for row in shown:
        crop = "box" if row == "box_only" else row
        values = right(crop, "alone_correct" if row == "box_only" else "correct")
        about, own = summarise(values), list(by_crop[crop].values())
        table[row] = {
            "title": TITLES[row],
            "protocol": sentences[row],
            "accuracy": finite(about.mean),
            "interval_95": [finite(about.low), finite(about.high)],
            "images": about.n_defined,
            "left_out": about.n - about.n_defined,
        }
        if row != "none":
            gap = difference_interval(values, right("none"))
            sides = [float(r["x1"]) - float(r["x0"]) for r in own if r["x1"]]
            table[row] |= {
                "minus_baseline": finite(gap.mean),
                "minus_baseline_95": [finite(gap.low), finite(gap.high)],
                "crop_alone": finite(summarise(right(crop, "alone_correct")).mean),
                "crop_side": float(np.mean(sides)) if sides else None,
            }
        seconds = [float(r["seconds"]) for r in own]
        table[row]["seconds"] = round(sum(seconds), 2)
        table[row]["seconds_per_image"] = float(np.median(seconds)) if seconds else None
    return {"images": len(names), "protocol": PROTOCOL, "rows": table}


def protocols(config: Config) -> dict[str, str]:
    """Return what each row of the table is, in a sentence."""
    tta = config.tta
    padded = f"padded by {tta.padding:.0%} of its side"
    marked = f"the square around the values above {tta.threshold:g} of"
    sentences = {
        "none": "the image alone",
        "box_only": "the crop around the annotated box alone",
        "box": "the square around the annotated box",
        "random": f"{tta.share:.0%} of width and height at a random place",
        "center": f"{tta.share:.0%} of width and height in the middle",
        "gradient": "the square around the largest blob above the mean of the largest |gradient| "
        f"over the channels, blurred (σ {GRADIENT_SIGMA:g} px of 224), {padded}",
        "detector": f"the square around the detector's box of the highest score ({tta.boxes})",
        "glas": f"{marked} GLAS' map (grid={GlasConfig.grid}), {padded}",
    }
    for crop in (crop for crop in CROPS if crop.startswith("fido_")):
        own = fido_settings(config, crop)
        told = ", ".join(
            f"{name}={getattr(own, name)}"
            for name in (
                "sampler",
                "steps",
                "batch_size",
                "temperature",
                "mask_size",
                "l1",
                "infill",
            )
        )
        specks = f", blobs of fewer than {SPECK} px (of 224²) left out"
        specks = specks if crop.endswith("_cleaned") else ""
        sentences[crop] = f"{marked} FIDO's joint mask ({told}){specks}, {padded}"
    return sentences


def settings(config: Config) -> dict[str, Any]:
    used: dict[str, Any] = {"tta": asdict(config.tta), "precision": config.explain.precision}
    for crop in (crop for crop in CROPS if crop.startswith("fido_")):
        if crop in config.tta.crops:
            used[crop] = asdict(replace(fido_settings(config, crop), images_per_step=None))
    if "glas" in config.tta.crops:
        used["glas"] = asdict(GlasConfig())
    return used


def _cells(row: dict[str, Any]) -> list[str]:
    def percent(value: float | None, sign: str = "") -> str:
        return "–" if value is None else f"{100 * value:{sign}.1f}"

    def both(mean: float | None, interval: list, sign: str = "") -> str:
        if interval[0] is None:
            return percent(mean, sign)
        low, high = (percent(value, sign) for value in interval)
        return f"{percent(mean, sign)} ({low}..{high})"

    gap = ""
    if "minus_baseline" in row:
        gap = both(row["minus_baseline"], row["minus_baseline_95"], "+")
    alone = percent(row["crop_alone"]) if "crop_alone" in row else ""
    seconds = row["seconds_per_image"]
    return [
        row["title"],
        both(row["accuracy"], row["interval_95"]),
        gap,
        alone,
        "" if row.get("crop_side") is None else f"{row['crop_side']:.0f}",
        "–" if seconds is None else f"{seconds:.2g}",
        str(row["images"]),
    ]


HEADS = ["", "accuracy in %", "minus BL", "crop alone", "side in px", "s per image", "images"]


def to_markdown(about: dict[str, Any]) -> str:
    """Return the table with what its rows are."""
    rows = [_cells(row) for row in about["rows"].values()]
    lines = [
        f"# Test-time augmentation: {about['model'] or 'a classifier'}, {about['images']} images",
        "",
        f"Accuracy: {about['protocol']}. Side: mean of the crop's, before it is resized.",
        "",
        *(f"{line}\n" for line in _left_out(about)),
        "| " + " | ".join(HEADS) + " |",
        "|---|" + "---:|" * (len(HEADS) - 1),
        *("| " + " | ".join(cells) + " |" for cells in rows),
        "",
        *(f"- {row['title']}: {row['protocol']}." for row in about["rows"].values()),
    ]
    return "\n".join(lines) + "\n"


def print_table(about: dict[str, Any]) -> None:
    """Return the table on the console, without its last columns, and who is left out of it."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, head in enumerate(("", "accuracy in %", "minus BL", "s/image", "n")):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    for row in about["rows"].values():
        title, accuracy, gap, _, _, seconds, images = _cells(row)
        table.add_row(title, accuracy, gap, seconds, images)
    console.print(table, soft_wrap=False)
    for line in _left_out(about):
        say(f"tta: {line}")


def _left_out(about: dict[str, Any]) -> list[str]:
    lines = []
    for count, why in (
        (about["of_unknown_classes"], "of classes the model does not know"),
        (about["unlabelled"], "without a label"),
        (about["failed"], "that failed"),
    ):
        if count:
            lines.append(f"{images_of(count)} {why}: left out.")
    for crop, why in MISSING.items():
        row = about["rows"].get(crop)
        if row and row["left_out"]:
            lines.append(f"{images_of(row['left_out'])} with {why}: left out of {row['title']}.")
    return lines


def images_of(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
