"""The gradient of a convolution by its 3x3 kernel in fewer products: Winograd's minimal filtering.

Along a line the three weights' gradients are correlations, y_i = Σ_j x_{i+j} g_j for i = 0, 1, 2.
Of m gradients g and the m + 2 pixels x that they have seen they take 3 m products; in the other
form, which is exact,

  y = A [(G g) ∘ (B x)],

only t = m + 2: B, G and A evaluate polynomials at t points and put the product together again
(Toom and Cook). Of a square of m x m gradients, both ways, t² products replace 9 m²: with m = 2, 3
and 4 a product for each 2.25, 3.24 and 4. As in a convolution's own Winograd form the products of
all squares and images are t² products of matrices, here

  M_kl = Σ_n,squares V_klᵀ U_kl,  V = B x Bᵀ, U = G g Gᵀ,  dk = A M Aᵀ,

summed before A is applied. Rounding grows with m: against double precision the error is 3e-7 of the
gradient's norm for the nine products, 7e-7, 2e-6, 4e-6 with m = 2, 3, 4.

Reference: Lavin & Gray, Fast algorithms for convolutional neural networks, CVPR 2016, section 4,
where F(3x3, 2x2) is for this gradient.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fgjax.models.networks.convolution import Edges

SIDE = 3
"""Side of the kernels whose gradients are computed so."""
TILES = (2, 3, 4)
"""Sides of the squares of gradients: with larger ones rounding is no longer small."""
COPIED = 100
"""What it costs to put a product of matrices together again, in rows of these matrices: measured
on layers of ResNet-18 of 64 to 512 channels, 8 images of 224² and 32 of 96²."""


def best_tile(images: int, height: int, width: int) -> int | None:
    """Return the side of the squares that computes fastest the gradient by a 3x3 kernel that moved
    by single pixels; None: nine products do.

    Args:
      height, width: of what the convolution gives.
    """
    costs: dict[int | None, int] = {None: SIDE**2 * (images * height * width + COPIED)}
    for tile in TILES:
        squares = images * -(-height // tile) * -(-width // tile)
        costs[tile] = (tile + 2) ** 2 * (squares + COPIED)
    return min(costs, key=costs.__getitem__)


def matrices(
    tile: int,
) -> tuple[Float[np.ndarray, "t t"], Float[np.ndarray, "t m"], Float[np.ndarray, "3 t"]]:
    """Return B, G and A for `tile` gradients along a line; the points are 0, 1, -1, 2, … and ∞."""
    points = [0, 1, -1, 2, -2][: tile + 1]
    powers = lambda count: np.array([[float(p) ** i for i in range(count)] for p in points])
    last = lambda count: np.eye(count)[-1:]
    others = [[q for q in points if q != p] for p in points]
    lines = [np.append(np.poly(roots)[::-1], 0) for roots in others]
    pixels = np.stack([*lines, np.poly(points)[::-1]])
    weights = np.array([np.prod([p - q for q in roots]) for p, roots in zip(points, others)])
    grads = np.concatenate([powers(tile) / weights[:, None], last(tile)])
    return pixels, grads, np.concatenate([powers(SIDE), last(SIDE)]).T


def kernel_gradient(
    x: Float[Array, "n h w c"], grad: Float[Array, "n H W d"], edges: Edges, tile: int
) -> Float[Array, "3 3 c d"]:
    """Return the gradient by a 3x3 kernel moved by single pixels, `grad` being that by what it
    gives."""
    pixels, grads, out = matrices(tile)
    counts = [-(-side // tile) for side in grad.shape[1:3]]
    around, behind = [(0, 0)], [(0, 0)]
    for (before, _), count, seen, side in zip(
        edges, counts, x.shape[1:3], grad.shape[1:3], strict=True
    ):
        around.append((before, count * tile + SIDE - 1 - before - seen))
        behind.append((0, count * tile - side))
    x, grad = jnp.pad(x, [*around, (0, 0)]), jnp.pad(grad, [*behind, (0, 0)])
    products = [
        jnp.einsum("ksc,ksd->kcd", v, u)
        for v, u in zip(_evaluated(x, pixels, counts, tile), _evaluated(grad, grads, counts, tile))
    ]
    rows = [jax.lax.optimization_barrier(_combined(line, products)) for line in out]
    return jnp.stack([jnp.stack([_combined(line, [*row]) for line in out]) for row in rows])


def _evaluated(
    values: Float[Array, "n a b c"], matrix: Float[np.ndarray, "t s"],
    counts: Sequence[int], tile: int,
) -> list[Float[Array, "t squares c"]]:  # fmt: skip
    """Return the matrix applied to the columns and the rows of every square, by the rows of what
    that gives."""
    size = matrix.shape[1]
    down, across = ((count - 1) * tile + 1 for count in counts)
    values = jax.lax.optimization_barrier(values)
    rows, found = [values[:, i : i + down : tile] for i in range(size)], []
    for line in matrix:
        # The barriers: else every number below is computed from the pixels anew.
        row = jax.lax.optimization_barrier(_combined(line, rows))
        columns = [row[:, :, i : i + across : tile] for i in range(size)]
        both = jnp.stack([_combined(line, columns) for line in matrix])
        found.append(jax.lax.optimization_barrier(both.reshape(len(matrix), -1, both.shape[-1])))
    return found


def _combined(weights: Float[np.ndarray, "s"], values: Sequence[Array]) -> Array:
    """Return Σ w v, by the weights that are not 0."""
    total: Array | None = None
    for weight, value in zip(weights.tolist(), values, strict=True):
        if weight:
            term = value if abs(weight) == 1 else abs(weight) * value
            if total is None:
                total = term if weight > 0 else -term
            else:
                total = total + term if weight > 0 else total - term
    assert total is not None  # no line of these matrices is empty
    return total
