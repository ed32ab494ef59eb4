"""Losses of classifiers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "n k"], labels: Int[Array, "n"], smoothing: float = 0.0
) -> Float[Array, "n"]:
    """Cross-entropy with label smoothing, per image, in nats.

    The target is (1 - ε) on the label plus ε/k on every class.

    Reference: Szegedy et al., Rethinking the Inception Architecture, 2016, section 7.
    """
    log_p = jax.nn.log_softmax(logits)
    at_label = jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
    return -((1 - smoothing) * at_label + smoothing * log_p.mean(1))


def binary_cross_entropy(
    logits: Float[Array, "n a"], labels: Int[Array, "n a"]
) -> Float[Array, "n"]:
    """Cross-entropy of attributes that are there (1) or not (0), their mean per image, in nats."""
    there = labels.astype(logits.dtype)
    return (jax.nn.softplus(logits) - there * logits).mean(1)
