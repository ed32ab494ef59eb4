"""Losses of classifiers."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "n k"], labels: Int[Array, "n"], smoothing: float = 0.0
) -> Float[Array, "n"]:
    """Return cross-entropy with label smoothing, per image, in nats.

    The target is (1 - ε) on the label plus ε/k on every class.

    Reference: Szegedy et al., Rethinking the Inception Architecture, 2016, section 7.
    """
    log_p = jax.nn.log_softmax(logits)
    at_label = jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
    return -((1 - smoothing) * at_label + smoothing * log_p.mean(1))


def binary_cross_entropy(
    logits: Float[Array, "n a"], labels: Int[Array, "n a"]
) -> Float[Array, "n"]:
    """Return cross-entropy of attributes that are there (1) or not (0), their mean per image, in
    nats."""
    there = labels.astype(logits.dtype)
    return (jax.nn.softplus(logits) - there * logits).mean(1)


def jensen_shannon(logits: Float[Array, "v n k"]) -> Float[Array, "n"]:
    """Return how unlike the v predictions of each image are, in nats: 0 when equal, at most log v.

      JS(P_1; …; P_v) = 1/v Σ_i KL(P_i ‖ M),   M = 1/v Σ_i P_i

    Reference: Lin, Divergence Measures Based on the Shannon Entropy, 1991; Hendrycks et al.,
      AugMix, 2020, Eq. 1, whose training adds 12 times this for an image and two versions of it.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    log_mean = jax.scipy.special.logsumexp(log_p, axis=0) - jnp.log(float(len(logits)))
    return (jnp.exp(log_p) * (log_p - log_mean[None])).sum(-1).mean(0)


def class_weights(
    counts: Int[np.ndarray, "k"], by: Literal["inverse", "effective"], beta: float = 0.999
) -> tuple[float, ...]:
    """Return what an image's loss counts, by its class, so that rare classes are heard.

      inverse:    w_c ∝ 1 / n_c
      effective:  w_c ∝ (1 - β) / (1 - β^n_c)   (Cui et al. 2019, Eq. 2 and section 4.2)

    Scaled so that their mean over the images is 1: the loss keeps its size. A class without an
    image has weight 0.

    Reference: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019.
    """
    there = counts > 0
    some = np.where(there, counts, 1)
    weights = 1 / some if by == "inverse" else (1 - beta) / (1 - beta**some)
    weights = np.where(there, weights, 0.0)
    return tuple((weights * counts.sum() / (weights * counts).sum()).tolist())
