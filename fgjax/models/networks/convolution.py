"""A convolution as XLA has it."""

import jax
from jaxtyping import Array, Float

LAYOUT = ("NHWC", "HWIO", "NHWC")
Edges = tuple[tuple[int, int], tuple[int, int]]
"""Pixels to add above and below, left and right."""


def convolve(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "k l b d"],
    stride: int,
    edges: Edges,
    groups: int = 1,
) -> Float[Array, "n H W d"]:
    """Return the convolution as XLA has it; of groups of channels, each sees `b` of them."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        edges,
        dimension_numbers=LAYOUT,
        feature_group_count=groups,
    )
