"""Does the map lie where the annotation says the evidence is?

Contract of every function here: one value per image, float32, jit-able.
`maps` and `truth` are boolean masks, `heatmap` is importance in [0, 1]. Boxes are
x0, y0, x1, y1 in pixels with exclusive right and bottom edges; pixel centres lie at
+0.5. What is not annotated is said by a truth mask that is False everywhere, or by a
box with a NaN in it. A value that is not defined is NaN, never a guess.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fgjax.core.floor import is_flat

POINTING_PROTOCOLS = {
    "argmax": "the pixel of the highest value (mean place of ties) lies in the truth",
    "argmax_15px": "the truth has a pixel within 15 px of the pixel of the highest value "
    "(mean place of ties)",
    "blob_centroid": "the centroid of the largest 8-connected blob above 0.95 of the maximum "
    "lies in the truth",
}

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SMALL = 0.25
"""An object is small when its box covers less than this share of the image."""


def threshold(
    heatmap: Float[Array, "n h w"], level: float | Float[Array, ""] = 0.5
) -> Bool[Array, "n h w"]:
    """Return the pixels strictly above `level` (a NaN pixel is not)."""
    return heatmap > level


def area(maps: Bool[Array, "n h w"]) -> Float[Array, "n"]:
    """Return the share of the image that the mask covers, in [0, 1]."""
    return _count(maps) / (maps.shape[1] * maps.shape[2])


def iou(maps: Bool[Array, "n h w"], truth: Bool[Array, "n h w"]) -> Float[Array, "n"]:
    """Return intersection over union, |maps ∩ truth| / |maps ∪ truth|, in [0, 1].

    One of the two empty is 0, both empty is NaN. (A truth that is empty because
    nobody annotated it is the caller's to leave out; `evaluate_maps` does.)

    Example:
      >>> iou(jnp.array([[[True, True]]]), jnp.array([[[True, False]]])).tolist()
      [0.5]
    """
    return _count(maps & truth) / _count(maps | truth)


@jax.jit
def scaled(heatmap: Float[Array, "n h w"]) -> Float[Array, "n h w"]:
    """(map − min) / (max − min): the lowest pixel 0, the highest 1; a map that is constant but for
    rounding (`fgjax.core.floor`) 0 everywhere.

    NaN everywhere for a map with a NaN or an infinity.
    """
    low, high = (f(heatmap, axis=(1, 2), keepdims=True) for f in (jnp.min, jnp.max))
    span = high - low  # NaN or infinite for such a map
    flat = is_flat(heatmap)[:, None, None]
    unit = jnp.where(flat, 0.0, (heatmap - low) / jnp.where(span == 0, 1.0, span))
    return jnp.where(jnp.isfinite(span), unit, jnp.nan)


@partial(jax.jit, static_argnames="levels")
def iou_at_levels(
    heatmap: Float[Array, "n h w"],
    truth: Bool[Array, "n h w"],
    *,
    levels: tuple[float, ...] = LEVELS,
) -> Float[Array, "n levels"]:
    """|{S > t} ∩ truth| / |{S > t} ∪ truth| for each level t; S is the map scaled to span [0, 1].

    A constant map marks nothing and has 0. NaN for an empty truth (not annotated), and for a
    map with a NaN or an infinity. Of a whole data set, the best level is that of the highest
    mean; the mean of each image's best value is higher still, for it chooses by the answer.

    References:
      GLAS, 2020, Table 3: saliency scaled as at the end of Algorithm 1, levels 0.1 to
      0.9. ILSVRC annotates boxes, so the truth there is the filled box.
    """
    maps = scaled(heatmap)
    values = jnp.stack([iou(maps > level, truth) for level in levels], axis=1)
    defined = jnp.any(truth, axis=(1, 2)) & ~jnp.isnan(maps[:, 0, 0])
    return jnp.where(defined[:, None], values, jnp.nan)


def share_inside(maps: Bool[Array, "n h w"], truth: Bool[Array, "n h w"]) -> Float[Array, "n"]:
    """Return the share of the mask that lies in the truth (precision), |maps ∩ truth| / |maps|.

    0 for an empty mask: a map that shows nothing is not right. NaN for an empty truth (not
    annotated).
    """
    return _if_annotated(_count(maps & truth) / jnp.maximum(_count(maps), 1), truth)


def false_detection_rate(
    maps: Bool[Array, "n h w"], truth: Bool[Array, "n h w"]
) -> Float[Array, "n"]:
    """Return the share of the mask that lies outside the truth, FP / (FP + TP).

    This is 1 − `share_inside`: 1 for an empty mask, and NaN where that is.
    """
    return 1.0 - share_inside(maps, truth)


def covered(maps: Bool[Array, "n h w"], truth: Bool[Array, "n h w"]) -> Float[Array, "n"]:
    """Return the share of the truth that the mask covers (recall), |maps ∩ truth| / |truth|.

    0 for an empty mask, NaN for an empty truth (not annotated).
    """
    return _count(maps & truth) / _count(truth)


def energy_inside(heatmap: Float[Array, "n h w"], truth: Bool[Array, "n h w"]) -> Float[Array, "n"]:
    """Return the share of the heat that lies in the truth, Σ_truth heat / Σ heat, in [0, 1].

    A map without heat has the truth's share of the image, as any constant map: that is chance, and
    abstaining wins nothing. NaN for a map with a NaN, and an empty truth (not annotated).

    References:
      Wang et al., Score-CAM, CVPR workshops 2020 (the energy-based pointing game).
    """
    inside, heat = jnp.sum(heatmap, axis=(1, 2), where=truth), jnp.sum(heatmap, axis=(1, 2))
    none = heat == 0
    share = jnp.where(none, area(truth), inside / jnp.where(none, 1, heat))
    # A NaN counts wherever it lies.
    return _if_annotated(jnp.where(jnp.isnan(heat), jnp.nan, share), truth)


def box_of(maps: Bool[Array, "n h w"]) -> Float[Array, "n 4"]:
    """Return the tightest box around a mask, x0 y0 x1 y1 in pixels; four NaN for an empty mask."""
    x0, x1 = _extent(jnp.any(maps, axis=1))
    y0, y1 = _extent(jnp.any(maps, axis=2))
    boxes = jnp.stack([x0, y0, x1, y1], axis=1).astype(jnp.float32)
    return jnp.where(jnp.any(maps, axis=(1, 2))[:, None], boxes, jnp.nan)


def box_iou(a: Float[Array, "n 4"], b: Float[Array, "n 4"]) -> Float[Array, "n"]:
    """Return intersection over union of two boxes, by area.

    NaN where either box has a NaN, or both have no area.
    """
    low, high = jnp.maximum(a[:, :2], b[:, :2]), jnp.minimum(a[:, 2:], b[:, 2:])
    both = jnp.prod(jnp.maximum(high - low, 0.0), axis=1)
    return both / (_box_area(a) + _box_area(b) - both)


@partial(jax.jit, static_argnums=(1, 2))
def box_mask(boxes: Float[Array, "n 4"], height: int, width: int) -> Bool[Array, "n h w"]:
    """Return the pixels whose centre lies in the box; none where the box has a NaN."""
    x0, y0, x1, y1 = (boxes[:, i, None, None] for i in range(4))
    y, x = _pixel_centres(height, width)
    annotated = ~jnp.any(jnp.isnan(boxes), axis=1)[:, None, None]
    return annotated & (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)


def pointing_game(
    maps: Float[Array, "n h w"], truth: Bool[Array, "n h w"], *, protocol: str
) -> Float[Array, "n"]:
    """Do the map point at the truth? 1 = hit, 0 = miss, NaN = not annotated (empty truth).

    The map names one point (`point_of`), and the pixel it falls into decides: it lies in the
    truth ("argmax", "blob_centroid"), or a pixel of the truth is within 15 px of it, between
    pixel centres ("argmax_15px", the margin of excitation backprop's protocol).
    A map that is constant but for rounding, and one with a NaN or an infinity, names no point:
    a miss.

    Raises:
      ValueError: an unknown protocol.

    References:
      Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016.
      GLAS, 2020, "Evaluation on target localization".

    Example:
      >>> maps = jnp.zeros((1, 32, 32)).at[0, 4, 4].set(1.0)
      >>> truth = jnp.zeros((1, 32, 32), bool).at[0, 3:6, 3:6].set(True)
      >>> pointing_game(maps, truth, protocol="blob_centroid").tolist()
      [1.0]
    """
    return points_at(point_of(maps, protocol=protocol), truth, protocol=protocol)


@partial(jax.jit, static_argnums=(1, 2), static_argnames="share")
def is_small(
    boxes: Float[Array, "n 4"], height: int, width: int, *, share: float = SMALL
) -> Bool[Array, "n"]:
    """Return the box covers less than `share` of the image; False where the box has a NaN.

    The pointing game on small objects is its mean over these images.

    References:
      GLAS, 2020, Table 2, "PT-small": the total area of the class's boxes, here the one
      box of an image, is below a quarter of the image (after Cao et al., Look and Think Twice,
      ICCV 2015). The "difficult" set of Zhang et al., ECCV 2016, asks besides for an object of
      another class in the image, which data with one label per image do not have.
    """
    return _box_area(boxes) < share * height * width


@partial(jax.jit, static_argnames="protocol")
def point_of(maps: Float[Array, "n h w"], *, protocol: str) -> Float[Array, "n 2"]:
    """Return the one place that a map points at: x, y in pixels.

    - "argmax", "argmax_15px": the centre of the highest pixel; of several equally high ones
      their mean place (which makes a 0/1 box point at its middle, and favours no corner).
    - "blob_centroid": the centroid of the largest 8-connected blob of pixels strictly above
      0.95 of the maximum; of equal blobs the one that starts first, row by row.

    NaN for a map that is constant but for rounding (`fgjax.core.floor`), and for one with a NaN or
    an infinity.
    """
    if protocol not in POINTING_PROTOCOLS:
        raise ValueError(
            f"pointing game: protocol={protocol!r} is unknown; "
            f"choose one of {', '.join(POINTING_PROTOCOLS)}"
        )
    top = jnp.max(maps, axis=(1, 2), keepdims=True)
    chosen = largest_blob(maps > 0.95 * top) if protocol == "blob_centroid" else maps == top
    y, x = _pixel_centres(*maps.shape[1:])
    place = [jnp.sum(jnp.where(chosen, v, 0.0), axis=(1, 2)) / _count(chosen) for v in (x, y)]
    varies = ~is_flat(maps)[:, None, None]
    defined = jnp.all(jnp.isfinite(maps) & varies, axis=(1, 2))
    return jnp.where(defined[:, None], jnp.stack(place, axis=1), jnp.nan)


@partial(jax.jit, static_argnames="protocol")
def points_at(
    points: Float[Array, "n 2"], truth: Bool[Array, "n h w"], *, protocol: str
) -> Float[Array, "n"]:
    """`pointing_game` for points already found; a NaN point is a miss."""
    x, y = (jnp.floor(points[:, i, None, None]) + 0.5 for i in range(2))
    rows, columns = _pixel_centres(*truth.shape[1:])
    margin = 15.0 if protocol == "argmax_15px" else 0.0
    near = (columns - x) ** 2 + (rows - y) ** 2 <= margin**2  # never, for NaN
    return _if_annotated(jnp.any(truth & near, axis=(1, 2)).astype(jnp.float32), truth)


def _count(maps: Bool[Array, "n h w"]) -> Float[Array, "n"]:
    return jnp.sum(maps, axis=(1, 2), dtype=jnp.float32)


def _if_annotated(values: Float[Array, "n"], truth: Bool[Array, "n h w"]) -> Float[Array, "n"]:
    return jnp.where(jnp.any(truth, axis=(1, 2)), values, jnp.nan)


def _pixel_centres(height: int, width: int) -> tuple[Float[Array, "1 h 1"], Float[Array, "1 1 w"]]:
    y = jnp.arange(height, dtype=jnp.float32) + 0.5
    x = jnp.arange(width, dtype=jnp.float32) + 0.5
    return y[None, :, None], x[None, None, :]


def _extent(line: Bool[Array, "n s"]) -> tuple[Int[Array, "n"], Int[Array, "n"]]:
    """Return first True and one past the last True."""
    return jnp.argmax(line, axis=1), line.shape[1] - jnp.argmax(line[:, ::-1], axis=1)


def _box_area(boxes: Float[Array, "n 4"]) -> Float[Array, "n"]:
    return jnp.prod(jnp.maximum(boxes[:, 2:] - boxes[:, :2], 0.0), axis=1)


def largest_blob(maps: Bool[Array, "n h w"]) -> Bool[Array, "n h w"]:
    """Return the largest 8-connected blob; of equal ones the one that starts first, row by row."""
    labels, sizes = _blobs(maps)
    return labels == jnp.argmax(sizes[:, :-1], axis=1)[:, None, None]


def without_specks(
    maps: Bool[Array, "n h w"], pixels: float | Float[Array, ""]
) -> Bool[Array, "n h w"]:
    """Return the mask without its 8-connected blobs of fewer than so many pixels."""
    labels, sizes = _blobs(maps)
    own = jnp.take_along_axis(sizes, labels.reshape(len(maps), -1), axis=1)
    return maps & (own.reshape(maps.shape).astype(jnp.float32) >= pixels)


def _blobs(maps: Bool[Array, "n h w"]) -> tuple[Int[Array, "n h w"], Int[Array, "n blobs"]]:
    """Return the blob of each pixel, named by its first pixel's index, and the size of each name.

    What is in no blob has the last name.
    """
    n, height, width = maps.shape
    background = height * width  # one past the last pixel index
    index = jnp.arange(background, dtype=jnp.int32).reshape(1, height, width)

    # Every pixel carries the smallest pixel index known in its blob, and hands it on to its
    # neighbours; following the index to what *that* pixel knows makes it go in leaps.
    def spread(state):
        labels, _ = state
        nearest = jax.lax.reduce_window(
            labels, jnp.int32(background), jax.lax.min, (1, 3, 3), (1, 1, 1), "SAME"
        )
        flat = jnp.where(maps, nearest, background).reshape(n, -1)
        known = jnp.pad(flat, ((0, 0), (0, 1)), constant_values=background)
        leapt = jnp.take_along_axis(known, flat, axis=1).reshape(labels.shape)
        return leapt, jnp.any(leapt != labels)

    start = jnp.where(maps, index, background)
    labels, _ = jax.lax.while_loop(lambda state: state[1], spread, (start, jnp.array(True)))
    return labels, jax.vmap(lambda one: jnp.bincount(one.ravel(), length=background + 1))(labels)
