"""From the numbers of every image to metrics.json, and to the short table on the console."""

from typing import Any

import numpy as np
import rich.box
import rich.table

from fgjax import evaluation
from fgjax.core.progress import console, say
from fgjax.core.tables import finite
from fgjax.evaluation import (
    difference_interval,
    hard_masks,
    model_protocols,
    needed_part,
    protocols,
    summarise,
)
from fgjax.evaluation.blank import blank_sentence
from fgjax.evaluation.landmark_targets import is_of_a_part, part_is_better, part_protocols
from fgjax.options.schema import Config

TRUTHS, MASKS = ("cue", "mask", "box"), ("ssr", "sdr", "joint")
ChunkTables = dict[str, dict[str, list[float]]]
"""Kind of map -> metric -> a value per image."""

BETTER = (
    evaluation.BETTER
    | hard_masks.BETTER
    | needed_part.BETTER
    | {"p_kept_sampled": True, "p_deleted_sampled": False}
    | dict.fromkeys(("smallest_kept", "smallest_deleted"), False)
    | dict.fromkeys(("smallest_kept_patches", "smallest_deleted_patches"), False)
    | dict.fromkeys(("smallest_kept_p", "smallest_deleted_p"), None)
    | {f"iou_{truth}_{mask}": True for truth in TRUTHS for mask in MASKS}
    | {f"tv_{mask}": None for mask in MASKS}
)
"""Whether higher is better; None: neither is, by itself."""
FIRST = ("iou_cue", "iou_cue_needed", "in_cue", "cue_covered", "iou_mask", "iou_box", "in_object",
         "in_box", "area", "p_full", "p_kept", "p_deleted", "kept_share", "area_ssr", "area_sdr",
         "p_kept_bernoulli", "p_deleted_bernoulli", "smallest_kept",
         "smallest_deleted")  # fmt: skip
"""The order of the short table."""
HEADS = {"centre_box": "centre", "constant": "all", "whole_object": "object"}
"""Short column heads of the baselines: a centre box, a random map, the whole image, the object."""
SHORT = ("iou_cue", "iou_cue_needed", "in_cue", "pointing_cue", "iou_mask", "in_object", "iou_box",
         "in_box", "area", "p_full", "p_kept", "p_deleted", "area_ssr", "area_sdr",
         "p_kept_bernoulli",
         "p_deleted_bernoulli", "p_kept_road", "p_deleted_road", "p_kept_shuffled",
         "p_deleted_shuffled", "smallest_kept", "smallest_deleted", "insertion",
         "deletion", "road_gap", "randomisation_rank_correlation", "pointing_part_head",
         "energy_in_part_head", "pointing_part_any",
         "energy_in_part_any")  # fmt: skip
"""What a terminal shows; all of it fits into 80 columns."""


def summary(
    config: Config,
    tables: ChunkTables,
    rows: list[dict[str, Any]],
    images: int,
    blank: dict[str, Any],
    parts: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return what metrics.json holds.

    Args:
      tables: kind of map -> metric -> a value per image.
      rows: of results.csv.
      images: how many there were to be explained.
      blank: how many maps say nothing, and why, see `fgjax.evaluation.blank`.
      parts: the names of the data's landmarks.
    """
    settings = config.made_with
    infill = str(config.explain.infills or getattr(settings, "infill", "blur"))
    also = getattr(settings, "infill_also", ())
    sentences = _protocols(config, infill, also, parts) | {
        "p_kept_sampled": "class probability with only the SSR kept, over the masks sampled in "
        "the last 3 steps",
        "p_deleted_sampled": "class probability with the SDR replaced, over the masks sampled in "
        "the last 3 steps",
    }
    right = [row["correct"] for row in rows if row["correct"] != ""]
    own = tables.get("map", {})
    metrics = {}
    for name, values in own.items():
        if name in ("predicted", "target"):
            continue
        mean = summarise(np.array(values))
        baselines = {
            kind: _mean(table[name])
            for kind, table in tables.items()
            if kind != "map" and name in table
        }
        beyond = {}
        for kind, table in tables.items():
            if kind == "map" or name not in table:
                continue
            gap = difference_interval(np.array(values), np.array(table[name]))
            beyond[kind] = [finite(gap.mean), finite(gap.low), finite(gap.high)]
        metrics[name] = {
            "protocol": sentences[name],
            "mean": finite(mean.mean),
            "interval_95": [finite(mean.low), finite(mean.high)],
            "defined": mean.n_defined,
            "images": mean.n,
            "better": {True: "higher", False: "lower", None: ""}[better(name)],
            "baselines": baselines,
            "minus_baseline_95": beyond,
        }
    order = [n for n in FIRST if n in metrics] + [n for n in metrics if n not in FIRST]
    return {
        "images": images,
        "evaluated": len(rows),
        "accuracy": float(np.mean(right)) if right else None,
        "accuracy_images": len(right),
        "blank": blank,
        "explain": _made_by(config),
        "baselines": "boxes and random maps have the area of the mask that they stand beside: of "
        "the SSR where something is kept, of the SDR where it is deleted, else of the map",
        "metrics": {name: metrics[name] for name in order},
    }


def _mean(values: list[float]) -> float | None:
    defined = np.array(values)[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _made_by(config: Config) -> dict[str, Any]:
    """Return what the maps are of."""
    if config.maps:
        return {"maps": config.maps, "scale": config.maps_scale}
    return {
        "method": config.explain.method,
        "preset": config.explain.preset,
        "precision": config.explain.precision,
        "against": config.explain.against,
    }


def better(metric: str) -> bool | None:
    """Return whether higher is better; None: neither is, by itself."""
    return part_is_better(metric) if is_of_a_part(metric) else BETTER[metric]


def _protocols(
    config: Config, infill: str, also: tuple[str, ...], parts: tuple[str, ...]
) -> dict[str, str]:
    """Return how each number was measured."""
    threshold = config.evaluate.threshold
    said = protocols(threshold=threshold) | hard_masks.protocols(threshold, infill, also)
    said |= needed_part.protocols(threshold)
    said |= model_protocols(steps=config.evaluate.curves)
    said |= part_protocols(parts, config.evaluate.landmarks)
    for mask in MASKS:
        said |= {f"iou_{truth}_{mask}": f"{said[f'iou_{truth}']}; of the {mask} mask"
                 for truth in TRUTHS}  # fmt: skip
        said[f"tv_{mask}"] = f"{said['total_variation']}; of the {mask} mask"
    asked = "by bisection, to one pixel, with the model asked each time"
    said["smallest_kept"] = (
        f"smallest share of the SSR's ranking that alone has at least 0.9 p_full, {asked}"
    )
    said["smallest_deleted"] = (
        f"smallest share of the SDR's ranking whose replacement leaves at most 0.1 p_full, {asked}"
    )
    for name in ("smallest_kept", "smallest_deleted"):
        said[f"{name}_patches"] = f"{said[name]}; infill: {hard_masks.OTHERS['patches']}"
    said["randomisation_rank_correlation"] = (
        "absolute value of Spearman's rank correlation, over the pixels, "
        f"{evaluation.randomisation_protocol()}: the last one"
    )
    said["smallest_kept_p"] = "class probability with only that region shown"
    said["smallest_deleted_p"] = "class probability with that region replaced"
    return said


def print_metrics(metrics: dict[str, Any]) -> None:
    """Print a short table: means with their 95 % intervals, beside the baselines' means."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    every = metrics["metrics"]
    shown = {k: every[k] for k in SHORT if k in every and every[k]["mean"] is not None}
    kinds = list(next(iter(shown.values()))["baselines"]) if shown else []
    for column in ("", "mean", "95 % interval", *(HEADS.get(kind, kind) for kind in kinds), "n"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, value in shown.items():
        arrow = {"higher": " ↑", "lower": " ↓", "": ""}[value["better"]]
        low, high = value["interval_95"]
        interval = "" if low is None else f"{_short(low)}..{_short(high)}"
        others = [_short(value["baselines"].get(kind)) for kind in kinds]
        head = name.replace("randomisation_rank_correlation", "randomised |ρ|")
        head = head.replace("_bernoulli", "_drawn").replace("_part_", "_").replace("_", " ")
        row = (head + arrow, _short(value["mean"]), interval, *others)
        table.add_row(*row, str(value["defined"]))
    if metrics["accuracy"] is not None:
        right, of = metrics["accuracy"], metrics["accuracy_images"]
        say(f"classifier: right on {right:.1%} of the {of} explained images whose class it knows")
    if said := blank_sentence(metrics.get("blank", {})):
        say(f"evaluate: {said}")
    console.print(table, soft_wrap=False)
    if "p_kept" in shown:
        say(
            f"kept: {shown['p_kept']['protocol']}\ndeleted: {shown['p_deleted']['protocol']}\n"
            f"drawn: mean of {hard_masks.DRAWS} masks drawn with the map's probabilities; "
            "road: imputed instead; shuffled: the same mask, its pixels in another order; "
            "smallest: the share of the ranking that keeps 0.9 of p, or leaves 0.1 of it"
        )


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"
