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
    """
    size = jnp.abs if norm == "absolute" else jnp.square
    down, across = jnp.diff(maps, axis=-2), jnp.diff(maps, axis=-1)
    return size(down).sum((-2, -1)) + size(across).sum((-2, -1))
