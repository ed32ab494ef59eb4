"""Convolutions of many sides, kernels, strides and paddings."""

from fgjax.models.networks.layers import pads

CASES = [
    (kernel, stride, side, padding)
    for kernel in (1, 2, 3, 5, 7)
    for stride in (2, 3)
    for side in (13, 14)
    for padding in ("symmetric", "same", 0)
]
LIMIT = 3e-7


def edges_of(side, kernel, stride, padding):
    return tuple(pads(s, kernel, stride, padding) for s in (side, side + 3))
