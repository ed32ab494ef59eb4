"""Stage "evaluate": maps and annotations to numbers, beside maps that know nothing."""

import csv
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fgjax import evaluation
from fgjax.attribution.common.infill import INFILLS, make_infill
from fgjax.core.files import write_atomic
from fgjax.core.functional import compiled
from fgjax.core.progress import progress, say
from fgjax.data.pipeline import load_examples, stack
from fgjax.data.types import DataError, Example, Record, Source
from fgjax.evaluation import (
    area,
    center_box_of_area,
    constant,
    difference_interval,
    evaluate_maps,
    kept_and_deleted,
    protocols,
    random_maps,
    summarise,
    threshold,
    top_share,
    whole_object,
)
from fgjax.options.schema import Config
from fgjax.runs.folder import RunFolder, to_csv
from fgjax.runs.maps import MapStore, read_maps, read_traces
from fgjax.stages.explain.stage import image_key
from fgjax.stages.focus.patches import boxes_of, known_patches
from fgjax.stages.setup import Explained, base_key

BATCH = 8
COLUMNS = ["index", "name", "label", "target", "predicted", "correct"]
BETTER = evaluation.BETTER | {"p_kept_sampled": True, "p_deleted_sampled": False}
"""Whether higher is better; None: neither is, by itself."""
FIRST = ("iou_cue", "in_cue", "cue_covered", "iou_mask", "iou_box", "in_object", "in_box",
         "p_kept", "p_deleted", "area")  # fmt: skip
"""The order of the short table."""


def evaluate_stage(
    config: Config,
    source: Source,
    records: tuple[Record, ...],
    explained: Explained,
    run: RunFolder,
) -> dict[str, Any]:
    """Write results.csv and metrics.json; returns what metrics.json holds."""
    began = time.monotonic()
    targets = MapStore(run.path / "maps.zarr", len(records)).targets()
    done = np.flatnonzero(targets >= 0)
    traces = read_traces(run.path / "maps.zarr")
    patches = known_patches(config, source, run.path, explained.model)
    rows: list[dict[str, Any]] = []
    tables: dict[str, dict[str, list[float]]] = {}
    failed: dict[str, str] = {}
    chunk: list[tuple[int, Example]] = []
    loaded = load_examples(source, [records[i] for i in done], workers=config.data.workers)
    say(f"evaluate: {len(done)} maps and their baselines")
    with progress("evaluate", len(done)) as counter:
        for place, example in loaded:
            index = int(done[place])
            if isinstance(example, DataError):
                failed[records[index].name] = str(example)
            else:
                chunk.append((index, example))
            if len(chunk) == BATCH or (place == len(done) - 1 and chunk):
                names = [records[i].name for i, _ in chunk]
                part = _judge_chunk(config, source, chunk, names, targets, explained, run, patches)
                for i, (index, example) in enumerate(chunk):
                    own = {k: float(v[i]) for k, v in part["map"].items()}
                    own |= _last_steps(traces, index)
                    rows.append(_row(index, names[i], example, source, explained, part, i, own))
                for maps, values in part.items():
                    table = tables.setdefault(maps, {})
                    for name, value in values.items():
                        table.setdefault(name, []).extend(np.asarray(value)[: len(chunk)].tolist())
                for index, _ in chunk:
                    for name, value in _last_steps(traces, index).items():
                        tables["map"].setdefault(name, []).append(value)
                counter.advance(len(chunk))
                chunk = []
    run.set_failures("evaluate", failed)
    metrics = _summary(config, tables, rows, len(records))
    names = [name for name in metrics["metrics"]]
    write_atomic(run.path / "results.csv", to_csv(rows, COLUMNS + names))
    write_atomic(run.path / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    run.finish(
        "evaluate",
        seconds=round(time.monotonic() - began, 1),
        images=len(rows),
        threshold=config.evaluate.threshold,
    )
    return metrics


def _last_steps(traces: dict[str, np.ndarray], index: int, steps: int = 3) -> dict[str, float]:
    return {
        f"{name}_sampled": float(traces[name][index, -steps:].mean())
        for name in ("p_kept", "p_deleted")
        if name in traces
    }


def _judge_chunk(config, source, chunk, names, targets, explained, run, patches):
    """Return every number for every kind of map: {"map": {metric: values}, "centre_box": …}."""
    # Always BATCH images, the last repeated: one program serves all.
    filled = [chunk[min(i, len(chunk) - 1)] for i in range(BATCH)]
    batch = stack([example for _, example in filled])
    images = jnp.asarray(batch.images.astype(np.float32) / 255)
    heat = np.stack([read_maps(run.path / "maps.zarr", i)["heatmap"] for i, _ in filled])
    heat = jnp.asarray(heat.astype(np.float32))
    boxes, masks, cues = (jnp.asarray(a) for a in (batch.boxes, batch.masks, batch.cues))
    chosen = jnp.asarray(targets[[i for i, _ in filled]])
    names = names + names[-1:] * (BATCH - len(names))
    keys = jnp.stack([image_key(jax.random.fold_in(base_key(config), 4), n) for n in names])
    infill = _infill(config, images, keys)

    n, height, width = heat.shape
    level = config.evaluate.threshold
    areas = area(threshold(heat, level))
    noise = jnp.concatenate([random_maps(key, 1, height, width) for key in keys])
    kinds = {
        "map": heat,
        "centre_box": center_box_of_area(areas, height, width),
        "random": top_share(noise, areas),
        "constant": constant(n, height, width),
    }
    if batch.has_mask.any():
        kinds["whole_object"] = whole_object(masks)
    model = compiled(explained.model)
    out = {}
    for kind, maps in kinds.items():
        values = evaluate_maps(maps, boxes=boxes, masks=masks, cues=cues, threshold=level)
        # The overlap at nine levels is for tables of many methods; here one threshold is meant.
        values = {k: v for k, v in values.items() if not k.startswith("iou_at_")}
        hard = jnp.where(jnp.isnan(maps), jnp.nan, (maps > level).astype(jnp.float32))
        faith = kept_and_deleted(model, images, chosen, hard, infill)._asdict()
        out[kind] = {k: np.asarray(v) for k, v in (values | faith).items()}
    boxes = None
    if patches is not None:
        boxes = boxes_of(config, source, patches, names, [example for _, example in filled])
    logits = explained.predict(np.asarray(images), boxes)
    out["map"]["predicted"] = logits.argmax(1)
    out["map"]["target"] = np.asarray(chosen)
    return out


def _infill(config, images, keys):
    """Return the infill the maps were made with; blur where the method has none."""
    settings = config.explain.settings
    infill = getattr(settings, "infill", "blur")
    infill = infill if infill in INFILLS else "blur"
    return make_infill(infill, images, keys, blur_sigma=getattr(settings, "blur_sigma", 10.0))


def _row(index, name, example, source, explained, part, i, own) -> dict[str, Any]:
    predicted, target = int(own.pop("predicted")), int(own.pop("target"))
    known = None if example.label is None else explained.index[example.label]
    return {
        "index": index,
        "name": name,
        "label": "" if example.label is None else source.classes[example.label],
        "target": explained.output_name(target),
        "predicted": explained.output_name(predicted),
        "correct": "" if known is None else int(predicted == known),
        **{k: f"{v:.6g}" for k, v in own.items()},
    }


def _summary(config, tables, rows, images) -> dict[str, Any]:
    infill = getattr(config.explain.settings, "infill", "blur")
    mask = f"mask: map > {config.evaluate.threshold:g}; infill: {infill}"
    sentences = protocols(threshold=config.evaluate.threshold) | {
        "p_kept": f"class probability with all but the mask replaced; {mask}",
        "p_deleted": f"class probability with the mask replaced; {mask}",
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
        summary = summarise(np.array(values))
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
            beyond[kind] = [_finite(gap.mean), _finite(gap.low), _finite(gap.high)]
        metrics[name] = {
            "protocol": sentences[name],
            "mean": _finite(summary.mean),
            "interval_95": [_finite(summary.low), _finite(summary.high)],
            "defined": summary.n_defined,
            "images": summary.n,
            "better": {True: "higher", False: "lower", None: ""}[BETTER[name]],
            "baselines": baselines,
            "minus_baseline_95": beyond,
        }
    order = [n for n in FIRST if n in metrics] + [n for n in metrics if n not in FIRST]
    return {
        "images": images,
        "evaluated": len(rows),
        "accuracy": float(np.mean(right)) if right else None,
        "accuracy_images": len(right),
        "explain": {
            "method": config.explain.method,
            "preset": config.explain.preset,
            "precision": config.explain.precision,
        },
        "baselines": "boxes and random maps have the area of the map's mask",
        "metrics": {name: metrics[name] for name in order},
    }


def _mean(values: list[float]) -> float | None:
    defined = np.array(values)[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def read_results(run: RunFolder) -> list[dict[str, str]]:
    """Return the rows of results.csv."""
    with (run.path / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
