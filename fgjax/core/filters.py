"""Blur and total variation: what attribution and evaluation both do to images and maps."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

REFERENCE_SIDE = 224
"""Lengths given in pixels mean pixels of an image this high and wide, and scale with it."""


def gaussian_matrix(size: int, sigma: float) -> Float[np.ndarray, "size size"]:
    """Return the matrix that blurs a line of pixels, reflecting (without the edge) at both ends.

    Truncated at 3.2 σ: kernel 75 for σ = 11.6, as in the released code. Rows sum to 1.
    """
    radius = max(1, round(3.2 * sigma))
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    # Folding the index at both ends is reflection, however far the kernel reaches.
    period = max(1, 2 * (size - 1))
    place = np.abs((np.arange(size)[:, None] + offsets + period // 2) % period - period // 2)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], place), kernel)
    return matrix.astype(np.float32)


def smoothing_matrix(size: int, sigma: float | Float[Array, ""]) -> Float[Array, "size size"]:
    """Return `gaussian_matrix` for a σ that is known only when the program runs; not truncated."""
    period = max(1, 2 * (size - 1))
    here = np.arange(size)
    # Every place stands at i and at -i, a period apart; at both ends the two are one.
    images = [sign * here + period * turn for turn in (-1, 0, 1) for sign in (1, -1)]
    share = np.where((here == 0) | (here == size - 1), 0.5, 1.0).astype(np.float32)
    matrix = jnp.zeros((size, size), jnp.float32)
    for image in images:
        distance = jnp.asarray(here[:, None] - image, jnp.float32)
        matrix = matrix + jnp.exp(-0.5 * jnp.square(distance / sigma)) * share[None]
    return matrix / matrix.sum(1, keepdims=True)


def smooth(maps: Float[Array, "*n h w"], sigma: float | Float[Array, ""]) -> Float[Array, "*n h w"]:
    """Return maps blurred by a σ known only when the program runs, in pixels of a 224 px image."""
    height, width = maps.shape[-2:]
    sigma = sigma * (min(height, width) / REFERENCE_SIDE)
    rows, columns = smoothing_matrix(height, sigma), smoothing_matrix(width, sigma)
    return jnp.einsum("yi,xj,...ij->...yx", rows, columns, maps, precision="highest")


@jax.jit
def _blur(images, rows, columns):
    return jnp.einsum("yi,xj,nijc->nyxc", rows, columns, images, precision="highest")


def gaussian_blur(images: Float[Array, "n h w c"], sigma: float) -> Float[Array, "n h w c"]:
    """Gaussian blur, the border mirrored; `sigma` in pixels of a 224 px image, scaled with the
    shorter side."""
    height, width = images.shape[1:3]
    sigma = sigma * min(height, width) / REFERENCE_SIDE
    return _blur(images, gaussian_matrix(height, sigma), gaussian_matrix(width, sigma))


def total_variation(
    maps: Float[Array, "*n h w"], norm: Literal["squared", "absolute"] = "squared"
) -> Float[Array, "*n"]:
    """Total variation of a map (Korsch et al. 2023, Eq. 10); lower is more coherent.

      TV(z) = Σ_ij (z_ij − z_i,j+1)² + Σ_ij (z_ij − z_i+1,j)²

    A sum over pixels. For a sharp mask it grows with the length of its outline in pixels, so
    compare it at equal resolution only; for a smooth one it does not depend on it. NaN for a
    map with a NaN. "absolute" takes |·| for (·)², as released code does.

    Example:
      >>> total_variation(jnp.array([[[0.0, 1.0], [0.0, 1.0]]]))
      Array([2.], dtype=float32)
    """
    size = jnp.abs if norm == "absolute" else jnp.square
    down, across = jnp.diff(maps, axis=-2), jnp.diff(maps, axis=-1)
    return size(down).sum((-2, -1)) + size(across).sum((-2, -1))
