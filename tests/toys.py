"""Models with known answers, for the tests of many methods."""

import jax.numpy as jnp


def linear(weights, images):
    """Logits: the mean over the channels, weighted pixel by pixel with `weights`, h w k."""
    return jnp.einsum("nhwc,hwk->nk", images, weights) / images.shape[-1]
