"""Pixels grouped into parts by a dictionary of part vectors, and a feature of every group.

Reference: Huang and Li, Interpretable and Accurate Fine-grained Recognition via Region
Grouping, CVPR 2020.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def group_pixels(
    features: Float[Array, "n h w d"],
    dictionary: Float[Array, "k d"],
    smoothing: Float[Array, "k"],
) -> tuple[Float[Array, "n h w k"], Float[Array, "n k d"]]:
    """Return how much each pixel belongs to each part, and what each part looks like in the image.

      q_ijk = softmax_k( −‖(x_ij − d_k)/σ_k‖² / 2 )              (Eq. 1)
      z'_k = Σ_ij q_ijk (x_ij − d_k)/σ_k / Σ_ij q_ijk,
      z_k = z'_k / ‖z'_k‖                                        (Eq. 3)

    Computed in float32 whatever comes in. The shares q_ijk / Σ_ij q_ijk are a softmax over the
    pixels of log q, so a part that no pixel is near has its feature too, where the quotient is
    0/0. Dividing by σ_k does not change z_k, and is left out.

    Args:
      features: x, a feature vector a pixel.
      dictionary: d, a vector a part.
      smoothing: σ > 0 of each part; the paper's lie in (0, 1).

    Returns:
      the assignment q (positive, sums to 1 over the parts; as float32 it may round to 0) and the
      region features z (of length 1, or 0 where all pixels of a part equal its vector).

    Example:
      >>> features = jnp.ones((1, 2, 2, 3))
      >>> assignment, regions = group_pixels(features, jnp.eye(3)[:2], jnp.full(2, 0.5))
      >>> assignment.shape, regions.shape
      ((1, 2, 2, 2), (1, 2, 3))
    """
    x, parts = features.astype(jnp.float32), dictionary.astype(jnp.float32)
    # Distances do not change when both move; with small numbers they cancel less.
    middle = jax.lax.stop_gradient(x.mean((0, 1, 2)))
    x, parts = x - middle[None, None, None], parts - middle[None]
    products = jnp.einsum("nhwd,kd->nhwk", x, parts, precision="highest")
    lengths = (x * x).sum(-1, keepdims=True) + (parts * parts).sum(-1)[None, None, None]
    nearness = (products - lengths / 2) / jnp.square(smoothing.astype(jnp.float32))[
        None, None, None
    ]
    log_q = jax.nn.log_softmax(nearness, axis=-1)
    share = jax.nn.softmax(log_q, axis=(1, 2))
    z = jnp.einsum("nhwk,nhwd->nkd", share, x, precision="highest") - parts[None]
    length = jnp.sqrt(jnp.maximum((z * z).sum(-1, keepdims=True), 1e-24))
    return jnp.exp(log_q), z / length


def soft_centroids(assignment: Float[Array, "n h w k"]) -> Float[Array, "n k 2"]:
    """Return where each part lies: the mean place x, y of its assignment, in cells of the map.

    The middle of the first cell lies at 0.5. NaN for a part whose assignment is 0 everywhere.
    """
    height, width = assignment.shape[1:3]
    total = assignment.sum((1, 2))
    x = jnp.einsum("nhwk,w->nk", assignment, jnp.arange(width, dtype=jnp.float32) + 0.5)
    y = jnp.einsum("nhwk,h->nk", assignment, jnp.arange(height, dtype=jnp.float32) + 0.5)
    return jnp.stack([x / total, y / total], axis=-1)


def pixel_attribution(
    assignment: Float[Array, "n h w k"], attention: Float[Array, "n k"]
) -> Float[Array, "n h w"]:
    """Qᵀa: every pixel gets the attention of the parts it belongs to, in [0, 1]."""
    return jnp.einsum("nhwk,nk->nhw", assignment, attention)
