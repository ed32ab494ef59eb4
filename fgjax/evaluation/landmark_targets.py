"""Does the map show this part? A landmark is a point; a disc around it is what is aimed at."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fgjax.evaluation.localization import energy_inside, point_of, points_at

POINTS, ENERGY = "pointing_part_", "energy_in_part_"
"""How the names of these numbers begin; the part's name follows."""
ANY = "any"


def is_of_a_part(metric: str) -> bool:
    """Return whether a number is one of these."""
    return metric.startswith((POINTS, ENERGY))


def part_is_better(metric: str) -> bool | None:
    """Return whether higher is better: of any part it is; which part a network looks at is not for
    us to say (None)."""
    return True if metric in (POINTS + ANY, ENERGY + ANY) else None


def landmark_discs(
    landmarks: Float[Array, "n parts 3"],
    boxes: Float[Array, "n 4"],
    height: int,
    width: int,
    radius: float = 0.1,
) -> Bool[Array, "n parts h w"]:
    """Return the pixels whose centre lies within `radius` of a landmark.

    Args:
      landmarks: x, y, visible of each part, in pixels; one that is not visible has no pixel.
      boxes: of the objects, x0 y0 x1 y1; a NaN in it: not annotated.
      radius: as a share of the box's longer side, or of the image's shorter one where there is no
        box. 0.1 is how near a keypoint has to be found in the usual score PCK.

    References:
      Yang & Ramanan, Articulated Human Detection with Flexible Mixtures of Parts, 2013 (PCK: a
      share of the box's longer side).
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    known = jnp.all(jnp.isfinite(sides), axis=1)
    side = jnp.where(known, jnp.max(sides, axis=1), jnp.float32(min(height, width)))
    reach = (radius * side)[:, None, None, None]
    y = (jnp.arange(height, dtype=jnp.float32) + 0.5)[None, None, :, None]
    x = (jnp.arange(width, dtype=jnp.float32) + 0.5)[None, None, None, :]
    at_x, at_y, visible = (landmarks[:, :, i, None, None] for i in range(3))
    return (visible > 0) & ((x - at_x) ** 2 + (y - at_y) ** 2 <= reach**2)


@jax.jit
def _judge(heatmap, discs):
    broken = ~jnp.all(jnp.isfinite(heatmap), axis=(1, 2))
    points = point_of(heatmap, protocol="blob_centroid")
    parts = jnp.moveaxis(discs, 1, 0)
    points_to = jax.vmap(lambda truth: points_at(points, truth, protocol="blob_centroid"))
    energy = jax.vmap(lambda truth: energy_inside(heatmap, truth))(parts)
    anywhere = jnp.any(discs, axis=1, keepdims=True).swapaxes(0, 1)
    return (
        points_to(parts),
        jnp.where(broken[None], jnp.nan, energy),
        points_to(anywhere)[0],
        jnp.where(broken, jnp.nan, energy_inside(heatmap, anywhere[0])),
    )


def judge_parts(
    heatmap: Float[Array, "n h w"], discs: Bool[Array, "n parts h w"], names: Sequence[str]
) -> dict[str, Float[Array, "n"]]:
    """Return for every part whether the map points at it, and the share of the map's sum in it.

    "pointing_part_NAME" and "energy_in_part_NAME", "any": the discs of all visible parts together.
    NaN for a part that is not visible. A disc is small: compare with a constant map, whose energy
    is the disc's share of the image, and with a centre map, not with 1.

    Args:
      heatmap: importance in [0, 1].
      discs: of `landmark_discs`.
      names: of the parts.
    """
    points, energy, any_point, any_energy = _judge(heatmap, discs)
    found = {}
    for i, name in enumerate(names):
        found[POINTS + name.replace(" ", "_")] = points[i]
        found[ENERGY + name.replace(" ", "_")] = energy[i]
    return found | {POINTS + ANY: any_point, ENERGY + ANY: any_energy}


def part_protocols(names: Sequence[str], radius: float = 0.1) -> dict[str, str]:
    """Return how each number of `judge_parts` is measured, to print beside it."""
    size = f"{radius:.0%} of the longer side of the box"
    said = {}
    for name in (*names, ANY):
        where = f"the disc of {size} around {name}"
        if name == ANY:
            where = f"one of the discs of {size} around the visible landmarks"
        short = name.replace(" ", "_")
        said[POINTS + short] = (
            "pointing game, 1 or 0: the centroid of the largest 8-connected blob above 0.95 of "
            f"the maximum lies in {where}"
        )
        said[ENERGY + short] = f"share of the map's sum that lies in {where}"
    return said
