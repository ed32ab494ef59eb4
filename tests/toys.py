"""Models with known answers, for the tests of many methods."""

from functools import partial

import jax.numpy as jnp

from fgjax.models.networks.resnet import RESNETS, ResNet
from fgjax.models.networks.vit import TransformerClassifier, VisionTransformer
from fgjax.models.networks.vit_family import VITS
from fgjax.models.registry import Network, Trunk


def linear(weights, images):
    """Logits: the mean over the channels, weighted pixel by pixel with `weights`, h w k."""
    return jnp.einsum("nhwc,hwk->nk", images, weights) / images.shape[-1]


def of_every_value(trials):
    """Yield the trials of a sweep that try a value which none before them tried."""
    seen = set()
    for trial in trials:
        if not seen.issuperset(trial.settings.items()):
            seen.update(trial.settings.items())
            yield trial


MICRO = Network(
    "micro",
    partial(ResNet, depths=(1,), width=8, small_stem=True),
    next(network.names for network in RESNETS if network.name == "resnet_tiny"),
    trunk=Trunk("stage_0", 8),
)
"""`model.name=toys:MICRO`: three convolutions, so that a whole run compiles little."""

TOKENS = Network(
    "tokens",
    partial(VisionTransformer, patch=8, width=24, depth=2, heads=2, hidden=32, grid=4),
    next(network.names for network in VITS if network.name == "vit_tiny"),
    classifier=TransformerClassifier,
    tokens=True,
)
"""`model.name=toys:TOKENS`: a vision transformer of two blocks for images of 32 px."""
