"""Every number of given maps, whoever made them.

values = fgjax.evaluate(model, images, targets, "captum.npy", scale="absolute")
print(values["insertion"], values["p_kept"])
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.common.infill import Infill, make_infill
from fgjax.attribution.common.inputs import check_classes, check_images
from fgjax.attribution.common.types import Attribution
from fgjax.core.batching import filled_places
from fgjax.core.filters import total_variation
from fgjax.core.functional import partition
from fgjax.core.keys import image_key, image_keys
from fgjax.devices.forward import compiled
from fgjax.evaluation.hard_masks import judge_hard
from fgjax.evaluation.importance import to_importance
from fgjax.evaluation.landmark_targets import judge_parts, landmark_discs
from fgjax.evaluation.needed_part import where_needed, without_part
from fgjax.evaluation.smallest_regions import smallest_regions
from fgjax.evaluation.summary import evaluate_faithfulness, evaluate_maps

BATCH = 8
"""Images that are judged at a time."""
BLUR_SIGMA = 11.6
"""Of the infill that judges maps of methods without one, in pixels of a 224 px image."""
JUDGING = 4
"""Folded into a run's key, it is that of its evaluation."""


class Truth(NamedTuple):
    """What is known of some images. What is not annotated is said as in `evaluate_maps`.

    Attributes:
      boxes, masks, cues: see `evaluate_maps`.
      discs: of `landmark_discs`; None: not asked for.
      parts: the names of the discs.
    """

    boxes: Float[Array, "n 4"] | None = None
    masks: Any = None
    cues: Any = None
    discs: Any = None
    parts: tuple[str, ...] = ()


def judge_place(
    heatmap: Float[Array, "n h w"], truth: Truth, threshold: float
) -> dict[str, Float[Array, "n"]]:
    """Return where the maps lie: the numbers that need no model."""
    values = evaluate_maps(
        heatmap, boxes=truth.boxes, masks=truth.masks, cues=truth.cues, threshold=threshold
    )
    # The overlap at nine levels is for tables of many methods; here one threshold is meant.
    values = {k: v for k, v in values.items() if not k.startswith("iou_at_")}
    if truth.discs is not None:
        values |= judge_parts(heatmap, truth.discs, truth.parts)
    return values


def judge(
    model: Any,
    images: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    maps: dict[str, Float[Array, "n h w"]],
    keys: Key[Array, "n"],
    truth: Truth,
    infill: Float[Array, "n h w c"],
    *,
    threshold: float = 0.5,
    blur_sigma: float = BLUR_SIGMA,
    regions: bool = True,
    curves: int = 0,
) -> dict[str, Any]:
    """Return every number of a few images' maps, as a run has them in results.csv.

    Args:
      model: images -> logits.
      maps: "heatmap", and "ssr" and "sdr", which for a method that has neither are the heat map
        itself, the same array.
      keys: one per image, of masks and infills that are drawn.
      truth: what is known of the images.
      infill: what a pixel is replaced by.
      threshold: that cuts the maps.
      blur_sigma: of the infill, where it is a blur.
      regions: whether the smallest regions are found.
      curves: steps of insertion and deletion; 0: they and ROAD are not measured.
    """
    ask = compiled(model), images, targets
    own: dict[str, Any] = dict(judge_place(maps["heatmap"], truth, threshold))
    own |= judge_hard(
        *ask, maps["ssr"], maps["sdr"], infill, keys, threshold=threshold, blur_sigma=blur_sigma
    )
    own["p_without_cue"] = without_part(*ask, truth.cues, infill)
    own["iou_cue_needed"] = where_needed(own["iou_cue"], own["p_full"], own["p_without_cue"])
    if maps["ssr"] is not maps["heatmap"]:
        own |= _each_mask(maps, truth, threshold)
    if regions:
        own |= _regions(model, images, targets, maps, infill)
        shuffled = make_infill("patches", images, keys)
        other = _regions(model, images, targets, maps, shuffled)
        own |= {f"{name}_patches": other[name] for name in ("smallest_kept", "smallest_deleted")}
    if curves:
        own |= evaluate_faithfulness(*ask, maps["heatmap"], key=keys, steps=curves)
    return own


def _each_mask(
    maps: dict[str, Float[Array, "n h w"]], truth: Truth, level: float
) -> dict[str, Array]:
    """Overlaps and total variation of FIDO's three masks, each by itself."""
    found: dict[str, Array] = {}
    for name, title in (("ssr", "ssr"), ("sdr", "sdr"), ("heatmap", "joint")):
        values = evaluate_maps(
            maps[name], boxes=truth.boxes, masks=truth.masks, cues=truth.cues, threshold=level
        )
        found |= {f"{k}_{title}": values[k] for k in ("iou_cue", "iou_mask", "iou_box")}
        found[f"tv_{title}"] = total_variation(maps[name])
    return found


def _regions(
    model: Any,
    images: Float[Array, "n h w 3"],
    targets: Int[Array, "n"],
    maps: dict[str, Float[Array, "n h w"]],
    infill: Float[Array, "n h w 3"],
) -> dict[str, Array]:
    """Return areas (NaN where there is none) and p of the smallest regions that do it."""
    result = Attribution(maps["heatmap"], {"ssr": maps["ssr"], "sdr": maps["sdr"]})
    found = smallest_regions(model, images, targets, result, infill=infill)
    return {
        "smallest_kept": found.kept.area,
        "smallest_kept_p": found.kept.p,
        "smallest_deleted": found.destroyed.area,
        "smallest_deleted_p": found.destroyed.p,
    }


def evaluate(
    model: Callable,
    images: Float[Array | np.ndarray, "n h w c"] | str | Path,
    targets: Int[Array | np.ndarray, "n"] | Sequence[int] | str | Path,
    maps: Attribution | Float[Array | np.ndarray, "n h w"] | str | Path,
    *,
    scale: str = "keep",
    boxes: Float[Array | np.ndarray, "n 4"] | None = None,
    masks: Any = None,
    cues: Any = None,
    landmarks: Float[Array | np.ndarray, "n parts 3"] | None = None,
    landmark_names: Sequence[str] = (),
    radius: float = 0.1,
    infill: Infill = "blur",
    threshold: float = 0.5,
    steps: int = 50,
    regions: bool = True,
    key: Key[Array, ""] | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Float[np.ndarray, "n"]]:
    """Return every number of given maps, whoever made them: name -> a value per image.

    The names and numbers are those of a run's results.csv (`config=judge_maps`); how each is
    measured stands in that run's metrics.json and in the docs. Arrays may be given as .npy files.

    Args:
      model: any callable pytree, images -> logits.
      images: RGB in [0, 1].
      targets: the class index that each map explains.
      maps: a map for each image, in the images' order; or what a method of fgjax returned, whose
        SSR and SDR then say what suffices and what destroys.
      scale: how a map becomes importance in [0, 1]: "keep" (it is), "positive", "absolute" or
        "unit", see `SCALES`.
      boxes, masks, cues: see `evaluate_maps`.
      landmarks: x, y, visible of each part, in pixels: whether the map shows the part.
      landmark_names: of the parts; their numbers where left out.
      radius: of the disc around a landmark, as a share of the box's longer side.
      infill: what a pixel is replaced by, see `make_infill`.
      threshold: a pixel is in the mask when its importance is above it.
      steps: of insertion and deletion; 0: they and ROAD are not measured.
      regions: whether the smallest regions that suffice and destroy are found (about 35 forward
        passes an image; without them, and with 50 steps, it takes about 170).
      key: of what is drawn; None: that of a run's seed 0.
      names: of the images, as a run has them: with them the draws are that run's.

    Raises:
      ValueError: maps, images, targets and model do not fit each other, or a file is no array.

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
      >>> values = evaluate(model, images, [0, 1], images.mean(-1), steps=4, regions=False)
      >>> values["insertion"].shape
      (2,)
    """
    images = np.asarray(_array(images, "images"), np.float32)
    found = _maps(maps, scale)
    targets = np.asarray(_array(targets, "targets"))
    if not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(f"targets are class indices, whole numbers; they are {targets.dtype}")
    targets = targets.astype(np.int32)
    arrays, static = partition(model)
    check_images(jnp.asarray(images))
    check_classes(arrays, static, jnp.asarray(images), jnp.asarray(targets))
    for name, values in found.items():
        if values.shape != images.shape[:3]:
            raise ValueError(
                f"{name}: maps of shape {values.shape}, images of {images.shape[:3]}: one map of "
                "the image's height and width for each image"
            )
    own = jax.random.fold_in(jax.random.key(0) if key is None else key, JUDGING)
    if names is None:
        keys = image_keys(own, len(images))
    elif len(names) != len(images):
        raise ValueError(f"names: {len(names)} names for {len(images)} images")
    else:
        keys = jnp.stack([image_key(own, name) for name in names])
    truth = _truth(images.shape, boxes, masks, cues, landmarks, landmark_names, radius)
    given = {"images": images, "targets": targets, **found}
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(images), BATCH):
        count = min(BATCH, len(images) - start)
        at = start + filled_places(count, BATCH)
        x, y = jnp.asarray(images[at]), jnp.asarray(targets[at])
        heat = {name: jnp.asarray(given[name][at]) for name in found}
        three = {name: heat.get(name, heat["heatmap"]) for name in ("heatmap", "ssr", "sdr")}
        known: list[Any] = [None if v is None else jnp.asarray(v[at]) for v in truth[:4]]
        about = Truth(known[0], known[1], known[2], known[3], truth.parts)
        filling: Any
        if not isinstance(infill, str) and not callable(infill) and np.ndim(infill) == 4:
            filling = make_infill(np.asarray(infill)[at], x, keys[at])
        else:
            filling = make_infill(infill, x, keys[at], blur_sigma=BLUR_SIGMA)
        found_here: Any = judge(
            model, x, y, three, keys[at], about, filling,
            threshold=threshold, regions=regions, curves=steps,
        )  # fmt: skip
        parts.append({k: np.asarray(v)[:count] for k, v in found_here.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _truth(shape, boxes, masks, cues, landmarks, names, radius) -> Truth:
    n, height, width = shape[:3]
    boxes = np.full((n, 4), np.nan, np.float32) if boxes is None else np.asarray(boxes, np.float32)
    nowhere = np.zeros((n, height, width), bool)
    masks, cues = (nowhere if m is None else np.asarray(m, bool) for m in (masks, cues))
    for what, given, wanted in (
        ("boxes", boxes, (n, 4)),
        ("masks", masks, (n, height, width)),
        ("cues", cues, (n, height, width)),
    ):
        if given.shape != wanted:
            raise ValueError(f"{what} of shape {given.shape}, wanted {wanted}")
    if landmarks is None:
        return Truth(boxes, masks, cues)
    points = np.asarray(landmarks, np.float32)
    if points.ndim != 3 or points.shape[::2] != (n, 3):
        raise ValueError(f"landmarks of shape {points.shape}: x, y, visible of each, (n, parts, 3)")
    names = tuple(names) or tuple(str(i) for i in range(points.shape[1]))
    if len(names) != points.shape[1]:
        raise ValueError(f"landmark_names: {len(names)} names for {points.shape[1]} landmarks")
    discs = landmark_discs(jnp.asarray(points), jnp.asarray(boxes), height, width, radius)
    return Truth(boxes, masks, cues, np.asarray(discs), names)


def _maps(maps: Any, scale: str) -> dict[str, np.ndarray]:
    """Return "heatmap", and "ssr" and "sdr" where there are both."""
    if isinstance(maps, Attribution):
        both = maps.maps if {"ssr", "sdr"} <= maps.maps.keys() else {}
        made = {"heatmap": maps.heatmap} | {name: both[name] for name in ("ssr", "sdr") if both}
        return {name: to_importance(np.asarray(m), scale) for name, m in made.items()}
    found = np.asarray(_array(maps, "maps"))
    if found.ndim != 3 or not np.issubdtype(found.dtype, np.number):
        raise ValueError(
            f"maps must be numbers n h w, one map an image; they are {found.dtype} of shape "
            f"{found.shape}" + (": sum or average the channels" if found.ndim == 4 else "")
        )
    return {"heatmap": to_importance(found.astype(np.float32), scale)}


def _array(value: Any, what: str) -> Any:
    """Return an array; of a path the one in that .npy file."""
    if not isinstance(value, str | Path):
        return value
    try:
        return np.load(value, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{what}={value}: not readable as a .npy file: {error}") from None
