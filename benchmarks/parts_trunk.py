"""A small trunk with many cells: `parts.backbone=parts_trunk:FINE` (in PYTHONPATH: this folder)."""

from functools import partial

from fgjax.models.networks.resnet import RESNETS, ResNet
from fgjax.models.registry import Network, Trunk

FINE = Network(
    "fine",
    partial(ResNet, depths=(2,), width=32, small_stem=True),
    next(network.names for network in RESNETS if network.name == "resnet_tiny"),
    trunk=Trunk("stage_0", 32),
)
"""Stride 2: 28 x 28 cells of an image of 56 px; each sees 19 px, a third of the side."""
