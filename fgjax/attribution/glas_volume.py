"""GLAS in three dimensions: light and shadow on a volume, at search points of the user's.

Reference:
  Salient Explanation for Fine-grained Classification, 2020, appendix A.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from fgjax.attribution.common.perturbation import Score, ask, check_score
from fgjax.attribution.glas import Sigmas, glas_maps, glas_scores


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VolumeAttribution:
    """Where in each volume the evidence for its target lies.

    Attributes:
      heatmap: importance in [0, 1], one value a voxel.
      maps: "light" and "shadow", each in [0, 1].
      points: per search point, unscaled: "light" f_l, "shadow" f_s, and their product
        "fusion", by which search points (regions of an atlas) are ranked.
    """

    heatmap: Float[Array, "n d h w"]
    maps: dict[str, Float[Array, "n d h w"]]
    points: dict[str, Float[Array, "n points"]]


def glas_volume(
    model: Any,
    volumes: Float[Array | np.ndarray, "n d h w c"],
    targets: Any,
    points: Float[Array | np.ndarray, "points 3"],
    *,
    sigma_light: float = 10.0,
    sigma_shadow: float = 10.0,
    sigma_spatial: float = 15.0,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    score: Score = "probability",
    chunk_size: int | None = None,
) -> VolumeAttribution:
    """GLAS in three dimensions, at search points of the user's (appendix A).

    Args:
      model: any callable pytree, volumes `n d h w c` -> logits (or what `score` reads).
      volumes: of any finite range; 0 is dark.
      targets: as for `glas`.
      points: search points z, y, x in voxels, voxel centres at +0.5: the centroids of an
        atlas' regions, say.
      sigma_light, sigma_shadow, sigma_spatial: in voxels of `spacing` 1. The appendix says
        "σ = 10 and σ = 15" and not which is which.
      spacing: size of a voxel along z, y, x in the unit of the three: where a slice is 3 mm
        thick, (3, 1, 1) makes the light a ball of that many millimetres.
      score, chunk_size: see `GlasConfig`.

    Raises:
      ValueError: as for `glas`; points of another shape or outside the volume; a width or
        spacing not above 0.
    """
    widths = {
        "sigma_light": sigma_light,
        "sigma_shadow": sigma_shadow,
        "sigma_spatial": sigma_spatial,
    }
    for name, value in {**widths, "spacing": min(spacing)}.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value}: must be above 0")
    check_score(score)
    question = ask(model, volumes, targets, score, volumes=True)
    sizes = question.images.shape[1:-1]
    points = np.asarray(points, np.float32)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ValueError(f"points must be z, y, x in rows (points 3); got shape {points.shape}")
    outside = np.flatnonzero(~((points >= 0) & (points <= np.asarray(sizes))).all(1))
    if outside.size:
        raise ValueError(
            f"search point {outside[0]} at {points[outside[0]].tolist()} lies outside the volume, "
            f"which has {sizes} voxels along z, y, x"
        )
    sigmas = Sigmas(*(np.asarray(w / np.asarray(spacing), np.float32) for w in widths.values()))
    scores = glas_scores(question, points, sigmas, chunk_size=chunk_size)
    maps = glas_maps(scores, points, sigmas, sizes)
    return VolumeAttribution(
        heatmap=maps.pop("fusion"),
        maps=maps,
        points={
            "light": scores.light,
            "shadow": scores.shadow,
            "fusion": scores.light * scores.shadow,
        },
    )
