"""Maps that know nothing of the model. No number means much without theirs beside it.

All are heat maps, float32 `n h w` in [0, 1]; the boxes are 0 or 1. A baseline for a mask
must have the mask's area, else an IoU compares sizes and not places: hence `…_of_area`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from fgjax.evaluation.order import pixel_ranks


def zero(n: int, height: int, width: int) -> Float[Array, "n h w"]:
    """0 everywhere: the map of a method that abstains."""
    return jnp.zeros((n, height, width), jnp.float32)


def center_bell(n: int, height: int, width: int) -> Float[Array, "n h w"]:
    """Return a Gaussian in the middle, its σ a quarter of the shorter side: where photographers
    put things."""
    y, x = (jnp.arange(side, dtype=jnp.float32) + 0.5 - side / 2 for side in (height, width))
    bell = jnp.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * (min(height, width) / 4) ** 2))
    return jnp.broadcast_to(bell, (n, height, width))


def constant(n: int, height: int, width: int) -> Float[Array, "n h w"]:
    """1 everywhere: the whole image. Its share inside a truth is that truth's area."""
    return jnp.ones((n, height, width), jnp.float32)


def center_box(n: int, height: int, width: int, *, area: float = 0.5) -> Float[Array, "n h w"]:
    """Return a box in the middle with the image's aspect and `area` of its pixels (half of
    them)."""
    return center_box_of_area(jnp.full(n, area, jnp.float32), height, width)


@partial(jax.jit, static_argnums=(1, 2))
def center_box_of_area(areas: Float[Array, "n"], height: int, width: int) -> Float[Array, "n h w"]:
    """Return a box in the middle with the image's aspect and the given share of its pixels.

    The number of pixels is exact (`areas`·h·w, rounded), so the outermost ring may be
    incomplete, of pixels drawn at random. A NaN area gives a NaN map.
    """
    middle = jnp.full(areas.shape, 0.5, jnp.float32)
    return _box(middle, middle, areas, height, width)


@partial(jax.jit, static_argnums=(2, 3))
def random_box_of_area(
    key: PRNGKeyArray, areas: Float[Array, "n"], height: int, width: int
) -> Float[Array, "n h w"]:
    """As `center_box_of_area`, at a place drawn evenly from those where it fits the image."""
    side = jnp.sqrt(areas)
    place = jax.random.uniform(key, (2, areas.shape[0]), jnp.float32)
    y, x = side[None] / 2 + place * (1.0 - side[None])
    return _box(y, x, areas, height, width)


@partial(jax.jit, static_argnums=(1, 2, 3), static_argnames="cells")
def random_maps(
    key: PRNGKeyArray, n: int, height: int, width: int, *, cells: int = 7
) -> Float[Array, "n h w"]:
    """Return smooth random maps: even noise on `cells`×`cells`, bilinear, scaled to [0, 1]."""
    noise = jax.random.uniform(key, (n, cells, cells), jnp.float32)
    maps = jax.image.resize(noise, (n, height, width), "bilinear")
    low = jnp.min(maps, axis=(1, 2), keepdims=True)
    return (maps - low) / (jnp.max(maps, axis=(1, 2), keepdims=True) - low)


def whole_object(masks: Bool[Array, "n h w"]) -> Float[Array, "n h w"]:
    """Return the annotated object: the map of a method that finds it perfectly, and no part of it.

    An empty mask (not annotated) gives a NaN map.
    """
    annotated = jnp.any(masks, axis=(1, 2), keepdims=True)
    return jnp.where(annotated, masks.astype(jnp.float32), jnp.nan)


@jax.jit
def top_share(maps: Float[Array, "n h w"], areas: Float[Array, "n"]) -> Float[Array, "n h w"]:
    """1 on the highest pixels of a map, `areas`·h·w of them (rounded), else 0.

    Ties go in a random order (`pixel_ranks`). Cuts any map, a random one say, to the area of
    another. A NaN area, or a NaN in the map, gives a NaN map.
    """
    count = jnp.round(areas * (maps.shape[1] * maps.shape[2]))[:, None, None]
    undefined = jnp.isnan(count) | jnp.any(jnp.isnan(maps), axis=(1, 2), keepdims=True)
    top = pixel_ranks(maps).astype(jnp.float32) < count
    return jnp.where(undefined, jnp.nan, top.astype(jnp.float32))


def _box(y, x, areas, height, width):
    """Return the pixels nearest to (y, x), in shares of the image, by the greater of both
    distances."""
    rows = (jnp.arange(height, dtype=jnp.float32) + 0.5) / height
    columns = (jnp.arange(width, dtype=jnp.float32) + 0.5) / width
    distance = jnp.maximum(
        jnp.abs(rows[None, :, None] - y[:, None, None]),
        jnp.abs(columns[None, None, :] - x[:, None, None]),
    )
    return top_share(-distance, areas)
