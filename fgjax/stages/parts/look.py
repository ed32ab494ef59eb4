"""What a region grouping network sees in an image, reduced to what its figures need."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fgjax.core.batching import fill_up
from fgjax.data.types import Example, Record
from fgjax.devices.jit import program
from fgjax.evaluation import box_mask, pointing_game
from fgjax.evaluation.agreement import part_counts
from fgjax.models.classifier import Classifier
from fgjax.models.composed.factorisation import factor_maps
from fgjax.models.composed.grouping import soft_centroids
from fgjax.training.objectives.part_occurrence import part_occurrence

PROTOCOL = "argmax"
"""Of pointing: the pixel of the highest attribution, enlarged to the image."""


@dataclass(frozen=True)
class PartLook:
    """One image.

    Attributes:
      label: its class; None: not known, or `attributes` say it.
      attributes: 1 where they hold, of an image with attributes.
      places: the parts' soft centroids x, y in pixels; NaN for a part that is nowhere.
      cell: pixels of a cell of the map.
      points_in_box: 1 where the attribution is highest in the box, else 0; NaN without a box.
      middle_in_box: the same of the image's middle.
      counts: pixels of each part on each known part, see `part_counts`; None: none is known.
      factored: the same image with the places and counts of the factors' maps instead; None: there
        are no factors.
    """

    name: str
    label: int | None
    attributes: Int[np.ndarray, "a"] | None
    logits: Float[np.ndarray, "c"]
    attention: Float[np.ndarray, "*a k"]
    occurrence: Float[np.ndarray, "k"]
    places: Float[np.ndarray, "k 2"]
    cell: Int[np.ndarray, ""] | np.integer
    box: Float[np.ndarray, "4"] | None
    landmarks: Float[np.ndarray, "p 3"] | None
    points_in_box: np.floating
    middle_in_box: np.floating
    counts: Int[np.ndarray, "k q"] | None = None
    factored: "PartLook | None" = None


@program("explain", static_argnames=("radius", "std"))
def _forward(
    model: Classifier,
    images: Float[Array, "n h w 3"],
    boxes: Float[Array, "n 4"],
    factors: Float[Array, "k d"] | None,
    radius: int,
    std: float,
):
    found = model.regions(images)
    n, height, width = images.shape[:3]
    cell = height // found.assignment.shape[1]
    # Of a map smaller than the window what there is of it.
    radius = min(radius, (min(found.assignment.shape[1:3]) - 1) // 2)
    # Several heads: where the mean one points.
    attribution = found.attribution if found.attribution.ndim == 3 else found.attribution.mean(1)
    heat = jax.image.resize(attribution, (n, height, width), "linear", antialias=False)
    truth = box_mask(boxes, height, width)
    pointing = pointing_game(heat, truth, protocol=PROTOCOL)
    inside = truth[:, height // 2, width // 2].astype(jnp.float32)
    middle = jnp.where(truth.any((1, 2)), inside, jnp.nan)
    maps = found.assignment if factors is None else factor_maps(model.features(images), factors)
    return {
        "logits": found.logits,
        "grouped": found.assignment.argmax(-1),
        "factor_places": soft_centroids(maps) * cell,
        "factor_grouped": maps.argmax(-1),
        "attention": found.attention,
        "cell": jnp.full(n, cell),
        "occurrence": part_occurrence(found.assignment, radius=radius, std=std),
        "places": soft_centroids(found.assignment) * cell,
        "points_in_box": pointing,
        "middle_in_box": middle,
    }


def look(
    model: Classifier,
    part: list[tuple[Record, Example]],
    size: int,
    attributes: Int[np.ndarray, "n a"] | None = None,
    *,
    factors: Float[Array, "k d"] | None = None,
    radius: int = 2,
    std: float = 0.4,
) -> Iterator[PartLook]:
    """Look at images of one shape; they are filled up to `size`, so that one program serves.

    `factors` are those of `fgjax.models.composed.factorisation`, `radius` and `std` those of
    `part_occurrence`.
    """
    examples = [example for _, example in fill_up(part, size)]
    images = np.stack([e.image for e in examples]).astype(np.float32) / 255
    nowhere = np.full(4, np.nan, np.float32)
    boxes = np.stack([nowhere if e.box is None else e.box for e in examples]).astype(np.float32)
    found = _forward(model, jnp.asarray(images), jnp.asarray(boxes), factors, radius, std)
    found = {name: np.asarray(value) for name, value in found.items()}
    for i, (record, example) in enumerate(part):
        own = {name: value[i] for name, value in found.items()}
        grouped, places = (own.pop(name) for name in ("factor_grouped", "factor_places"))
        parts = len(own["occurrence"])
        seen = PartLook(
            counts=_counts(own.pop("grouped"), example, parts),
            name=record.name,
            label=record.label,
            attributes=None if attributes is None else attributes[i],
            box=example.box,
            landmarks=example.landmarks,
            **own,
        )
        if factors is not None:
            counts = _counts(grouped, example, len(factors))
            seen = replace(seen, factored=replace(seen, places=places, counts=counts))
        yield seen


def _counts(
    grouped: Int[np.ndarray, "h w"], example: Example, parts: int
) -> Int[np.ndarray, "k q"] | None:
    if example.part_map is None or example.landmarks is None:
        return None
    return part_counts(grouped, example.part_map, parts, len(example.landmarks))


@program("explain")
def features_of(model: Classifier, images: Float[Array, "n h w 3"]) -> Float[Array, "n H W d"]:
    """Return the map whose cells are grouped."""
    return model.features(images)
