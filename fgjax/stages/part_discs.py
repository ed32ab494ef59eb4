"""The parts of a data set as targets: a disc around each landmark, and those of a group."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from fgjax.data.types import Source
from fgjax.evaluation.landmark_targets import landmark_discs


def part_names(source: Source) -> tuple[str, ...]:
    """Return the names of the landmarks and of their groups, such as the head."""
    return (*source.landmark_names, *getattr(source, "landmark_groups", {}))


def part_discs(
    source: Source,
    landmarks: Float[jax.Array, "n parts 3"],
    boxes: Float[jax.Array, "n 4"],
    height: int,
    width: int,
    radius: float,
) -> Bool[jax.Array, "n parts_and_groups h w"] | None:
    """Return the discs of `part_names(source)`; None where they are not asked for (a radius of 0)
    or no image has landmarks."""
    if not radius or not landmarks.shape[1]:
        return None
    discs = landmark_discs(landmarks, boxes, height, width, radius)
    place = {name: i for i, name in enumerate(source.landmark_names)}
    groups = getattr(source, "landmark_groups", {})
    unions = [
        jnp.any(discs[:, jnp.array([place[m] for m in members])], axis=1, keepdims=True)
        for members in groups.values()
    ]
    return jnp.concatenate([discs, *unions], axis=1)
