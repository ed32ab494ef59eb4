"""Every number of a few images' maps, beside maps that know nothing of the image."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from fgjax.attribution.common.infill import INFILLS, make_infill
from fgjax.core.batching import fill_up
from fgjax.core.functional import compiled
from fgjax.core.keys import image_key
from fgjax.data.patch_table import PatchTable
from fgjax.data.pipeline import stack
from fgjax.data.types import Example
from fgjax.evaluation import (
    area,
    center_box_of_area,
    constant,
    evaluate_maps,
    kept_and_deleted,
    random_maps,
    threshold,
    top_share,
    whole_object,
)
from fgjax.runs.maps import read_maps
from fgjax.stages.focus.patches import boxes_of
from fgjax.stages.job import Job

BATCH = 8
"""Images that are judged at a time."""


def judge_chunk(
    job: Job,
    chunk: list[tuple[int, Example]],
    names: list[str],
    targets: Int[np.ndarray, "n"],
    patches: PatchTable | None,
) -> dict[str, dict[str, np.ndarray]]:
    """Return every number for every kind of map: {"map": {metric: values}, "centre_box": …}."""
    # Always BATCH images, the last repeated: one program serves all.
    filled = fill_up(chunk, BATCH)
    batch = stack([example for _, example in filled])
    images = jnp.asarray(batch.images.astype(np.float32) / 255)
    heat = np.stack([read_maps(job.run.path / "maps.zarr", i)["heatmap"] for i, _ in filled])
    heat = jnp.asarray(heat.astype(np.float32))
    boxes, masks, cues = (jnp.asarray(a) for a in (batch.boxes, batch.masks, batch.cues))
    chosen = jnp.asarray(targets[[i for i, _ in filled]])
    names = names + names[-1:] * (BATCH - len(names))
    keys = jnp.stack([image_key(jax.random.fold_in(job.key, 4), n) for n in names])
    infill = _infill(job.config.explain.settings, images, keys)

    n, height, width = heat.shape
    level = job.config.evaluate.threshold
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
    model = compiled(job.explained.model)
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
        boxes = boxes_of(job, patches, names, [example for _, example in filled])
    logits = job.explained.predict(np.asarray(images), boxes)
    out["map"]["predicted"] = logits.argmax(1)
    out["map"]["target"] = np.asarray(chosen)
    return out


def _infill(settings: Any, images: jax.Array, keys: jax.Array) -> jax.Array:
    """Return the infill the maps were made with; blur where the method has none."""
    infill = getattr(settings, "infill", "blur")
    infill = infill if infill in INFILLS else "blur"
    return make_infill(infill, images, keys, blur_sigma=getattr(settings, "blur_sigma", 10.0))
