"""Parts of an image worth a second look: finding their boxes, and cutting them out.

A box is x0, y0, x1, y1 in pixels of the image (x to the right, y down; x1 and y1 exclusive).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fgjax.core.features import grid_of, with_grid
from fgjax.devices.jit import program

SMALLEST = 8.0
"""Pixels: no patch is cut out of less than this, both ways (or of the image, if that is less)."""


class Patches(NamedTuple):
    """An image's patches, the best first.

    Attributes:
      boxes: in pixels of the image.
      scores: of each; of one extractor a higher one is better.
    """

    boxes: Float[Array, "n p 4"]
    scores: Float[Array, "n p"]


def inside(boxes: Float[Array, "n p 4"], height: int, width: int) -> Float[Array, "n p 4"]:
    """Return the boxes clipped to the image; what is left is at least `SMALLEST` pixels both
    ways."""
    most = jnp.asarray([width, height], boxes.dtype)[None, None]
    least = jnp.minimum(most, SMALLEST)
    low = jnp.clip(boxes[..., :2], 0, most - least)
    high = jnp.clip(boxes[..., 2:], low + least, most)
    return jnp.concatenate([low, high], axis=-1)


def crop_patches(
    images: Float[Array, "n h w c"], boxes: Float[Array, "n p 4"], size: int
) -> Float[Array, "n p size size c"]:
    """Compute Eq. 3.1: the boxes cut out and resized to `size` x `size` (antialiased, bilinear)."""
    boxes = inside(boxes, *images.shape[1:3])

    def cut(image, box):
        corner, sides = box[:2][::-1], (box[2:] - box[:2])[::-1]
        scale = size / sides
        shape = (size, size, image.shape[-1])
        return jax.image.scale_and_translate(image, shape, (0, 1), scale, -corner * scale, "linear")

    return jax.vmap(jax.vmap(cut, (None, 0)))(images, boxes)


def peak_boxes(
    cam: Float[Array, "n H W"], count: int, side: float, height: int, width: int
) -> Patches:
    """Return squares around the highest cells of a coarse map, one after the other.

    A cell inside an earlier square's inner half is not chosen while there are others. The
    squares are moved to lie within the image.

    Args:
      cam: the map; only its order matters for the boxes.
      count: squares an image.
      side: of a square, as a share of the image's (so a box has the image's aspect).
      height, width: of the image, in pixels.

    Returns:
      boxes, and the map's value at each peak divided by the map's maximum (0 where that is
      not above 0).
    """
    n, rows, columns = cam.shape
    y, x = np.mgrid[:rows, :columns]
    centres = np.stack([(x.ravel() + 0.5) / columns, (y.ravel() + 0.5) / rows], axis=1)
    places = jnp.asarray(centres, jnp.float32)
    flat = cam.astype(jnp.float32).reshape(n, -1)
    penalty = flat.max(1, keepdims=True) - flat.min(1, keepdims=True) + 1

    def take(left, _):
        best = left.argmax(1)
        centre = places[best]
        near = jnp.abs(places[None] - centre[:, None]).max(-1) < side / 2
        chosen = jnp.arange(left.shape[1])[None] == best[:, None]
        # A chosen cell counts as taken `count` times: it comes again only when none is left.
        left = left - penalty * jnp.where(chosen, 1.0 + count, near.astype(jnp.float32))
        return left, (centre, jnp.take_along_axis(flat, best[:, None], axis=1)[:, 0])

    _, (centres, values) = jax.lax.scan(take, flat, length=count)
    centres, values = centres.transpose(1, 0, 2), values.T
    centres = jnp.clip(centres, side / 2, 1 - side / 2)
    scale = jnp.asarray([width, height], jnp.float32)[None, None]
    boxes = jnp.concatenate([centres - side / 2, centres + side / 2], axis=-1)
    top = flat.max(1, keepdims=True)
    scores = jnp.where(top > 0, values / jnp.where(top > 0, top, 1), 0)
    return Patches(boxes * jnp.concatenate([scale, scale], axis=-1), scores)


def percentile_boxes(
    maps: Float[Array, "n m H W"], percentile: float, height: int, width: int
) -> Float[Array, "n m 4"]:
    """Return the smallest box around all pixels at or above each map's percentile.

    The maps are first enlarged to the image (bilinearly, pixel centres at +0.5).

    Reference: Chen et al., This Looks Like That, 2019, section 2.4 and its released code.
    """
    large = jax.image.resize(maps, (*maps.shape[:2], height, width), "linear", antialias=False)
    flat = large.reshape(*large.shape[:2], -1)
    level = jnp.percentile(flat, percentile, axis=-1)[..., None, None]
    high = large >= level

    def span(line):
        return line.argmax(-1), line.shape[-1] - line[..., ::-1].argmax(-1)

    (x0, x1), (y0, y1) = span(high.any(2)), span(high.any(3))
    return jnp.stack([x0, y0, x1, y1], axis=-1).astype(jnp.float32)


@program("explain", static_argnames=("count", "side"))
def _by_cam(model, images, count, side):
    features = model.features(images)

    def highest(grid):
        return model.head(with_grid(features, grid)).astype(jnp.float32).max(1).sum()

    grid = grid_of(features)
    weights = jax.grad(highest)(grid).astype(jnp.float32).mean((1, 2))
    cam = jnp.einsum("nhwk,nk->nhw", grid.astype(jnp.float32), weights)
    return peak_boxes(cam, count, side, *images.shape[1:3])


@program("explain", static_argnames=("count", "percentile"))
def _by_prototypes(model, images, count, percentile):
    activations = model.activations(images)
    best = activations.max((1, 2))
    scores, which = jax.lax.top_k(best, count)
    maps = jnp.take_along_axis(activations, which[:, None, None], axis=3)
    maps = maps.transpose(0, 3, 1, 2)
    return Patches(percentile_boxes(maps, percentile, *images.shape[1:3]), scores)


def extract_patches(
    model: Any,
    images: Float[Array | np.ndarray, "n h w 3"],
    n: int,
    *,
    side: float = 0.5,
    percentile: float = 95.0,
) -> Patches:
    """Return the n parts of each image that the model's decision rests on most; labels are not
    needed.

    Of a model with prototypes (`activations(images) -> n H W m`): the 95th-percentile boxes of
    the n prototypes that are most active in the image. Of any other with `features` and `head`:
    squares around the peaks of Grad-CAM of the predicted class, which costs one forward pass of
    an ordinary classifier.

    Args:
      model: see above.
      images: RGB in [0, 1].
      n: patches an image.
      side: of the squares, as a share of the image's side.
      percentile: of the prototypes' activation maps.

    Raises:
      ValueError: n is below 1 or above the number of prototypes; the model has neither.

    References:
      Shroff, Search for Finer Attention Details, 2020, section 3.1.2.
      Chen et al., This Looks Like That, 2019 (ProtoPNet).
    """
    if n < 1:
        raise ValueError(f"n={n}: at least one patch an image")
    images = jnp.asarray(images, jnp.float32)
    if callable(getattr(model, "activations", None)):
        prototypes = jax.eval_shape(model.activations, images).shape[-1]
        if n > prototypes:
            raise ValueError(f"n={n}: the model has only {prototypes} prototypes")
        return _by_prototypes(model, images, n, percentile)
    missing = [name for name in ("features", "head") if not callable(getattr(model, name, None))]
    if missing:
        raise ValueError(
            f"patches are found by prototypes or by the last feature map; {type(model).__name__} "
            f"has no activations(images) and no {' and no '.join(missing)}. fgjax's classifiers do"
        )
    return _by_cam(model, images, n, side)
