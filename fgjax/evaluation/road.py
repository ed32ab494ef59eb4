"""ROAD: remove and debias. Pixels are taken out so that their shape tells the model nothing.

Where insertion and deletion put a fixed baseline, a missing pixel here becomes the weighted
mean of its neighbours, missing or not, plus a little noise: a system of linear equations,
solved on the device for all images of a batch at once.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from fgjax.core.keys import image_keys
from fgjax.evaluation.faithfulness import target_probability
from fgjax.evaluation.order import TIES, pixel_ranks

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
NOISE = 0.01
RESIDUAL = 1e-7
"""The solver stops where the root mean square error of the equations is below this."""


class Road(NamedTuple):
    """Mean class probabilities over the shares removed, one per image.

    Attributes:
      most_first: the most important pixels removed; lower is better.
      least_first: the least important pixels removed; higher is better.
      gap: least_first − most_first, in [−1, 1]; higher is better, a random map has 0.
    """

    most_first: Float[Array, "n"]
    least_first: Float[Array, "n"]
    gap: Float[Array, "n"]


def road(
    model: Callable,
    images: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    maps: Float[Array, "n h w"],
    *,
    key: Key[Array, "..."],
    shares: tuple[float, ...] = SHARES,
    noise: float = NOISE,
) -> Road:
    """Return the class probability when the most, and the least, important pixels are imputed.

    For every share s the first (last) ⌊s·h·w⌋ pixels in the order of importance, ties in random
    order, are replaced by `impute`; the values are means over `shares`, of 2·len(shares)
    forward passes. The models of the paper are judged by accuracy over a data set, which has
    no value per image; the probability is what that becomes for one.

    The time of the imputation grows with the third power of the image's side (the equations,
    and the steps that solve them): meant for images up to about 112 px; at 224 px it may take
    longer than the forward passes.

    Args:
      key: one key, or one per image; with one, image i uses `fold_in(key, i)`.
      noise: standard deviation of the Gaussian noise on imputed pixels, images in [0, 1].

    Returns:
      NaN for a map with a NaN and a target that the model does not have.

    Raises:
      ValueError: a share outside (0, 1), or none.

    References:
      Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods,
      ICML 2022 ("MoRF" and "LeRF" with noisy linear imputation).
    """
    if not shares or not all(0 < share < 1 for share in shares):
        raise ValueError(f"shares={shares}: shares of the pixels, above 0 and below 1")
    keys = image_keys(key, len(images))
    ranks = pixel_ranks(maps, keys)
    pixels = ranks.shape[1] * ranks.shape[2]
    most, least = jnp.zeros((2, len(images)), jnp.float32)
    for share in shares:
        # A rounding error of the product must not cost a pixel.
        count = int(share * pixels + 1e-6)
        for first in (True, False):
            missing = _missing(ranks, count, first)
            p = target_probability(model(impute(images, missing, keys, noise)), targets)
            most, least = (most + p, least) if first else (most, least + p)
    broken = jnp.any(jnp.isnan(maps), axis=(1, 2))
    most, least = (jnp.where(broken, jnp.nan, total / len(shares)) for total in (most, least))
    return Road(most, least, least - most)


def road_protocol(*, shares: tuple[float, ...] = SHARES, noise: float = NOISE) -> str:
    """Return what the numbers of `road` were measured with, to print beside them."""
    return (
        f"mean class probability with {', '.join(f'{100 * share:g}' for share in shares)} % of the "
        f"pixels imputed linearly from their 8 neighbours, noise {noise:g}, {TIES}"
    )


@jax.jit
def impute(
    images: Float[Array, "n h w c"],
    missing: Bool[Array, "n h w"],
    keys: Key[Array, "n"],
    noise: float | Float[Array, ""] = NOISE,
) -> Float[Array, "n h w c"]:
    """Return noisy linear imputation: missing pixels from their neighbours, cut to [0, 1].

      x_i = Σ_j w_ij x_j / Σ_j w_ij + noise·ε_i   for every missing pixel i

    over its neighbours j inside the image, w = 1/6 beside, above and below, 1/12 across a
    corner; the means are solved for first, ε_i ~ N(0, 1) per channel is added last. Other
    pixels stay. With nothing known there is nothing to impute from: 0.5 and noise.
    """
    filled = linear_imputation(images, missing)
    eps = jax.vmap(lambda k: jax.random.normal(k, images.shape[1:], images.dtype))(keys)
    return jnp.where(missing[..., None], jnp.clip(filled + noise * eps, 0, 1), images)


@jax.jit
def linear_imputation(
    images: Float[Array, "n h w c"], missing: Bool[Array, "n h w"]
) -> Float[Array, "n h w c"]:
    """`impute` without noise and cut, by conjugate gradients from the mean of the known pixels.

    With M the missing and K the known pixels the equations are (D − W)_MM x_M = W_MK x_K,
    D = diag(Σ_j w_ij): symmetric, and positive definite where anything is known.
    """
    lost = missing[..., None].astype(images.dtype)
    known = 1 - lost
    weight = _neighbours(jnp.ones((1, *images.shape[1:3], 1), images.dtype))

    def apply(x):  # (D − W)_MM x for an x that is 0 at known pixels
        return lost * (weight * x - _neighbours(x))

    def dot(a, b):  # one system per image and channel
        return jnp.sum(a * b, axis=(1, 2), keepdims=True)

    def ratio(a, b):  # 0 for a system already solved
        return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)

    count = jnp.sum(known, axis=(1, 2), keepdims=True)
    mean = jnp.where(count > 0, dot(known, images) / jnp.maximum(count, 1), 0.5)
    x = lost * mean
    r = lost * _neighbours(known * images) - apply(x)
    enough = RESIDUAL**2 * images.shape[1] * images.shape[2]

    def unsolved(state):
        _, _, _, error, step = state
        return jnp.any(error > enough) & (step < 20 * sum(images.shape[1:3]))

    def improve(state):
        x, r, p, error, step = state
        along = apply(p)
        size = jnp.where(error > enough, ratio(error, dot(p, along)), 0)
        x, r = x + size * p, r - size * along
        after = dot(r, r)
        return x, r, r + ratio(after, error) * p, after, step + 1

    x, *_ = jax.lax.while_loop(unsolved, improve, (x, r, r, dot(r, r), 0))
    return jnp.where(missing[..., None], x, images)


@jax.jit
def _missing(ranks, count, first):
    return jnp.where(first, ranks < count, ranks >= ranks.shape[1] * ranks.shape[2] - count)


def _neighbours(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """Σ_j w_ij x_j, nothing beyond the border: (1 2 1)ᵀ(1 2 1) less its middle, over 12."""
    total = x
    for axis in (1, 2):
        edge = [(1, 1) if a == axis else (0, 0) for a in range(4)]
        wide = jnp.pad(total, edge)
        size = x.shape[axis]
        before, after = (jax.lax.slice_in_dim(wide, i, i + size, axis=axis) for i in (0, 2))
        total = before + 2 * total + after
    return (total - 4 * x) / 12
