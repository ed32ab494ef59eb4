"""Do parts that were found without labels tell where an animal's landmarks are?

A linear regression maps the parts' centres to landmarks on training images, and is judged on
test images: the protocol of region grouping (Huang and Li, CVPR 2020, "Evaluation Metric"),
after Hung et al., SCOPS, CVPR 2019. All in float64 NumPy; a few thousand numbers.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float

Mode = Literal["separate", "joint"]

PROTOCOLS = {
    "separate": "linear regression from the parts' centres to each landmark, fitted on training "
    "images where it is visible; both in shares of the box, standardised; mean distance over the "
    "visible landmarks of test images, in % of the box",
    "joint": "one linear regression from the parts' centres to all landmarks, fitted on training "
    "images, standardised; mean distance in % of that between the first two landmarks, the eyes",
}


def landmark_error(
    fit_centers: Float[np.ndarray, "m k 2"],
    fit_landmarks: Float[np.ndarray, "m p 3"],
    centers: Float[np.ndarray, "n k 2"],
    landmarks: Float[np.ndarray, "n p 3"],
    *,
    fit_boxes: Float[np.ndarray, "m 4"] | None = None,
    boxes: Float[np.ndarray, "n 4"] | None = None,
    mode: Mode = "separate",
) -> Float[np.ndarray, "n"]:
    """Return the mean of `landmark_distances` over each image's visible landmarks; NaN without one.

    Args, Raises:
      as for `landmark_distances`.
    """
    distances = landmark_distances(
        fit_centers, fit_landmarks, centers, landmarks,
        fit_boxes=fit_boxes, boxes=boxes, mode=mode,
    )  # fmt: skip
    return mean_of_defined(distances, axis=1)


def landmark_distances(
    fit_centers: Float[np.ndarray, "m k 2"],
    fit_landmarks: Float[np.ndarray, "m p 3"],
    centers: Float[np.ndarray, "n k 2"],
    landmarks: Float[np.ndarray, "n p 3"],
    *,
    fit_boxes: Float[np.ndarray, "m 4"] | None = None,
    boxes: Float[np.ndarray, "n 4"] | None = None,
    mode: Mode = "separate",
) -> Float[np.ndarray, "n p"]:
    """Return how far each landmark is from where the parts' centres say it is.

    "separate" (CUB-200-2011): places are shares of the box. Per landmark, centres and landmark
    are standardised over the training images where it is visible, and regressed linearly without
    an intercept. The distance is in shares of the box (times 100: %).

    "joint" (CelebA): one regression for all landmarks, on the images where all are visible;
    places are pixels, and the distance is in those between landmarks 0 and 1, the eyes.

    A centre that is NaN (a part that is nowhere) is taken to be at its mean place.

    Args:
      fit_centers, centers: x, y of each part in pixels, in training and in test images.
      fit_landmarks, landmarks: x, y in pixels, and visible (0 or 1).
      fit_boxes, boxes: x0, y0, x1, y1; "separate" needs them; images with a NaN are left out.

    Returns:
      the distance; NaN for a landmark that is not visible, in an image without a box, and for
      one that no training image shows.

    Raises:
      ValueError: an unknown mode, or boxes are missing.
    """
    if mode not in PROTOCOLS:
        raise ValueError(f"mode={mode!r}: one of {', '.join(PROTOCOLS)}")
    fit_seen, seen = fit_landmarks[..., 2] > 0, landmarks[..., 2] > 0
    fit_points, points = fit_landmarks[..., :2], landmarks[..., :2]
    if mode == "joint":
        fit_seen = np.broadcast_to(fit_seen.all(1, keepdims=True), fit_seen.shape)
        unit = np.linalg.norm(points[:, 0] - points[:, 1], axis=-1)
        unit = np.where(seen[:, :2].all(1) & (unit > 0), unit, np.nan)[:, None]
    else:
        if fit_boxes is None or boxes is None:
            raise ValueError('mode "separate" measures in shares of the box: boxes are needed')
        fit_seen = fit_seen & ~np.isnan(fit_boxes).any(1, keepdims=True)
        fit_centers, centers = in_box(fit_centers, fit_boxes), in_box(centers, boxes)
        fit_points, points = in_box(fit_points, fit_boxes), in_box(points, boxes)
        unit = 1.0
    found = np.full(points.shape, np.nan)
    for p in range(points.shape[1]):
        use = fit_seen[:, p]
        if use.any():
            found[:, p] = _regress(fit_centers[use], fit_points[use, p], centers)
    distances = np.linalg.norm(found - points, axis=-1) / unit
    return np.where(seen, distances, np.nan)


def _regress(x, y, new) -> Float[np.ndarray, "n 2"]:
    """Return least squares from parts `m k 2` to places `m 2`, both standardised, for `n k 2`."""
    x, new = (v.reshape(len(v), -1).astype(np.float64) for v in (x, new))
    y = y.astype(np.float64)
    known = np.where(np.isfinite(x), x, 0)
    count = np.maximum(np.isfinite(x).sum(0), 1)
    mean = known.sum(0) / count
    spread = np.sqrt((np.where(np.isfinite(x), x - mean, 0) ** 2).sum(0) / count)
    spread_y = y.std(0)
    scaled, scaled_new = (
        # What does not vary but by rounding must not be blown up to variance 1.
        np.nan_to_num((v - mean) / np.where(spread > 1e-6, spread, np.inf))
        for v in (x, new)
    )
    target = (y - y.mean(0)) / np.where(spread_y > 0, spread_y, 1)
    weights = np.linalg.lstsq(scaled, target, rcond=None)[0]
    return scaled_new @ weights * spread_y + y.mean(0)


def in_box(
    places: Float[np.ndarray, "n k 2"], boxes: Float[np.ndarray, "n 4"]
) -> Float[np.ndarray, "n k 2"]:
    """Return places as shares of the box: (0, 0) is its upper left corner, (1, 1) the lower
    right."""
    low, size = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
    return (places - low) / size


def part_spread(places: Float[np.ndarray, "n k 2"]) -> Float[np.ndarray, "k"]:
    """Return how far each part's place wanders: the root mean square distance to its mean place, in
    the places' unit. Lower is steadier. NaN places are left out."""
    mean = mean_of_defined(places, axis=0)
    return np.sqrt(mean_of_defined(((places - mean) ** 2).sum(-1), axis=0))


def part_consistency(
    places: Float[np.ndarray, "n k 2"], landmarks: Float[np.ndarray, "n p 3"]
) -> Float[np.ndarray, "k"]:
    """Return how steadily each part lies at one landmark: the share of images in which the visible
    landmark nearest to the part's place is the one that is so most often. In [1/p, 1]; it does
    not mind which way the animal looks. NaN for a part with no place in any image."""
    gap = np.linalg.norm(places[:, :, None] - landmarks[:, None, :, :2], axis=-1)
    gap = np.where(landmarks[:, None, :, 2] > 0, gap, np.inf)
    gap = np.where(np.isnan(gap), np.inf, gap)
    nearest, defined = gap.argmin(-1), np.isfinite(gap.min(-1))
    shares = []
    for own, use in zip(nearest.T, defined.T, strict=True):
        counts = np.bincount(own[use])
        shares.append(counts.max() / use.sum() if use.any() else np.nan)
    return np.array(shares)


def mean_of_defined(values: Float[np.ndarray, "..."], axis: int) -> Float[np.ndarray, "..."]:
    """Return the mean of those that are not NaN; NaN where all are."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis) / defined.sum(axis)
