"""GLAS' two ways to divide Eq. 3, on photographs: by the number of points, or by the Gaussians.

    python benchmarks/glas_normalise.py --birds CUB_200_2011 --weights FILE --labels FILE --out FILE

Both maps are made of the same scores of the default's grid and widths: `normalise="points"` and
"weights". Constant model: the correlation over the pixels with the map by points of a model that
answers the same to everything, which is what Eq. 3 makes of no answer. Randomised: |ρ| with the map
of the network whose last layer is randomised (with all of them this network's answers differ by no
more than rounding, and its maps are blank). Insertion from a blur, deletion to the mean colour,
and both with the image's own patches in another order, which no method optimises on; 25 steps.
Box: share of the map's sum in it, IoU at the best level, the blob's centroid in it. Differences
are "weights" less "points" with paired 95 % bootstrap intervals. About 5 s an image on two cores,
and as much again for the randomised network.
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fgjax
from fgjax.attribution.common.infill import patches
from fgjax.attribution.common.perturbation import ask, scale_to_unit
from fgjax.attribution.glas import (
    GlasConfig,
    glas_scores,
    mixture,
    search_points,
    sigmas_in_pixels,
    silent,
)
from fgjax.core.keys import image_key
from fgjax.data.labels import read_labels
from fgjax.data.sets.cub import CubSource
from fgjax.devices.forward import compiled
from fgjax.evaluation import (
    box_mask,
    deletion,
    difference_interval,
    evaluate_maps,
    insertion,
    layers_top_down,
    randomise,
    rank_correlation,
    summarise,
)

WAYS = ("points", "weights")


def birds(args: argparse.Namespace) -> tuple:
    """Return the model, images, targets, boxes and names: one image of each species in turn."""
    model = fgjax.load_pretrained(None, args.weights)
    source = CubSource(args.birds)
    index = read_labels(Path(args.labels), source.classes, model.network.num_classes).index
    known = [r for r in source.records if r.split == "test" and index[r.label] is not None]
    each: dict[int, list] = {}
    for record in sorted(known, key=lambda r: r.name):
        each.setdefault(record.label, []).append(record)
    turns = [rows[i] for i in range(max(map(len, each.values()))) for rows in each.values()
             if i < len(rows)][: args.images]  # fmt: skip
    examples = [source.load(record) for record in turns]
    images = jnp.asarray(np.stack([e.image for e in examples]).astype(np.float32) / 255)
    targets = np.array([index[e.label] for e in examples], np.int32)
    boxes = jnp.asarray(np.stack([e.box for e in examples]), jnp.float32)
    return model, images, targets, boxes, [record.name for record in turns]


def both(scores: Any, config: GlasConfig, sizes: tuple[int, int]) -> dict[str, jax.Array]:
    """Return the fusion by both ways."""
    points, sigma = search_points(sizes, config.grid), sigmas_in_pixels(config, sizes).spatial
    values = scores.light * scores.shadow
    nothing = silent(scores).fusion
    return {
        way: scale_to_unit(mixture(values, points, sigma, sizes, normalise=way), nothing)
        for way in WAYS
    }


def measure(model: Any, one: tuple, heat: jax.Array, wild: jax.Array) -> dict[str, float]:
    """Return the numbers of one image's map; `wild` is that of the randomised network."""
    image, target, box, key, dull = one
    ask_model = compiled(model)
    values = evaluate_maps(heat, boxes=box)
    shuffled = patches(image, key)
    about = (ask_model, image, target, heat)
    flat = lambda maps: maps.reshape(1, -1)
    return {
        "constant_model": np.corrcoef(np.ravel(heat), np.ravel(dull))[0, 1],
        "randomised": abs(float(rank_correlation(flat(heat), flat(wild))[0])),
        "insertion": float(insertion(*about, steps=25)[0]),
        "deletion": float(deletion(*about, steps=25)[0]),
        "insertion_patches": float(insertion(*about, steps=25, baseline=shuffled)[0]),
        "deletion_patches": float(deletion(*about, steps=25, baseline=shuffled)[0]),
        "energy_in_box": float(values["energy_in_box"][0]),
        "box_area": float(box_mask(box, *heat.shape[1:]).mean()),
        "iou_best": float(values["iou_best"][0]),
        "pointing_box": float(values["pointing_box"][0]),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--birds", required=True, type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    config, (model, images, targets, boxes, names) = GlasConfig(), birds(args)
    order = layers_top_down(model, images[:1])
    wild = randomise(model, images[:1], order[:1], key=jax.random.key(0))
    sizes = images.shape[1:3]
    points, sigmas = search_points(sizes, config.grid), sigmas_in_pixels(config, sizes)
    dull = scale_to_unit(mixture(jnp.ones((1, len(points))), points, sigmas.spatial, sizes))
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for i, name in enumerate(names):
        image, target = images[i : i + 1], jnp.asarray(targets[i : i + 1])
        found = [
            both(glas_scores(ask(net, image, target, config.score), points, sigmas), config, sizes)
            for net in (model, wild)
        ]
        key = image_key(jax.random.key(0), name)
        for way in WAYS:
            one = (image, target, boxes[i : i + 1], key, dull)
            rows[way].append(measure(model, one, found[0][way], found[1][way]))
    table = {}
    for metric in rows["points"][0]:
        columns = {way: np.array([row[metric] for row in rows[way]]) for way in WAYS}
        gap = difference_interval(columns["weights"], columns["points"])
        table[metric] = {way: round(float(np.nanmean(columns[way])), 4) for way in WAYS} | {
            "range": {way: [round(float(f(columns[way])), 3) for f in (np.nanmin, np.nanmax)]
                      for way in WAYS},
            "difference_95": [round(float(v), 4) for v in (gap.mean, gap.low, gap.high)],
            "images": summarise(columns["weights"]).n_defined,
        }  # fmt: skip
        print(metric, json.dumps(table[metric]), flush=True)
    if args.out:
        about = {"images": len(names), "jax": jax.__version__, "machine": platform.machine()}
        args.out.write_text(json.dumps({"about": about, "metrics": table}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
