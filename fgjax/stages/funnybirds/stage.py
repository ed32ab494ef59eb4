"""Stage "funnybirds": every method by the FunnyBirds protocol, on birds drawn without their parts.

    run/funnybirds/METHOD.json        the parts' importance, and what it was made with
    run/funnybirds.csv, .md, .json    the table
    run/part_swaps.csv                every part swapped, and what the model says then

A method that is done is not done again.
"""

import json
import time
from dataclasses import asdict
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fgjax.core.files import write_atomic
from fgjax.core.progress import progress, say
from fgjax.core.tables import to_csv
from fgjax.evaluation.funnybirds import part_importance
from fgjax.options.schema import ConfigError
from fgjax.stages.compare.comparison import Comparison, prepare
from fgjax.stages.compare.methods import each_method, methods_of
from fgjax.stages.funnybirds.look_up import LookUp, look_up
from fgjax.stages.funnybirds.table import (
    CONTROLS,
    SILHOUETTE,
    columns_of,
    numbers,
    silhouette,
    summary,
    to_markdown,
)
from fgjax.stages.job import Job
from fgjax.stages.stage import Stage


class FunnyBirds(Stage):
    """Score every method by whether it names the parts that the decision hangs on."""

    name = "funnybirds"

    def missing(self, job: Job) -> None:
        """Tell that the data cannot be drawn without its parts."""
        if not hasattr(job.source, "subsets"):
            raise ConfigError(
                f"stages=funnybirds: images of data.source={job.config.data.source} cannot be "
                "drawn without their parts; those of data.source=funny_species can, and those of "
                "data.source=funnybirds are there without them"
            )
        _ = job.source.subsets(job.records[0])  # a file that is missing is told before training

    def run(self, job: Job) -> int:
        """Do what is not done yet, and make the table."""
        return score_methods(job)


def score_methods(job: Job) -> int:
    """Write the table of every method of compare.methods. Return 0: drawings do not fail.

    Raises:
      ConfigError: a class has no output; a file of ours cannot be read.
    """
    began, config, run = time.monotonic(), job.config, job.run
    comparison, _ = prepare(job)
    if any(job.explained.index[label] is None for label in range(len(job.source.classes))):
        raise ConfigError("stages=funnybirds: the classifier has no output for some class")
    seen = look_up(job.source, job.explained, comparison.records)
    say(f"funnybirds: {len(seen.labels)} birds, {seen.logits.shape[1]} drawings each")
    if not seen.correct.any():
        raise ConfigError("stages=funnybirds: the classifier is right on none of these birds")
    right = only(seen, seen.correct)
    found = {}

    def score(comparison: Comparison, method: str) -> None:
        found[method] = numbers(right, _importance(comparison, method, seen)[seen.correct])

    methods = methods_of(config, job.explained.model)
    _, refused = each_method(comparison, methods, score, "funnybirds")
    if set(methods) & set(CONTROLS) and comparison.batch.has_mask.all():
        whole = silhouette(comparison.batch.masks, seen)
        found[SILHOUETTE] = numbers(right, whole[seen.correct])
    about = summary(found, seen, refused)
    rows = [
        {"method": row["method"], "metric": name, "mean": row[name], "low": row[f"{name}_95"][0],
         "high": row[f"{name}_95"][1], "images": row[f"{name}_defined"]}
        for row in about["rows"] for name in columns_of(seen)
    ]  # fmt: skip
    if seen.swaps:
        write_atomic(run.path / "part_swaps.csv", to_csv(seen.swaps, list(seen.swaps[0])))
    write_atomic(run.path / "funnybirds.csv", to_csv(rows, list(rows[0]) if rows else []))
    write_atomic(run.path / "funnybirds.json", json.dumps(about, indent=1) + "\n")
    text = to_markdown(about)
    write_atomic(run.path / "funnybirds.md", text)
    say(text)
    earlier = run.stage("funnybirds").get("seconds", 0.0)
    run.finish("funnybirds", seconds=round(earlier + time.monotonic() - began, 1),
               images=len(seen.labels), methods=list(found))  # fmt: skip
    return 0


def only(seen: LookUp, chosen: np.ndarray) -> LookUp:
    """Return the look-up of some birds."""
    places = np.flatnonzero(chosen)
    sufficient = [seen.sufficient[i] for i in places]
    rest = {name: value[places] for name, value in seen._asdict().items()
            if isinstance(value, np.ndarray)}  # fmt: skip
    return LookUp(**rest, sufficient=sufficient, swaps=seen.swaps)


def _importance(comparison: Comparison, method: str, seen: LookUp) -> Float[np.ndarray, "n 3 q"]:
    """Return the share of each part and thing in the maps for the class and for its two rivals."""
    file = comparison.folder.parent / "funnybirds" / f"{method}.json"
    about = _about(comparison, method)
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        if held["about"] == about:
            return np.array(held["importance"], float).reshape(len(seen.labels), 3, -1)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or not whole: it is made again
    explain, index = comparison.explain(method), comparison.explained.index
    classes = np.concatenate([seen.labels[:, None], seen.rivals], axis=1)
    rows = np.zeros((len(classes), 3, seen.masks.shape[1]))
    with progress(f"funnybirds: {method}", 3 * len(classes)) as counter:
        for place, labels in enumerate(classes):
            image, key = comparison.images[place][None], comparison.keys[place][None]
            for i, label in enumerate(labels):
                target = jnp.asarray([index[int(label)]], jnp.int32)
                made = explain(comparison.explained.model, image, target, key)["heatmap"]
                heat = np.asarray(made, np.float64)
                rows[place, i] = part_importance(heat, seen.masks[place][None])[0]
                counter.advance(1)
    file.parent.mkdir(exist_ok=True)
    held = {"about": about, "importance": rows.tolist()}
    write_atomic(file, json.dumps(held) + "\n")
    return rows


def _about(comparison: Comparison, method: str) -> dict[str, Any]:
    settings = comparison.settings(method)
    free = ("chunk_size", "images_per_step", "masks_per_pass")
    plain = {k: v for k, v in (asdict(settings) if settings else {}).items() if k not in free}
    of = comparison.flipped if method == "flipped" else None
    names = [record.name for record in comparison.records]
    return json.loads(json.dumps({"images": names, "settings": plain, "of": of}))
