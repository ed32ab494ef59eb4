"""Every number of the maps of one row, a few images at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fgjax.attribution.common.infill import make_infill
from fgjax.devices.forward import compiled
from fgjax.evaluation import (
    box_mask,
    cascading_randomisation,
    deletion,
    dimmed_drop,
    evaluate_maps,
    insertion,
    judge_parts,
    max_sensitivity,
    pointing_game,
    road,
    single_part_deletion,
)
from fgjax.evaluation.parts import part_drops
from fgjax.evaluation.randomisation import layers_top_down
from fgjax.stages.compare.comparison import Comparison, RowOf, passes
from fgjax.stages.part_discs import part_discs, part_names

Values = dict[str, Float[np.ndarray, "n"]]


def measure(comparison: Comparison, row: RowOf, places: list[int]) -> list[dict[str, float]]:
    """Return the numbers of a row's maps of these images, a dict for each."""
    filled = comparison.filled(places)
    heat = jnp.asarray(comparison.heat(row, [int(place) for place in filled]))
    values = _where(comparison, filled, heat) | _faithful(comparison, filled, heat)
    if hasattr(comparison.source, "without_parts"):
        values |= _parts(comparison, filled, heat)
    if not row.variant:
        values |= _explained_again(comparison, row.method, filled)
    arrays = {name: np.asarray(value) for name, value in values.items()}
    randomised = comparison.config.compare.randomised
    return [
        {
            name: float(value[i])
            for name, value in arrays.items()
            if place < randomised or not name.startswith("randomisation_")
        }
        for i, place in enumerate(places)
    ]


def _where(comparison: Comparison, places: np.ndarray, heat: Array) -> dict[str, Any]:
    batch, level = comparison.batch, comparison.config.evaluate.threshold
    boxes, masks, cues = (jnp.asarray(a[places]) for a in (batch.boxes, batch.masks, batch.cues))
    values = evaluate_maps(heat, boxes=boxes, masks=masks, cues=cues, threshold=level)
    radius, points = comparison.config.evaluate.landmarks, jnp.asarray(batch.landmarks[places])
    height, width = heat.shape[1:]
    discs = part_discs(comparison.source, points, boxes, height, width, radius)
    if discs is not None:
        values |= judge_parts(heat, discs, part_names(comparison.source))
    truths = {"object": masks, "box": box_mask(boxes, *heat.shape[1:]), "cue": cues}
    for name, truth in truths.items():
        values[f"pointing_15px_{name}"] = pointing_game(heat, truth, protocol="argmax_15px")
    return values


def _faithful(comparison: Comparison, places: np.ndarray, heat: Array) -> dict[str, Any]:
    """Return insertion and deletion under every infill, what dimming costs, and ROAD."""
    compare, images = comparison.config.compare, comparison.images[places]
    keys, p_full = comparison.keys[places], jnp.asarray(comparison.p_full[places])
    model = compiled(comparison.explained.model)
    asked = (model, images, jnp.asarray(comparison.targets[places]), heat)
    curve: dict[str, Any] = dict(steps=compare.steps, key=keys, p_full=p_full)
    values: dict[str, Any] = {
        "insertion": insertion(*asked, **curve),
        "deletion": deletion(*asked, baseline="mean", **curve),
        "dimmed_drop": dimmed_drop(*asked, p_full=p_full),
    }
    for name in compare.infills:
        infill = make_infill(name, images, keys)
        values[f"insertion_{name}"] = insertion(*asked, baseline=infill, **curve)
        values[f"deletion_{name}"] = deletion(*asked, baseline=infill, **curve)
    if compare.road:
        removed = road(*asked, key=keys)
        values |= {f"road_{name}": value for name, value in removed._asdict().items()}
    return values


def _parts(comparison: Comparison, places: np.ndarray, heat: Array) -> dict[str, Any]:
    """Return how the map's weights of the parts agree with what the score loses with each."""
    model, found = compiled(comparison.explained.model), []
    source: Any = comparison.source  # one that draws
    for i, place in enumerate(int(place) for place in places):
        image, target = comparison.images[place][None], jnp.asarray(comparison.targets[place])[None]
        if place not in comparison.parts:
            parts = source.without_parts(comparison.records[place])
            without = jnp.asarray(parts.images.astype(np.float32) / 255)[None]
            drops = part_drops(model, image, target, without)
            masks, present = jnp.asarray(parts.masks)[None], jnp.asarray(parts.present)[None]
            comparison.parts[place] = (masks, present, drops)
        masks, present, drops = comparison.parts[place]
        one = (model, image, target, heat[i : i + 1], None, masks, present)
        found.append(single_part_deletion(*one, drops=drops).correlation)
    return {"part_deletion": jnp.concatenate(found)}


def _explained_again(comparison: Comparison, method: str, places: np.ndarray) -> dict[str, Any]:
    """Return the numbers that need more maps of the method than the one it is judged by."""
    compare = comparison.config.compare
    if sum(passes(comparison, method)) > compare.again:
        return {}
    images, keys = comparison.images[places], comparison.keys[places]
    targets = jnp.asarray(comparison.targets[places])
    explain, model, values = comparison.explain(method), comparison.explained.model, {}

    def heatmap(model: Any, images: Array, targets: Array) -> Array:
        return explain(model, images, targets, keys)["heatmap"]

    if compare.sensitivity:
        values["max_sensitivity"] = max_sensitivity(
            heatmap, model, images, targets, key=keys, samples=compare.sensitivity
        )
    if places[0] < compare.randomised:
        values |= _randomised(comparison, heatmap, images, targets)
    return values


def _randomised(
    comparison: Comparison, heatmap: Callable, images: Array, targets: Array
) -> dict[str, Any]:
    """Return how alike the maps of ever more randomised networks are, and how often that is
    undefined because one of the two is blank."""
    model = comparison.explained.model
    alike = cascading_randomisation(
        heatmap,
        model,
        images,
        targets,
        key=jax.random.key(comparison.config.seed),
        layers=randomised_layers(model, images),
    )
    defined = jnp.isfinite(alike.rank_correlation)
    count = jnp.sum(defined, axis=0, dtype=jnp.float32)
    total = jnp.sum(jnp.where(defined, alike.rank_correlation, 0), axis=0)
    return {
        "randomisation_rank_correlation": jnp.where(count > 0, total / count, jnp.nan),
        "randomisation_undefined": 1 - count / len(defined),
        "randomisation_ssim": alike.ssim.mean(0),
    }


def randomised_layers(model: Any, images: jax.Array) -> tuple[str, ...]:
    """Return the last layer, one in the middle and the first: down to where layers are
    randomised."""
    order = layers_top_down(model, images)
    return tuple(dict.fromkeys((order[0], order[len(order) // 2], order[-1])))
