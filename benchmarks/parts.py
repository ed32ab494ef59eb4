"""Does the prior on part occurrence make better parts? Region grouping on close-ups of drawn birds.

    python benchmarks/parts.py                       # everything that --out does not have yet
    python benchmarks/parts.py --minutes 30          # for so long; the same command goes on
    python benchmarks/parts.py --quick --out FILE    # does it work?

Birds that fill a third of images of 56 px, a network with 28 x 28 cells from scratch; 3, 5 and 8
parts, the occurrence loss weighed 0, 0.05, 0.1 and 0.5, with the paper's Beta(1, 0.001) and, for
three seeds, a softer one; and three seeds trained four times as long. All settings of a seed have
the same images, first weights and order of images. The last epoch counts; nothing is chosen by any
result. Other settings are those of configs/parts_species.

The parts of the test images (of every cell the part with the largest share) are held against the
known part of each pixel: `fgjax.evaluation.agreement`. Beside region grouping stand, judged alike,

  untrained    the same network before its first step
  dff          deep feature factorisation: NMF of the features of the network without the prior
  k-means      of those features
  colours      k-means of the cells' colours
  places       k-means of the cells' places: the same map for every image
  rings        rings of equal area round the image's middle: likewise
  random       every cell at random
  known        the known parts, merged to as many: background, the largest ones, the rest

--out is a CSV with a row for each of these, added as it is made.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.cluster.vq import kmeans2, vq
from tables.files import append_row, rows_so_far

from fgjax.data.pipeline import epoch_order, load_examples
from fgjax.data.species.source import CLASSES, PARTS, SpeciesSource
from fgjax.evaluation.agreement import agreement, part_counts, parts_on_the_animal
from fgjax.evaluation.landmarks import landmark_distances
from fgjax.models.classifier import Classifier, create_model
from fgjax.models.composed.factorisation import factor_maps, factorise
from fgjax.models.composed.grouping import soft_centroids
from fgjax.training.augment.geometry_and_light import Augmentation
from fgjax.training.classifier import Recipe, train
from fgjax.training.objectives.part_objective import PartObjective
from fgjax.training.objectives.part_occurrence import part_occurrence
from fgjax.training.optimizer import make_optimizer

SIDE, CELLS, BATCH = 56, 28, 32
NUMBERS, WEIGHTS, BETA, SOFTER = (3, 5, 8), (0.0, 0.05, 0.1, 0.5), 1e-3, 0.5
LONGER = 4
"""Times as many epochs, for the middle number of parts and the ends of the weights."""
FITTED_ON = 100
"""Images whose features are factorised or grouped; the others are then told."""
COLUMNS = (
    "parts", "number", "weight", "beta", "epochs", "seed", "nmi_object", "ari_object", "nmi_image",
    "ari_image", "on_bird", "used", "landmark_error", "accuracy", "rarest", "seconds",
)  # fmt: skip
"""on_bird: parts most of whose pixels lie on the bird; used: parts that have 1 % of all pixels;
rarest: the lowest mean occurrence of a part."""


class Images(NamedTuple):
    """Drawn birds of one split."""

    pixels: np.ndarray
    labels: np.ndarray
    landmarks: np.ndarray
    boxes: np.ndarray
    part_maps: np.ndarray


def draw_images(split: str, count: int, seed: int) -> Images:
    """Return close-ups; another seed gives other ones."""
    source = SpeciesSource(SIDE, **{split: count}, seed=seed, close_up=True)
    records = [r for r in source.records if r.split == split][:count]
    held: list[Any] = [e for _, e in load_examples(source, records, workers=1, on_error="raise")]
    fields = ("image", "label", "landmarks", "box", "part_map")
    return Images(*(np.stack([getattr(e, field) for e in held]) for field in fields))


@jax.jit
def _regions(model, pixels):
    found = model.regions(pixels.astype(jnp.float32) / 255)
    return found.logits, found.assignment


@jax.jit
def _features(model, pixels):
    return model.features(pixels.astype(jnp.float32) / 255)


def in_batches(call, pixels: np.ndarray, size: int = 100) -> Any:
    """Return what `call` makes of images, a hundred at a time."""
    found = [jax.tree.map(np.asarray, call(pixels[i : i + size]))
             for i in range(0, len(pixels), size)]  # fmt: skip
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def judge(maps: dict[str, np.ndarray], images: dict[str, Images]) -> dict[str, float]:
    """Return the numbers of parts, given as shares `n h w k` of the cells of both splits."""
    number = maps["test"].shape[-1]
    counts = sum(
        part_counts(own.argmax(-1), known, number, len(PARTS))
        for own, known in zip(maps["test"], images["test"].part_maps, strict=True)
    )
    own = counts.sum(1)
    centres = {
        split: np.asarray(soft_centroids(jnp.asarray(each, jnp.float32)), np.float64)
        * (SIDE / CELLS)
        for split, each in maps.items()
    }
    fit, new = images["train"], images["test"]
    distances = landmark_distances(
        centres["train"], fit.landmarks.astype(float), centres["test"], new.landmarks.astype(float),
        fit_boxes=fit.boxes.astype(float), boxes=new.boxes.astype(float),
    )  # fmt: skip
    return {
        **agreement(counts),
        "on_bird": int((np.nan_to_num(parts_on_the_animal(counts)) > 0.5).sum()),
        "used": int((own >= 0.01 * own.sum()).sum()),
        "landmark_error": 100 * float(np.nanmean(distances)),
    }


def fresh(number: int, seed: int) -> Classifier:
    """Return the network before its first step."""
    return create_model(
        "region_grouping", len(CLASSES), key=jax.random.key(seed), size=SIDE, classes=CLASSES,
        backbone="parts_trunk:FINE", num_parts=number,
    )  # fmt: skip


def trained(
    model: Classifier, images: Images, weight: float, beta: float, seed: int, epochs: int
) -> Classifier:
    """Return the network after its last step."""
    steps = len(images.labels) // BATCH
    recipe = Recipe(
        make_optimizer(steps * epochs, 5e-3, warmup=0.1, weight_decay=0.01),
        Augmentation(shift=0.08, light=0.1),
        method="regions",
        objective=PartObjective(weight, 1.0, beta, smoothing=0.1),
    )

    def batches(epoch):
        order = epoch_order(seed, epoch, len(images.labels))[: steps * BATCH]
        for part in order.reshape(-1, BATCH):
            yield images.pixels[part], images.labels[part]

    state = train(
        model, batches, lambda: iter([]), key=jax.random.key(seed), epochs=epochs,
        batch_size=BATCH, recipe=recipe,
    )  # fmt: skip
    return model.replace(variables=state.variables)


def judge_network(model: Classifier, images: dict[str, Images]) -> dict[str, float]:
    """Return the numbers of a network's parts, and how often it is right."""
    seen = {s: in_batches(partial(_regions, model), each.pixels) for s, each in images.items()}
    logits, assignment = seen["test"]
    occurrence = np.asarray(part_occurrence(jnp.asarray(assignment))).mean(0)
    return {
        **judge({split: each[1] for split, each in seen.items()}, images),
        "accuracy": 100 * float((logits.argmax(1) == images["test"].labels).mean()),
        "rarest": float(occurrence.min()),
    }


def one_hot(groups: np.ndarray, number: int) -> np.ndarray:
    """Return shares of 0 and 1."""
    return np.eye(number, dtype=np.float32)[groups]


def of_cells(pixels: np.ndarray) -> np.ndarray:
    """Return the mean colour of every cell."""
    size = SIDE // CELLS
    return pixels.reshape(len(pixels), CELLS, size, CELLS, size, 3).mean((2, 4)) / 255


def grouped(
    values: dict[str, np.ndarray], number: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return the nearest of k means; the means are those of some training images."""
    some = values["train"][:FITTED_ON].reshape(-1, values["train"].shape[-1])
    means, _ = kmeans2(some.astype(np.float64), number, minit="++", rng=rng, iter=30)
    return {
        split: one_hot(vq(v.reshape(-1, v.shape[-1]), means)[0].reshape(v.shape[:3]), number)
        for split, v in values.items()
    }


def of_every_image(groups: np.ndarray, number: int, images: dict[str, Images]):
    """Return the same parts for each image."""
    held = one_hot(groups, number)[None]
    return {s: np.broadcast_to(held, (len(i.labels), *held.shape[1:])) for s, i in images.items()}


def controls(
    number: int, seed: int, images: dict[str, Images], plain: Classifier
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the numbers of what is no region grouping; `plain`: the network without the prior."""
    rng = np.random.default_rng(seed)
    side = (np.arange(CELLS) + 0.5) / CELLS - 0.5
    places = np.stack(np.meshgrid(side, side), -1)
    yield "untrained", judge_network(fresh(number, seed), images)
    features = {s: in_batches(partial(_features, plain), i.pixels) for s, i in images.items()}
    some = features["train"][:FITTED_ON].reshape(-1, features["train"].shape[-1])
    _, parts = factorise(jnp.asarray(some), number, key=jax.random.key(seed))
    yield (
        "dff",
        judge(
            {s: in_batches(lambda x: factor_maps(x, parts), f) for s, f in features.items()}, images
        ),
    )
    yield "k-means", judge(grouped(features, number, rng), images)
    colours = {split: of_cells(each.pixels) for split, each in images.items()}
    yield "colours", judge(grouped(colours, number, rng), images)
    groups = kmeans2(places.reshape(-1, 2), number, minit="++", rng=rng, iter=30)[1]
    yield "places", judge(of_every_image(groups.reshape(CELLS, CELLS), number, images), images)
    order = np.hypot(*np.moveaxis(places, -1, 0)).ravel().argsort(kind="stable").argsort()
    rings = (order * number // len(order)).reshape(CELLS, CELLS)
    yield "rings", judge(of_every_image(rings, number, images), images)
    yield "random", judge(
        {s: one_hot(rng.integers(number, size=(len(i.labels), CELLS, CELLS)), number)
         for s, i in images.items()}, images,
    )  # fmt: skip
    sizes = np.bincount(images["test"].part_maps.ravel(), minlength=1 + len(PARTS))
    merged = np.full(1 + len(PARTS), number - 1)
    merged[0] = 0
    for place, part in enumerate(np.argsort(-sizes[1:])[: number - 2], start=1):
        merged[1 + part] = place
    step = SIDE // CELLS
    yield (
        "known",
        judge(
            {s: one_hot(merged[i.part_maps[:, ::step, ::step]], number) for s, i in images.items()},
            images,
        ),
    )


def settings(seeds: int, epochs: int) -> Iterator[tuple[int, float, float | str, int, int]]:
    """Yield number of parts, weight, β ("" without a prior), epochs and seed, in the order in which
    they are of use should the time not do: the paper's β, then longer, then softer."""
    first, more = range(min(3, seeds)), range(3, seeds)

    def of(some, numbers, weights, beta, epochs):
        for seed, number, weight in itertools.product(some, numbers, weights):
            yield number, weight, beta if weight else "", epochs, seed

    yield from of(first, NUMBERS, WEIGHTS, BETA, epochs)
    yield from of(more, NUMBERS, WEIGHTS, BETA, epochs)
    yield from of(first, NUMBERS[1:2], (WEIGHTS[0], WEIGHTS[-1]), BETA, LONGER * epochs)
    yield from of(first, NUMBERS, WEIGHTS[2:], SOFTER, epochs)


def main(words: list[str] | None = None) -> int:
    """Train and judge what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/parts_close_up.csv"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--train", type=int, default=1000, help="images")
    parser.add_argument("--test", type=int, default=400, help="images")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--quick", action="store_true", help="one seed of a few images")
    args = parser.parse_args(words)
    if args.quick:
        args.seeds, args.train, args.test, args.epochs = 1, 64, 20, 1
    began = time.monotonic()
    done = {tuple(row[c] for c in COLUMNS[:6]) for row in rows_so_far(args.out)}
    drawn: dict[int, dict[str, Images]] = {}

    def write(numbers: dict[str, Any], *about: Any) -> None:
        row = dict(zip(COLUMNS, map(str, about))) | numbers
        append_row(args.out, {column: row.get(column, "") for column in COLUMNS})
        said = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
        print(", ".join(said), flush=True)

    for number, weight, beta, epochs, seed in settings(args.seeds, args.epochs):
        about = ("region grouping", number, weight, beta, epochs, seed)
        if tuple(map(str, about)) in done:
            continue
        if time.monotonic() - began > 60 * args.minutes:
            print(f"{args.minutes:g} minutes are over; the same command goes on")
            return 0
        if seed not in drawn:
            counts = {"train": args.train, "test": args.test}
            drawn[seed] = {s: draw_images(s, n, seed) for s, n in counts.items()}
        images, start = drawn[seed], time.monotonic()
        model = trained(
            fresh(number, seed), images["train"], weight, float(beta or BETA), seed, epochs
        )
        numbers = judge_network(model, images)
        numbers["seconds"] = time.monotonic() - start
        if weight == 0:  # the row of the network comes last: without it all are made again
            for kind, found in controls(number, seed, images, model):
                row = (kind, number, "", "", epochs, seed)
                if tuple(map(str, row)) not in done:
                    write(found, *row)
        write(numbers, *about)
    return 0


if __name__ == "__main__":
    sys.exit(main())
