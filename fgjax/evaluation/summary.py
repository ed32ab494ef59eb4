"""From maps and annotations to named numbers, and from numbers to a mean with an interval.

values = evaluate_maps(heatmap, boxes=boxes, masks=masks, cues=cues)   # name -> n values
print(summarise(values["iou_mask"]), protocols()["iou_mask"])
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from fgjax.core.filters import total_variation
from fgjax.core.floor import FLOOR, is_flat
from fgjax.core.keys import image_keys
from fgjax.evaluation.faithfulness import DIMMED_PROTOCOL, curve_protocol, deletion, insertion
from fgjax.evaluation.localization import (
    LEVELS,
    POINTING_PROTOCOLS,
    SMALL,
    area,
    box_iou,
    box_mask,
    box_of,
    covered,
    energy_inside,
    false_detection_rate,
    iou,
    iou_at_levels,
    is_small,
    point_of,
    points_at,
    share_inside,
)
from fgjax.evaluation.localization import threshold as above
from fgjax.evaluation.parts import parts_protocol
from fgjax.evaluation.randomisation import SIGMA, WINDOW, randomisation_protocol
from fgjax.evaluation.road import NOISE, SHARES, road, road_protocol
from fgjax.evaluation.sensitivity import RADIUS, SAMPLES, sensitivity_protocol
from fgjax.evaluation.sparseness import GINI_PROTOCOL, gini


@partial(jax.jit, static_argnames="pointing")
def evaluate_maps(
    heatmap: Float[Array, "n h w"],
    *,
    boxes: Float[Array, "n 4"] | None = None,
    masks: Bool[Array, "n h w"] | None = None,
    cues: Bool[Array, "n h w"] | None = None,
    threshold: float | Float[Array, ""] = 0.5,
    pointing: str = "blob_centroid",
) -> dict[str, Float[Array, "n"]]:
    """Return every number that needs no model: metric name -> a value per image.

    Args:
      heatmap: importance in [0, 1].
      boxes: of the objects, x0 y0 x1 y1 in pixels; a NaN in it: not annotated.
      masks: True on the object; all False: not annotated.
      cues: True on the part that tells the class from its siblings; all False: unknown.
      threshold: the mask is strictly above it.
      pointing: the protocol of `pointing_game`.

    Returns:
      The names of `protocols()` except the three p_… (`kept_and_deleted` gives those).
      NaN where an annotation is missing (None: missing for all) and, but for the pointing
      games, where the map has a NaN or an infinity. Abstaining wins nothing: a map with no pixel
      above the threshold scores 0 in the overlaps (iou_…, cue_covered) and in the shares of the
      mask (in_…; false_detection 1), a map without heat has the energy of a constant one, the
      truth's share of the image, and points nowhere, a miss. "blank" counts such maps.
      iou_at_… and iou_best take the object's mask, or its filled box where it has no mask,
      and scale the map first: they do not depend on `threshold`. pointing_…_small is NaN for
      an object that is not small (`is_small` of its box, or else of its mask's tightest box).
    """
    n, height, width = heatmap.shape
    nowhere = jnp.zeros(heatmap.shape, bool)
    boxes = jnp.full((n, 4), jnp.nan, jnp.float32) if boxes is None else boxes
    truths = {
        "object": nowhere if masks is None else masks,
        "box": box_mask(boxes, height, width),
        "cue": nowhere if cues is None else cues,
    }
    mask = above(heatmap, threshold)
    annotated = jnp.any(truths["object"], axis=(1, 2), keepdims=True)

    values = {
        "area": area(mask),
        "blank": is_flat(heatmap).astype(jnp.float32),
        "iou_mask": _known(iou(mask, truths["object"]), truths["object"]),
        # An empty mask has no box; against an annotated one that is an overlap of 0.
        "iou_box": jnp.where(
            jnp.any(jnp.isnan(boxes), axis=1) | jnp.any(mask, axis=(1, 2)),
            box_iou(box_of(mask), boxes),
            0.0,
        ),
        "iou_cue": _known(iou(mask, truths["cue"]), truths["cue"]),
        "cue_covered": covered(mask, truths["cue"]),
        "false_detection": false_detection_rate(mask, truths["object"]),
        "total_variation": total_variation(heatmap),
        "gini": gini(heatmap),
    }
    levels = iou_at_levels(heatmap, jnp.where(annotated, truths["object"], truths["box"]))
    values |= {f"iou_at_{level:g}": levels[:, i] for i, level in enumerate(LEVELS)}
    values["iou_best"] = jnp.max(levels, axis=1)
    for name, truth in truths.items():
        values[f"in_{name}"] = share_inside(mask, truth)
        values[f"energy_in_{name}"] = energy_inside(heatmap, truth)
    broken = ~jnp.all(jnp.isfinite(heatmap), axis=(1, 2))
    values = {name: jnp.where(broken, jnp.nan, value) for name, value in values.items()}
    # A broken map points nowhere: that is a miss, not a picture to leave out.
    points = point_of(heatmap, protocol=pointing)
    for name, truth in truths.items():
        values[f"pointing_{name}"] = points_at(points, truth, protocol=pointing)
    boxed = ~jnp.any(jnp.isnan(boxes), axis=1, keepdims=True)
    outlines = jnp.where(boxed, boxes, box_of(truths["object"]))
    small = is_small(outlines, height, width)
    for name in ("object", "box"):
        values[f"pointing_{name}_small"] = jnp.where(small, values[f"pointing_{name}"], jnp.nan)
    return values


def protocols(*, threshold: float = 0.5, pointing: str = "blob_centroid") -> dict[str, str]:
    """Return how each number is measured, one sentence per metric name, to print beside it."""
    mask = f"mask: map > {threshold:g}"
    point = f"pointing game, 1 or 0: {POINTING_PROTOCOLS[pointing]}"
    energy = "share of the map's sum (of a map of zeros: of the image) that lies in"
    empty = ", 0 of an empty mask"
    scale = "the map scaled to span 0 to 1; truth: object mask, filled box where there is none"
    small = f"; objects whose box covers less than {SMALL:g} of the image only"
    return {
        "area": f"share of the image in the mask; {mask}",
        "blank": "1 for a map that is the same everywhere, its spread at most "
        f"{FLOOR:.1g} of its size, else 0",
        "iou_mask": f"IoU of mask and object mask; {mask}",
        "iou_box": f"IoU of the mask's tightest box and the annotated box; {mask}",
        "iou_cue": f"IoU of mask and cue; {mask}",
        "in_object": f"share of the mask's pixels in the object mask{empty}; {mask}",
        "in_box": f"share of the mask's pixels in the annotated box{empty}; {mask}",
        "in_cue": f"share of the mask's pixels in the cue{empty}; {mask}",
        "cue_covered": f"share of the cue's pixels in the mask; {mask}",
        "false_detection": f"share of the mask's pixels outside the object mask, 1 of an empty "
        f"mask; {mask}",
        "energy_in_object": f"{energy} the object mask",
        "energy_in_box": f"{energy} the annotated box",
        "energy_in_cue": f"{energy} the cue",
        "pointing_object": f"{point} (truth: object mask)",
        "pointing_box": f"{point} (truth: annotated box)",
        "pointing_cue": f"{point} (truth: cue)",
        **{
            f"iou_at_{level:g}": f"IoU of truth and the pixels above {level:g} of {scale}"
            for level in LEVELS
        },
        "iou_best": f"highest, image by image, of the IoU at {LEVELS[0]:g} to {LEVELS[-1]:g} of "
        f"{scale}",
        "pointing_object_small": f"{point} (truth: object mask{small})",
        "pointing_box_small": f"{point} (truth: annotated box{small})",
        "gini": GINI_PROTOCOL,
        "total_variation": "sum of squared differences of neighbouring pixels of the map",
        "p_full": "class probability of the image",
        "p_kept": "class probability with all but the map's region replaced by the infill",
        "p_deleted": "class probability with the map's region replaced by the infill",
    }


def evaluate_faithfulness(
    model: Callable,
    images: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    heatmap: Float[Array, "n h w"],
    *,
    key: Key[Array, "..."],
    steps: int = 50,
    insertion_baseline: str = "blur",
    deletion_baseline: str = "mean",
    shares: tuple[float, ...] = SHARES,
    noise: float = NOISE,
) -> dict[str, Float[Array, "n"]]:
    """Return insertion, deletion and ROAD: metric name -> a value per image.

    2·(steps + 1) + 2·len(shares) forward passes. The settings are those of `insertion`,
    `deletion` and `road`; `model_protocols` says them.
    """
    keys = image_keys(key, len(images))
    settings: dict[str, Any] = dict(steps=steps, key=keys)
    ask = (model, images, targets, heatmap)
    curves = {
        "insertion": insertion(*ask, baseline=insertion_baseline, **settings),
        "deletion": deletion(*ask, baseline=deletion_baseline, **settings),
    }
    removed = road(model, images, targets, heatmap, key=key, shares=shares, noise=noise)
    return curves | {f"road_{name}": values for name, values in removed._asdict().items()}


def model_protocols(
    *,
    steps: int = 50,
    insertion_baseline: str = "blur",
    deletion_baseline: str = "mean",
    shares: tuple[float, ...] = SHARES,
    noise: float = NOISE,
    radius: float = RADIUS,
    samples: int = SAMPLES,
    pool: str = "sum",
    score: str = "log_odds",
    layers: Sequence[str] = (),
) -> dict[str, str]:
    """Return how each number that needs the model is measured: the names of
    `evaluate_faithfulness`, "dimmed_drop", "max_sensitivity", "part_deletion" and "randomisation_…"
    (the fields of `Randomised`)."""
    removed = road_protocol(shares=shares, noise=noise)
    randomised = randomisation_protocol(layers)
    return {
        "insertion": f"put into a baseline: {curve_protocol(steps, insertion_baseline)}",
        "deletion": f"replaced by a baseline: {curve_protocol(steps, deletion_baseline)}",
        "road_most_first": f"ROAD, most important first: {removed}",
        "road_least_first": f"ROAD, least important first: {removed}",
        "road_gap": f"ROAD, least minus most important first: {removed}",
        "dimmed_drop": DIMMED_PROTOCOL,
        "max_sensitivity": sensitivity_protocol(radius=radius, samples=samples),
        "part_deletion": parts_protocol(pool=pool, score=score),
        "randomisation_rank_correlation": "absolute value of Spearman's rank correlation, "
        f"undefined where a map is constant, {randomised}",
        "randomisation_ssim": f"SSIM (maps scaled to [0, 1], Gaussian window of {WINDOW} px, "
        f"σ {SIGMA:g}) {randomised}",
    }


BETTER: dict[str, bool | None] = {
    **dict.fromkeys((*protocols(), *model_protocols()), True),
    "area": None,
    "blank": None,
    "total_variation": None,
    "gini": None,
    "p_full": None,
    "false_detection": False,
    "p_deleted": False,
    "deletion": False,
    "road_most_first": False,
    "max_sensitivity": False,
    "randomisation_rank_correlation": False,
    "randomisation_ssim": False,
}
"""Metric name -> whether higher is better; None: neither is, by itself."""


class Summary(NamedTuple):
    """A mean over the images where the value is defined, and how sure it is.

    Attributes:
      mean: NaN when no value is defined.
      low, high: the interval of the mean; NaN for fewer than two defined values.
      n_defined: images with a value.
      n: images.
    """

    mean: float
    low: float
    high: float
    n_defined: int
    n: int


def summarise(
    values: Float[Array, "n"] | Float[np.ndarray, "n"],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Summary:
    """Return mean and its percentile bootstrap interval over images; NaN values are left out.

    The same values and seed give the same interval. Equal values give one of no width, which
    says little when they are few.

    References:
      Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    values = np.asarray(values, np.float64)
    defined = values[~np.isnan(values)]
    if len(defined) < 2:
        mean = float(defined[0]) if len(defined) else float("nan")
        return Summary(mean, float("nan"), float("nan"), len(defined), len(values))
    rng = np.random.default_rng(seed)
    # In parts, so that many resamples of many images do not fill the memory.
    part = max(1, 2**20 // len(defined))
    sizes = [min(part, resamples - start) for start in range(0, resamples, part)]
    drawn = (rng.integers(0, len(defined), (size, len(defined))) for size in sizes)
    means = np.concatenate([defined[index].mean(1) for index in drawn])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Summary(float(defined.mean()), float(low), float(high), len(defined), len(values))


def difference_interval(
    a: Float[Array, "n"] | Float[np.ndarray, "n"],
    b: Float[Array, "n"] | Float[np.ndarray, "n"],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Summary:
    """Return the mean of a − b over the same images, with its paired bootstrap interval.

    Images where either is NaN are left out. `low > margin` says that a beats b by that margin.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return summarise(difference, confidence=confidence, resamples=resamples, seed=seed)


def _known(values: Float[Array, "n"], truth: Bool[Array, "n h w"]) -> Float[Array, "n"]:
    return jnp.where(jnp.any(truth, axis=(1, 2)), values, jnp.nan)
