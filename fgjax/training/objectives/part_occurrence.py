"""The prior on part occurrence: over a batch, each part is seen as often as a Beta
distribution says.

Reference: Huang and Li, Interpretable and Accurate Fine-grained Recognition via Region
Grouping, CVPR 2020, section 3.1.
"""

import operator
from functools import reduce

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import betaincinv


def part_occurrence(
    assignment: Float[Array, "n h w k"], *, radius: int = 2, std: float = 0.4
) -> Float[Array, "n k"]:
    """Return how clearly each part is somewhere in the image, in (0, 1): t_k = max_ij (G * Q^k)_ij.

    Args:
      assignment: q, see `fgjax.group_pixels`.
      radius: of the Gaussian window G, in cells; windows reach nowhere beyond the map.
      std: of G, in cells; G sums to 1.

    Raises:
      ValueError: a map smaller than the window.
    """
    height, width = assignment.shape[1:3]
    side = 2 * radius + 1
    if min(height, width) < side:
        raise ValueError(
            f"assignment maps of {height}x{width} are smaller than the window of {side}x{side} "
            f"(radius {radius}): take larger images or a smaller radius"
        )
    offsets = np.arange(-radius, radius + 1)
    window = np.exp(-0.5 * (offsets / std) ** 2)
    window /= window.sum()
    maps = assignment.astype(jnp.float32)
    down, across = height - side + 1, width - side + 1
    shifted = [float(g) * maps[:, i : i + down] for i, g in enumerate(window)]
    maps = reduce(operator.add, shifted)
    shifted = [float(g) * maps[:, :, i : i + across] for i, g in enumerate(window)]
    maps = reduce(operator.add, shifted)
    return maps.max((1, 2))


def prior_quantiles(n: int, alpha: float, beta: float) -> Float[np.ndarray, "n"]:
    """Return the quantiles (2i − 1)/2n, i = 1 … n, of Beta(α, β)."""
    places = (2 * np.arange(1, n + 1) - 1) / (2 * n)
    return betaincinv(alpha, beta, places).astype(np.float32)


def wasserstein_distance(
    values: Float[Array, "n k"], quantiles: Float[Array | np.ndarray, "n"]
) -> Float[Array, "k"]:
    """Return the 1D Wasserstein distance of each column to the n ascending quantiles of another
    distribution: the mean of |sorted values − quantiles|."""
    return jnp.abs(jnp.sort(values, axis=0) - jnp.asarray(quantiles)[:, None]).mean(0)


def part_occurrence_loss(
    assignment: Float[Array, "n h w k"],
    alpha: float,
    beta: float,
    *,
    radius: int = 2,
    std: float = 0.4,
    eps: float = 1e-5,
) -> Float[Array, ""]:
    """Return how far the parts' occurrence in a batch is from the prior Beta(α, β), 0 or more.

      1/N Σ_i | log(t*_ik + ε) − log(F⁻¹((2i − 1)/2N) + ε) |, averaged over the parts k   (Eq. 2)

    with t*_k the occurrence (`part_occurrence`) of part k in the N images, sorted, and F the
    distribution function of the prior. Over sharded images the sort is that of the whole batch.

    Args:
      assignment: q, see `fgjax.group_pixels`.
      alpha, beta: of the prior, above 0: (1, 1e-3) is "on" nearly always, (2e-3, 1e-3) in two
        of three images.
      radius, std: of the Gaussian window, see `part_occurrence`.
      eps: ε.

    Raises:
      ValueError: α or β is not above 0, or the maps are smaller than the window.

    Example:
      >>> everywhere = jnp.ones((4, 8, 8, 2))
      >>> round(abs(float(part_occurrence_loss(everywhere, 1.0, 1e-3))), 3)
      0.0
    """
    if not (alpha > 0 and beta > 0):
        raise ValueError(f"alpha={alpha}, beta={beta}: a Beta distribution has both above 0")
    occurrence = part_occurrence(assignment, radius=radius, std=std)
    quantiles = prior_quantiles(len(assignment), alpha, beta)
    log_quantiles = np.log(quantiles.astype(np.float64) + eps).astype(np.float32)
    return wasserstein_distance(jnp.log(occurrence + eps), log_quantiles).mean()
