"""Every number of a few images' maps, beside maps that know nothing of the image."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from fgjax.attribution.common.infill import INFILLS, make_infill
from fgjax.attribution.common.types import Attribution
from fgjax.core.batching import fill_up
from fgjax.core.filters import total_variation
from fgjax.core.keys import image_key
from fgjax.core.scores import predicted
from fgjax.data.patch_table import PatchTable
from fgjax.data.pipeline import stack
from fgjax.data.types import Example
from fgjax.devices.forward import compiled
from fgjax.evaluation import (
    area,
    center_box_of_area,
    constant,
    evaluate_maps,
    random_maps,
    smallest_regions,
    threshold,
    top_share,
    whole_object,
)
from fgjax.evaluation.hard_masks import judge_cut, judge_hard
from fgjax.runs.maps import read_maps
from fgjax.stages.explain.infills import read_infills
from fgjax.stages.focus.patches import boxes_of
from fgjax.stages.job import Job

BLUR_SIGMA = 11.6
"""Of the infill that judges maps of methods without one, in pixels of a 224 px image."""
BATCH = 8
"""Images that are judged at a time."""


def judge_chunk(
    job: Job,
    chunk: list[tuple[int, Example]],
    names: list[str],
    targets: Int[np.ndarray, "n"],
    patches: PatchTable | None,
) -> dict[str, dict[str, np.ndarray]]:
    """Return every number for every kind of map: {"map": {metric: values}, "centre_box": …}.

    Where is judged by the heat map (for FIDO the joint mask); what suffices by the SSR and what
    destroys by the SDR, where there are such maps. Each baseline has the area of the map that it
    stands beside.
    """
    # Always BATCH images, the last repeated: one program serves all.
    filled = fill_up(chunk, BATCH)
    batch = stack([example for _, example in filled])
    images = jnp.asarray(batch.images.astype(np.float32) / 255)
    maps = stored_maps(job, [i for i, _ in filled])
    truth = {"boxes": batch.boxes, "masks": batch.masks, "cues": batch.cues}
    truth = {name: jnp.asarray(values) for name, values in truth.items()}
    chosen = jnp.asarray(targets[[i for i, _ in filled]])
    names = names + names[-1:] * (BATCH - len(names))
    keys = jnp.stack([image_key(jax.random.fold_in(job.key, 4), n) for n in names])
    level, settings = job.config.evaluate.threshold, job.config.explain.settings
    sigma = getattr(settings, "blur_sigma", BLUR_SIGMA)
    infill = _infill(settings, images, keys, sigma)
    if job.config.explain.infills is not None:
        infill = jnp.asarray(read_infills(job, names, images.shape))
    objects = truth["masks"] if batch.has_mask.any() else None
    kinds = {name: _kinds(m, keys, level, objects) for name, m in maps.items()}
    where, kept, deleted = kinds["heatmap"], kinds["ssr"], kinds["sdr"]
    ask = compiled(job.explained.model), images, chosen
    out: dict[str, dict[str, Any]] = {}
    for kind in where:
        # The overlap at nine levels is for tables of many methods; here one threshold is meant.
        values = evaluate_maps(where[kind], **truth, threshold=level)
        out[kind] = {k: v for k, v in values.items() if not k.startswith("iou_at_")}
        if kind != "map":
            out[kind] |= judge_cut(*ask, kept[kind], deleted[kind], infill, threshold=level)
    own = out["map"]
    own |= judge_hard(
        *ask, maps["ssr"], maps["sdr"], infill, keys, threshold=level, blur_sigma=sigma
    )
    if maps["ssr"] is not maps["heatmap"]:
        own |= _each_mask(maps, truth, level)
    if job.config.evaluate.regions:
        own |= _regions(job.explained.model, images, chosen, maps, infill)
        shuffled = make_infill("patches", images, keys)
        other = _regions(job.explained.model, images, chosen, maps, shuffled)
        own |= {f"{name}_patches": other[name] for name in ("smallest_kept", "smallest_deleted")}
    boxes = None
    if patches is not None:
        boxes = boxes_of(job, patches, names, [example for _, example in filled])
    own["predicted"] = predicted(job.explained.predict(np.asarray(images), boxes))
    own["target"] = chosen
    return {kind: {k: np.asarray(v) for k, v in values.items()} for kind, values in out.items()}


def stored_maps(job: Job, places: list[int]) -> dict[str, Float[Array, "n h w"]]:
    """Return the heat maps of some images, and their SSR and SDR; of a method that has neither,
    both are the heat map itself."""
    found = [read_maps(job.run.path / "maps.zarr", place) for place in places]
    load = lambda name: jnp.asarray(np.stack([maps[name] for maps in found], dtype=np.float32))
    heat = load("heatmap")
    both = {"ssr", "sdr"} <= found[0].keys()
    return {"heatmap": heat} | {n: load(n) if both else heat for n in ("ssr", "sdr")}


def _kinds(
    maps: Float[Array, "n h w"],
    keys: Key[Array, "n"],
    level: float,
    objects: Float[Array, "n h w"] | Bool[Array, "n h w"] | None,
) -> dict[str, Float[Array, "n h w"]]:
    """Return the maps, and some that know nothing of the image: boxes, noise of the same area."""
    n, height, width = maps.shape
    areas = area(threshold(maps, level))
    noise = jnp.concatenate([random_maps(key, 1, height, width) for key in keys])
    kinds = {
        "map": maps,
        "centre_box": center_box_of_area(areas, height, width),
        "random": top_share(noise, areas),
        "constant": constant(n, height, width),
    }
    return kinds if objects is None else kinds | {"whole_object": whole_object(objects)}


def _each_mask(
    maps: dict[str, Float[Array, "n h w"]], truth: dict[str, Array], level: float
) -> dict[str, Array]:
    """Overlaps and total variation of FIDO's three masks, each by itself."""
    found: dict[str, Array] = {}
    for name, title in (("ssr", "ssr"), ("sdr", "sdr"), ("heatmap", "joint")):
        values = evaluate_maps(maps[name], **truth, threshold=level)
        found |= {f"{k}_{title}": values[k] for k in ("iou_cue", "iou_mask", "iou_box")}
        found[f"tv_{title}"] = total_variation(maps[name])
    return found


def _regions(
    model: Any,
    images: Float[Array, "n h w 3"],
    targets: Int[Array, "n"],
    maps: dict[str, Float[Array, "n h w"]],
    infill: Float[Array, "n h w 3"],
) -> dict[str, Array]:
    """Return areas (NaN where there is none) and p of the smallest regions that do it."""
    result = Attribution(maps["heatmap"], {"ssr": maps["ssr"], "sdr": maps["sdr"]})
    found = smallest_regions(model, images, targets, result, infill=infill)
    return {
        "smallest_kept": found.kept.area,
        "smallest_kept_p": found.kept.p,
        "smallest_deleted": found.destroyed.area,
        "smallest_deleted_p": found.destroyed.p,
    }


def _infill(settings: Any, images: jax.Array, keys: jax.Array, sigma: float) -> jax.Array:
    """Return the infill the maps were made with; blur where the method has none."""
    infill = getattr(settings, "infill", "blur")
    return make_infill(infill if infill in INFILLS else "blur", images, keys, blur_sigma=sigma)
