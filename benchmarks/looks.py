"""Networks for `two_streams.py`: `looks:LOOKS` (in PYTHONPATH: this folder)."""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fgjax.models.composed.patches import crop_patches
from fgjax.models.composed.recurrent_attention import ReadOut, Step
from fgjax.models.composed.two_stream import Streams, TwoStream
from fgjax.models.networks.resnet import RESNETS, ResNet
from fgjax.models.registry import Network


def lstm_size(inputs: int, hidden: int, layers: int) -> int:
    """Return how many weights stacked LSTMs have: four gates, each with one bias."""
    return sum(4 * hidden * (x + hidden + 1) for x in (inputs, *[hidden] * (layers - 1)))


def mlp_width(inputs: int, hidden: int, layers: int) -> int:
    """Return how wide two hidden layers have to be for as many weights as stacked LSTMs have.

    inputs w + w + w² + w + w hidden + hidden = `lstm_size`, solved for w.
    """
    half = (inputs + hidden + 2) / 2
    return round((half**2 + lstm_size(inputs, hidden, layers) - hidden) ** 0.5 - half)


class Mlp(nn.Module):
    """Two hidden layers, with as many weights as stacked LSTMs."""

    hidden: int
    layers: int

    @nn.compact
    def __call__(self, x: Float[Array, "n p d"]) -> Float[Array, "n p h"]:
        width = mlp_width(x.shape[-1], self.hidden, self.layers)
        for _ in range(2):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.hidden)(x)


class Looks(TwoStream):
    """A `TwoStream` that cuts its patches out of a larger drawing, in training too, anew at every
    step, by its global stream as it is then.

    Input: normalised drawings, `zoom` times as wide as what the global stream sees.

    Attributes:
      places: of the patches: "cam", the peaks of the global stream's class activation map;
        "random"; "whole": one patch, which is what the global stream sees.
      between: what stands between the pooled feature of a patch and the classifier where readout
        is "cnn": "nothing", an "mlp" of the LSTMs' size, or "sequence": the LSTMs, a step for each
        patch, the best first, and attention over them.
    """

    places: Literal["cam", "random", "whole"] = "cam"
    between: Literal["nothing", "mlp", "sequence"] = "nothing"
    zoom: int = 2

    def setup(self) -> None:
        super().setup()
        if self.between == "mlp":
            self.local_mlp = Mlp(self.hidden, self.layers)
        elif self.between == "sequence":
            scan = nn.scan(
                Step, variable_broadcast="params", split_rngs={"params": False}, in_axes=1,
                out_axes=1,
            )  # fmt: skip
            self.local_sequence = scan(self.hidden, self.layers, False)
            self.local_readout = ReadOut("attention")

    def shrink(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n H W 3"]:
        """Return what the global stream sees: means of `zoom` x `zoom` pixels."""
        n, height, width, c = images.shape
        zoom = self.zoom
        return images.reshape(n, height // zoom, zoom, width // zoom, zoom, c).mean((2, 4))

    def boxes(
        self, images: Float[Array, "n h w 3"], train: bool = False
    ) -> Float[Array, "n p 4"] | None:
        """Return where patches are cut out, in pixels of the drawing; None: nowhere."""
        return self._boxes(images, self.features(self.shrink(images), train), train)

    def _boxes(self, images, features, train):
        if self.readout == "none" or self.places == "whole":
            return None
        n, height, width, _ = images.shape
        if self.places == "cam":
            return self._find(features, height, width).boxes
        side = round(self.patch_side * height)
        # At test one draw for every batch: what is predicted is no matter of chance.
        key = self.make_rng("dropout") if train else jax.random.key(0)
        most = jnp.asarray([width - side + 1, height - side + 1])
        corners = jax.random.randint(key, (n, self.patches, 2), 0, most[None, None])
        return jnp.concatenate([corners, corners + side], -1).astype(jnp.float32)

    def streams(self, images: Float[Array, "n h w 3"], train: bool = False) -> Streams:
        """Return both streams' logits of drawings."""
        x = self.shrink(images)
        features = self.features(x, train)
        boxes = self._boxes(images, features, train)
        patches = x[:, None] if boxes is None else crop_patches(images, boxes, self.patch_size)
        return self._both(features, patches, train)

    def classify_patches(
        self, features: Float[Array, "n p H W d"]
    ) -> tuple[Float[Array, "n q k"], Float[Array, "n q t k"] | None]:
        """Return logits of every patch, and of every step; of a sequence q = 1 and t = p."""
        pooled = features.mean((2, 3))
        if self.between == "mlp":
            return self.local_classifier(self.local_mlp(pooled)), None
        if self.between == "nothing":
            return super().classify_patches(features)
        nothing = jnp.zeros((len(pooled), self.hidden), jnp.float32)
        _, steps = self.local_sequence(((nothing, nothing),) * self.layers, pooled)
        logits = self.local_classifier(self.local_readout(steps))
        return logits[:, None], self.local_classifier(steps)[:, None]

    def __call__(self, images: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n k"]:
        """Return the joint logits."""
        return self.joint(self.streams(images, train))


LOOKS = Network("looks", Looks)

SMALL = Network(
    "small",
    partial(ResNet, depths=(1, 1, 1), width=16, small_stem=True),
    next(network.names for network in RESNETS if network.name == "resnet_tiny"),
)
"""`resnet_tiny` without its last stage: 8 x 8 cells of an image of 64 px, 4 x 4 of one of 32."""
