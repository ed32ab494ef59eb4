"""Augmentations that take something of an image away; its label stays.

All are batched, pure functions of a key; images are in [0, 1]. What stands in the place of what
is taken is `fill`: a colour, such as the mean that images are normalised with (the papers erase
after normalising, with 0).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

Images = Float[Array, "n h w c"]
Colour = tuple[float, ...]

BLACK: Colour = (0.0, 0.0, 0.0)


def _fill(images: Images, gone: Bool[Array, "n h w"], fill: Colour) -> Images:
    colour = jnp.asarray(fill, images.dtype)[None, None, None]
    return jnp.where(gone[..., None], colour, images)


def rectangles(
    top: Float[Array, "n"],
    left: Float[Array, "n"],
    height: Float[Array, "n"],
    width: Float[Array, "n"],
    shape: tuple[int, int],
) -> Bool[Array, "n h w"]:
    """Return which pixels' centres lie inside each rectangle, in pixels; parts outside are cut
    off."""
    y = jnp.arange(shape[0], dtype=jnp.float32)[None] + 0.5
    x = jnp.arange(shape[1], dtype=jnp.float32)[None] + 0.5
    rows = (y >= top[:, None]) & (y < (top + height)[:, None])
    columns = (x >= left[:, None]) & (x < (left + width)[:, None])
    return rows[:, :, None] & columns[:, None, :]


def cutout(key: Key[Array, ""], images: Images, side: float = 0.5, fill: Colour = BLACK) -> Images:
    """Return a square is taken out of each image; its centre is any pixel, so part of it may be
    outside.

    Args:
      side: of the square, as a share of the image's shorter side (CIFAR-10: 0.5).

    Reference: DeVries, Taylor, Improved Regularization with Cutout, 2017.
    """
    n, height, width, _ = images.shape
    keys = jax.random.split(key)
    length = jnp.full((n,), float(round(side * min(height, width))))
    corner = jnp.floor(length / 2)
    top = jax.random.randint(keys[0], (n,), 0, height).astype(jnp.float32) - corner
    left = jax.random.randint(keys[1], (n,), 0, width).astype(jnp.float32) - corner
    return _fill(images, rectangles(top, left, length, length, (height, width)), fill)


def random_erasing(
    key: Key[Array, ""],
    images: Images,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: float = 0.3,
) -> Images:
    """In some of the images a rectangle, wholly inside, becomes noise uniform in [0, 1].

    Args:
      probability: of an image to be changed.
      area: the rectangle's share of the image, uniform between these.
      aspect: its height by its width lies in [`aspect`, 1 / `aspect`], log-uniform. The paper
        draws it again until the rectangle fits; here a side that does not fit is cut to the
        image's.

    Reference: Zhong et al., Random Erasing Data Augmentation, 2020.
    """
    n, height, width, _ = images.shape
    keys = jax.random.split(key, 5)
    size = jax.random.uniform(keys[0], (n,), minval=area[0], maxval=area[1]) * height * width
    log = jnp.log(aspect)
    ratio = jnp.exp(jax.random.uniform(keys[1], (n,), minval=log, maxval=-log))
    tall = jnp.minimum(jnp.round(jnp.sqrt(size * ratio)), height)
    wide = jnp.minimum(jnp.round(jnp.sqrt(size / ratio)), width)
    place = jax.random.uniform(keys[2], (2, n))
    top = jnp.floor(place[0] * (height - tall + 1))
    left = jnp.floor(place[1] * (width - wide + 1))
    gone = rectangles(top, left, tall, wide, (height, width))
    gone &= jax.random.bernoulli(keys[3], probability, (n,))[:, None, None]
    noise = jax.random.uniform(keys[4], images.shape, images.dtype)
    return jnp.where(gone[..., None], noise, images)


def hide_and_seek(
    key: Key[Array, ""],
    images: Images,
    grid: int = 4,
    probability: float = 0.5,
    fill: Colour = BLACK,
) -> Images:
    """Return each cell of a `grid` x `grid` is hidden with this probability, whatever the others
    are.

    The paper fills with the mean pixel of the training set.

    Reference: Singh et al., Hide-and-Seek, 2018.
    """
    n, height, width, _ = images.shape
    hidden = jax.random.bernoulli(key, probability, (n, grid, grid))
    rows, columns = jnp.arange(height) * grid // height, jnp.arange(width) * grid // width
    return _fill(images, hidden[:, rows][:, :, columns], fill)


def grid_mask(
    key: Key[Array, ""],
    images: Images,
    units: tuple[float, float] = (96 / 224, 224 / 224),
    ratio: float = 0.6,
    fill: Colour = BLACK,
) -> Images:
    """Return a grid of squares is taken out: one in each d x d unit, of side (1 - `ratio`) d.

    Args:
      units: d as a share of the shorter side, uniform between these (the paper's 96 to 224 px of
        224); where the grid begins is uniform, too.
      ratio: r; what is kept is 1 - (1 - r)² of the image. The paper also turns the grid; this
        one stays upright.

    Reference: Chen et al., GridMask Data Augmentation, 2020.
    """
    n, height, width, _ = images.shape
    keys = jax.random.split(key)
    side = min(height, width)
    unit = jax.random.uniform(keys[0], (n,), minval=units[0], maxval=units[1]) * side
    begin = jax.random.uniform(keys[1], (2, n)) * unit[None]

    def holes(length, start):
        pixels = jnp.arange(length, dtype=jnp.float32)[None] + 0.5
        return jnp.mod(pixels + start[:, None], unit[:, None]) < ((1 - ratio) * unit)[:, None]

    gone = holes(height, begin[0])[:, :, None] & holes(width, begin[1])[:, None, :]
    return _fill(images, gone, fill)


ERASING: dict[str, Callable[..., Images]] = {
    "cutout": cutout,
    "random_erasing": random_erasing,
    "hide_and_seek": hide_and_seek,
    "grid_mask": grid_mask,
}
"""Name -> function, with the settings of its paper."""


@dataclass(frozen=True)
class Erasing:
    """One of `ERASING`; "none" changes nothing.

    Attributes:
      name: of the method.
      side: of cutout's square.
      fill: colour of what is taken away; random erasing leaves noise.
    """

    name: str = "none"
    side: float = 0.5
    fill: Colour = BLACK

    def __call__(self, key: Key[Array, ""], images: Images) -> Images:
        """Return the changed images; a function of the key."""
        if self.name == "none":
            return images
        method = ERASING[self.name]
        if self.name == "cutout":
            method = partial(method, side=self.side)
        if self.name != "random_erasing":
            method = partial(method, fill=self.fill)
        return method(key, images)
