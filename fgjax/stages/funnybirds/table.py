"""From the parts' importance to the protocol's numbers, and to a table."""

from typing import Any

import numpy as np
from jaxtyping import Float

from fgjax.core.tables import finite
from fgjax.evaluation import summarise
from fgjax.evaluation.funnybirds import (
    best_completeness,
    controlled_data_check,
    deletion_check,
    distractibility,
    important_parts,
    preservation_check,
    single_deletion,
    target_sensitivity,
)
from fgjax.options.judging import CONTROLS
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
    return {name: np.asarray(value, float) for name, value in found.items()}, best.threshold


def summary(
    found: dict[str, tuple[dict[str, Float[np.ndarray, "n"]], float]],
    seen: LookUp,
    refused: dict[str, str],
) -> dict[str, Any]:
    """Return what funnybirds.json holds: the methods, best first, and the controls.

    A column in which a control is at least as good as the median method ranks nothing.
    """
    rows = []
    for method, (values, threshold) in found.items():
        row: dict[str, Any] = {"method": method, "threshold": round(threshold, 4)}
        for name in COLUMNS:
            mean = summarise(values[name])
            row[name] = finite(mean.mean)
            row[f"{name}_95"] = [finite(mean.low), finite(mean.high)]
            row[f"{name}_defined"] = mean.n_defined
        rows.append(row)
    methods = [row for row in rows if row["method"] not in CONTROLS]
    gamed = {}
    for name in COLUMNS:
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
        "background_independence": finite(summarise(seen.background).mean),
        "behaves": int(seen.behaves.sum()),
        "gamed": gamed,
        "refused": refused,
        "protocol": PROTOCOL,
        "rows": sorted(rows, key=order),
    }


def to_markdown(about: dict[str, Any]) -> str:
    """Return the table, and how each number was measured."""
    heads = [f"{head} {'(↑)' if name in about['gamed'] else '↑'}" for name, head in COLUMNS.items()]
    lines = [
        "| method | " + " | ".join(heads) + " | threshold |",
        "|---" * (len(heads) + 2) + "|",
    ]
    best = {
        name: max((row[name] for row in about["rows"]
                   if row["method"] not in CONTROLS and row[name] is not None), default=None)
        for name in COLUMNS
    }  # fmt: skip
    for row in about["rows"]:
        cells = [_cell(row, name, best[name]) for name in COLUMNS]
        lines.append(f"| {row['method']} | " + " | ".join(cells) + f" | {row['threshold']:.3f} |")
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
        lines += [f"{COLUMNS[name]} ranks nothing: {' and '.join(who)} do as well as the median "
                  "method.", ""]  # fmt: skip
    for method, why in about["refused"].items():
        lines += [f"{method} is left out: {why}", ""]
    lines += [f"- {COLUMNS[name]}: {said}" for name, said in about["protocol"].items()]
    lines += [
        "",
        "Reference: Hesse et al., FunnyBirds, ICCV 2023; the drawings are ours, and so are "
        "the deviations named in `fgjax.evaluation.funnybirds`.",
    ]
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any], name: str, best: float | None) -> str:
    if row[name] is None:
        return "–"
    low, high = row[f"{name}_95"]
    text = f"{row[name]:.3f}" + ("" if low is None else f" ({low:.2f} to {high:.2f})")
    return f"**{text}**" if row[name] == best and row["method"] not in CONTROLS else text
