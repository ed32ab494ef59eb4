"""Every number of a few images' maps, beside maps that know nothing of the image."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from fgjax.attribution.common.infill import INFILLS, make_infill
from fgjax.core.batching import fill_up
from fgjax.core.keys import image_key
from fgjax.core.scores import predicted
from fgjax.data.patch_table import PatchTable
from fgjax.data.pipeline import Batch, stack
from fgjax.data.types import Example
from fgjax.devices.forward import compiled
from fgjax.evaluation import (
    area,
    center_box_of_area,
    constant,
    random_maps,
    threshold,
    top_share,
    whole_object,
)
from fgjax.evaluation.hard_masks import judge_cut
from fgjax.evaluation.judge import (
    BATCH,
    BLUR_SIGMA,
    JUDGING,
    Truth,
    judge,
    judge_place,
)
from fgjax.evaluation.needed_part import where_needed
from fgjax.runs.maps import read_maps
from fgjax.stages.evaluate.randomised import randomised_alike
from fgjax.stages.explain.infills import read_infills
from fgjax.stages.focus.patches import boxes_of
from fgjax.stages.job import Job
from fgjax.stages.part_discs import part_discs, part_names


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
    truth = known_of(job, batch)
    chosen = jnp.asarray(targets[[i for i, _ in filled]])
    names = names + names[-1:] * (BATCH - len(names))
    keys = jnp.stack([image_key(jax.random.fold_in(job.key, JUDGING), n) for n in names])
    about, settings = job.config.evaluate, job.config.made_with
    level, sigma = about.threshold, getattr(settings, "blur_sigma", BLUR_SIGMA)
    infill = _infill(settings, images, keys, sigma)
    if job.config.explain.infills is not None:
        infill = jnp.asarray(read_infills(job, names, images.shape))
    objects = truth.masks if batch.has_mask.any() else None
    kinds = {name: _kinds(m, keys, level, objects) for name, m in maps.items()}
    where, kept, deleted = kinds["heatmap"], kinds["ssr"], kinds["sdr"]
    model = job.explained.model
    out: dict[str, dict[str, Any]] = {
        "map": judge(
            model, images, chosen, maps, keys, truth, infill,
            threshold=level, blur_sigma=sigma, regions=about.regions, curves=about.curves,
        )
    }  # fmt: skip
    own = out["map"]
    for kind in where:
        if kind != "map":
            out[kind] = judge_place(where[kind], truth, level)
            out[kind] |= judge_cut(
                compiled(model), images, chosen, kept[kind], deleted[kind], infill, threshold=level
            )
            out[kind]["iou_cue_needed"] = where_needed(
                out[kind]["iou_cue"], own["p_full"], own["p_without_cue"]
            )
    boxes = None
    if patches is not None:
        boxes = boxes_of(job, patches, names, [example for _, example in filled])
    if about.randomised:
        own["randomisation_rank_correlation"] = randomised_alike(
            job, images, chosen, names, maps["heatmap"]
        )
    own["predicted"] = predicted(job.explained.predict(np.asarray(images), boxes))
    own["target"] = chosen
    return {kind: {k: np.asarray(v) for k, v in values.items()} for kind, values in out.items()}


def known_of(job: Job, batch: Batch) -> Truth:
    """Return what is known of some images; the discs of their landmarks where those are asked
    for."""
    boxes, masks, cues = (jnp.asarray(a) for a in (batch.boxes, batch.masks, batch.cues))
    landmarks, radius = jnp.asarray(batch.landmarks), job.config.evaluate.landmarks
    discs = part_discs(job.source, landmarks, boxes, *batch.images.shape[1:3], radius)
    return Truth(boxes, masks, cues, discs, part_names(job.source))


def stored_maps(job: Job, places: list[int]) -> dict[str, Float[jax.Array, "n h w"]]:
    """Return the heat maps of some images, and their SSR and SDR; of a method that has neither,
    both are the heat map itself."""
    found = [read_maps(job.run.path / "maps.zarr", place) for place in places]
    load = lambda name: jnp.asarray(np.stack([maps[name] for maps in found], dtype=np.float32))
    heat = load("heatmap")
    both = {"ssr", "sdr"} <= found[0].keys()
    return {"heatmap": heat} | {n: load(n) if both else heat for n in ("ssr", "sdr")}


def _kinds(
    maps: Float[jax.Array, "n h w"],
    keys: Key[jax.Array, "n"],
    level: float,
    objects: Float[jax.Array, "n h w"] | Bool[jax.Array, "n h w"] | None,
) -> dict[str, Float[jax.Array, "n h w"]]:
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


def _infill(settings: Any, images: jax.Array, keys: jax.Array, sigma: float) -> jax.Array:
    """Return the infill the maps were made with; blur where the method has none."""
    infill = getattr(settings, "infill", "blur")
    return make_infill(infill if infill in INFILLS else "blur", images, keys, blur_sigma=sigma)
