"""From the parts' importance to the protocol's numbers, and to a table."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fgjax.core.tables import finite
from fgjax.evaluation import summarise
from fgjax.evaluation.funnybirds import (
    best_completeness,
    controlled_data_check,
    deletion_check,
    distractibility,
    important_parts,
    part_importance,
    preservation_check,
    single_deletion,
    target_sensitivity,
)
from fgjax.evaluation.part_swaps import chances, part_swaps
from fgjax.options.judging import CONTROLS as EVERYWHERE
from fgjax.stages.funnybirds.look_up import LookUp

COLUMNS = {
    "completeness": "completeness",
    "correctness": "correctness",
    "contrastivity": "contrastivity",
    "csdc": "CSDC",
    "pc": "PC",
    "dc": "DC",
    "d": "D",
}
SWAPS = {
    "swap_energy": "energy in what flips",
    "swap_among": "of the parts' energy",
    "swap_first": "highest part flips",
}
"""Where parts can be swapped."""
SILHOUETTE = "silhouette"
CONTROLS = (*EVERYWHERE, SILHOUETTE)
"""The controls of every comparison, and a mask of the whole animal."""
RANKED = ("completeness", "correctness", "contrastivity")
PROTOCOL = {
    "completeness": "(mean(CSDC, PC, DC) + D)/2 at the threshold of 80 that is best for the row",
    "correctness": "SD: (1 + ρ)/2, ρ Spearman's of the parts' importance and of what the class's "
    "logit loses without each; a map that orders nothing has 0.5",
    "contrastivity": "TS: whether the maps for two other classes that share two parts each weigh "
    "these parts more; over birds with which the model itself does so",
    "csdc": "share of the sufficient set of parts that fits best which is important",
    "pc": "the important parts alone keep the prediction",
    "dc": "the prediction changes without the important parts",
    "d": "1 - share of the irrelevant parts and things in the background that are important",
    "swap_energy": "share of the map's sum in the parts of which a swap with another class's "
    "changes the prediction",
    "swap_among": "the same share of what the map gives all the parts together",
    "swap_first": "whether the part whose pixels are highest on average is one of them",
}


def numbers(
    seen: LookUp, importance: Float[np.ndarray, "n 3 q"]
) -> tuple[dict[str, Float[np.ndarray, "n"]], float]:
    """Return every number of a method, a value per image, and the threshold that was best.

    Args:
      importance: of the parts and things, in the maps for the class and for its two rivals. Only
        images that are classified right count; the others, NaN.
    """
    parts = seen.shared.shape[2]
    own = important_parts(importance[:, 0])
    best = best_completeness(
        controlled_data_check(own[..., :parts], seen.sufficient),
        preservation_check(own[..., :parts], seen.logits),
        deletion_check(own[..., :parts], seen.logits),
        distractibility(own, seen.irrelevant),
    )
    rows = np.arange(len(seen.labels))
    score = seen.logits[rows, 0, seen.labels]
    without = seen.logits[rows[:, None], 2 ** np.arange(parts)[None], seen.labels[:, None]]
    contrast = target_sensitivity(importance[:, 1:, :parts], seen.shared)
    found = {
        "completeness": best.completeness,
        "correctness": single_deletion(importance[:, 0, :parts], score, without),
        "contrastivity": np.where(seen.behaves, contrast, np.nan),
        "csdc": best.csdc,
        "pc": best.pc,
        "dc": best.dc,
        "d": best.d,
    }
    if seen.flips is not None:
        swapped = part_swaps(importance[:, 0, :parts], seen.flips, part_areas(seen))
        found |= {f"swap_{name}": value for name, value in swapped._asdict().items()}
    return {name: np.asarray(value, float) for name, value in found.items()}, best.threshold


def part_areas(seen: LookUp) -> Float[np.ndarray, "n p"]:
    """Return the share of the image in every part: what a constant map gives it."""
    ones = np.ones((len(seen.masks), *seen.masks.shape[2:]), np.float32)
    return part_importance(ones, seen.masks[:, : seen.shared.shape[2]])


def silhouette(masks: Bool[np.ndarray, "n h w"], seen: LookUp) -> Float[np.ndarray, "n 3 q"]:
    """Return the importance of parts and things in masks of whole animals, for any class alike."""
    return np.repeat(part_importance(masks.astype(np.float32), seen.masks)[:, None], 3, axis=1)


def summary(
    found: dict[str, tuple[dict[str, Float[np.ndarray, "n"]], float]],
    seen: LookUp,
    refused: dict[str, str],
) -> dict[str, Any]:
    """Return what funnybirds.json holds: the methods, best first, and the controls.

    A column in which a control is at least as good as the median method ranks nothing.
    """
    columns = columns_of(seen)
    rows = []
    for method, (values, threshold) in found.items():
        row: dict[str, Any] = {"method": method, "threshold": round(threshold, 4)}
        for name in columns:
            mean = summarise(values[name])
            row[name] = finite(mean.mean)
            row[f"{name}_95"] = [finite(mean.low), finite(mean.high)]
            row[f"{name}_defined"] = mean.n_defined
        rows.append(row)
    methods = [row for row in rows if row["method"] not in CONTROLS]
    gamed = {}
    for name in columns:
        known = [row[name] for row in methods if row[name] is not None]
        median = float(np.median(known)) if known else np.inf
        who = [row["method"] for row in rows if row["method"] in CONTROLS
               and row[name] is not None and row[name] >= median]  # fmt: skip
        if who:
            gamed[name] = who
    sound = [name for name in RANKED if name not in gamed]
    order = lambda row: (row["method"] in CONTROLS, -sum(row[name] or 0 for name in sound))
    return {
        "images": len(seen.labels),
        "accuracy": float(seen.correct.mean()),
        "metrics": {"accuracy": {"mean": float(seen.correct.mean())}},  # as a sweep reads it
        "methods": {
            row["method"]: {"metrics": {name: {"mean": row[name]} for name in columns}}
            for row in rows
        },
        "background_independence": finite(summarise(seen.background).mean),
        "behaves": int(seen.behaves.sum()),
        "gamed": gamed,
        "refused": refused,
        "protocol": {name: PROTOCOL[name] for name in columns},
        "swaps": _about_swaps(seen),
        "rows": sorted(rows, key=order),
    }


def columns_of(seen: LookUp) -> dict[str, str]:
    """Return the columns there are, and their heads."""
    return COLUMNS if seen.flips is None else COLUMNS | SWAPS


def _about_swaps(seen: LookUp) -> dict[str, Any] | None:
    """Return what the model makes of the swaps, over the birds that it is right about."""
    if seen.flips is None:
        return None
    right = {row["name"] for row in seen.swaps if row["before"] == row["class"]}
    rows = [row for row in seen.swaps if row["name"] in right]
    parts = list(dict.fromkeys(row["part"] for row in rows))
    own = lambda part, what: float(np.mean([row[what] for row in rows if row["part"] == part]))
    told = seen.flips.any(1) & ~seen.flips.all(1) & seen.correct
    chance = chances(seen.flips, part_areas(seen))
    mean = lambda values: finite(summarise(values[told]).mean) if told.any() else None
    return {
        "birds": int(told.sum()),
        "flips": {part: own(part, "flips") for part in parts},
        "as_the_part_says": {part: own(part, "as_the_part_says") for part in parts},
        "chance": {name: mean(value) for name, value in chance._asdict().items()},
    }


def to_markdown(about: dict[str, Any]) -> str:
    """Return the table, and how each number was measured."""
    lines = _table(about, COLUMNS, threshold=True)
    background = about["background_independence"]
    lines += [
        "",
        f"{about['images']} birds; the classifier is right on {about['accuracy']:.1%} of them, and "
        f"{'–' if background is None else f'{background:.1%}'} of what lies in the background "
        "costs it less than 5 % of the logit. Means over the birds that are classified right, with "
        "95 % bootstrap intervals. (↑): a column that ranks nothing.",
        "",
    ]
    for name, who in about["gamed"].items():
        head = (COLUMNS | SWAPS)[name]
        do = "does" if len(who) == 1 else "do"
        lines += [f"{head} ranks nothing: {' and '.join(who)} {do} as well as the median method.",
                  ""]  # fmt: skip
    for method, why in about["refused"].items():
        lines += [f"{method} is left out: {why}", ""]
    if about["swaps"]:
        lines += _swap_lines(about)
    said = about["protocol"].items()
    lines += [f"- {(COLUMNS | SWAPS)[name]}: {what}" for name, what in said]
    lines += [
        "",
        "Reference: Hesse et al., FunnyBirds, ICCV 2023, with the deviations named in "
        "`fgjax.evaluation.funnybirds`; drawn birds are ours.",
    ]
    return "\n".join(lines) + "\n"


def _table(about: dict[str, Any], columns: dict[str, str], *, threshold: bool) -> list[str]:
    heads = [f"{head} {'(↑)' if name in about['gamed'] else '↑'}" for name, head in columns.items()]
    heads += ["threshold"] if threshold else []
    lines = ["| method | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    best = {
        name: max((row[name] for row in about["rows"]
                   if row["method"] not in CONTROLS and row[name] is not None), default=None)
        for name in columns
    }  # fmt: skip
    for row in about["rows"]:
        cells = [_cell(row, name, best[name]) for name in columns]
        cells += [f"{row['threshold']:.3f}"] if threshold else []
        lines.append(f"| {row['method']} | " + " | ".join(cells) + " |")
    return lines


def _swap_lines(about: dict[str, Any]) -> list[str]:
    swaps = about["swaps"]
    text = lambda value: "–" if value is None else f"{value:.3f}"
    chance = [text(value) for value in swaps["chance"].values()]
    each = [f"{part} {share:.0%} ({swaps['as_the_part_says'][part]:.0%})"
            for part, share in swaps["flips"].items()]  # fmt: skip
    return [
        "Part swaps: each bird with a part of another class in place of its own. How many swaps of "
        "each part change the prediction (and make it a class that has that part): "
        f"{', '.join(each) or 'none'}. Over the {swaps['birds']} birds of which some parts do so "
        f"and others do not. A map that knows nothing has {', '.join(chance)}.",
        "",
        *_table(about, SWAPS, threshold=False),
        "",
    ]


def _cell(row: dict[str, Any], name: str, best: float | None) -> str:
    if row[name] is None:
        return "–"
    low, high = row[f"{name}_95"]
    text = f"{row[name]:.3f}" + ("" if low is None else f" ({low:.2f} to {high:.2f})")
    return f"**{text}**" if row[name] == best and row["method"] not in CONTROLS else text
