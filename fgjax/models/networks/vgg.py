"""VGG: stacks of 3x3 convolutions, max pooling between, three dense layers on top.

Reference: Simonyan & Zisserman, Very Deep Convolutional Networks, 2015.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fgjax.models.names import Table
from fgjax.models.networks.layers import Conv, Norm, Padding, max_pool
from fgjax.models.registry import Network

WIDTHS = (64, 128, 256, 512, 512)


def _bins(size: int, bins: int) -> Float[np.ndarray, "bins size"]:
    """Return the matrix that averages `size` pixels into `bins` equal, possibly overlapping,
    parts."""
    matrix = np.zeros((bins, size), np.float32)
    for i in range(bins):
        low, high = i * size // bins, -(-(i + 1) * size // bins)
        matrix[i, low:high] = 1 / (high - low)
    return matrix


def adaptive_average_pool(x: Float[Array, "n h w c"], bins: int) -> Float[Array, "n bins bins c"]:
    """Return the mean over `bins` x `bins` parts of a map of any size."""
    if x.shape[1:3] == (bins, bins):
        return x
    x = x.astype(np.promote_types(x.dtype, np.float32))
    rows, columns = (jnp.asarray(_bins(side, bins), x.dtype) for side in x.shape[1:3])
    return jnp.einsum("yi,xj,nijc->nyxc", rows, columns, x)


class VGG(nn.Module):
    """VGG-16 or -19, with or without batch normalisation. Input: normalised images, NHWC.

    `features` gives the last map (`n h/32 w/32 512`), `head` the logits of it.

    Attributes:
      num_classes: k.
      depths: convolutions in each of the five stages.
      norm: batch normalisation after every convolution.
      hidden: width of the two dense layers.
      pooling: "dense": the paper's two hidden layers; "average": global average pooling and
        one linear layer, with far fewer weights.
    """

    num_classes: int
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    norm: bool = False
    hidden: int = 4096
    pooling: str = "dense"
    dropout: float = 0.5
    padding: Padding = "symmetric"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        convs, norms = {}, {}
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                convs[f"{stage}_{i}"] = Conv(
                    WIDTHS[stage], 3, 1, self.padding, self.dtype, bias=True
                )
                if self.norm:
                    norms[f"{stage}_{i}"] = Norm(self.dtype)
        self.convs, self.norms = convs, norms
        if self.pooling == "dense":
            self.dense1 = nn.Dense(self.hidden, dtype=self.dtype)
            self.dense2 = nn.Dense(self.hidden, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)
        self.classifier = nn.Dense(self.num_classes, dtype=jnp.float32)

    def intermediates(
        self, x: Float[Array, "n h w 3"], train: bool = False
    ) -> dict[str, Float[Array, "n ..."]]:
        """Return every stage's output after pooling: "stage_0" … "stage_4", "features"."""
        out = {}
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                x = self.convs[f"{stage}_{i}"](x)
                x = nn.relu(self.norms[f"{stage}_{i}"](x, train) if self.norm else x)
            x = max_pool(x, 2, 2)
            out[f"stage_{stage}"] = x
        out["features"] = x
        return out

    def features(
        self, x: Float[Array, "n h w 3"], train: bool = False
    ) -> Float[Array, "n H W 512"]:
        """Return the last feature map."""
        return self.intermediates(x, train)["features"]

    def head(self, features: Float[Array, "n H W 512"], train: bool = False) -> Float[Array, "n k"]:
        """Pooling, the dense layers and the linear classifier."""
        if self.pooling == "average":
            return self.classifier(features.astype(jnp.float32).mean((1, 2)))
        x = adaptive_average_pool(features, 7)
        x = x.reshape(len(x), -1)
        x = self.drop(nn.relu(self.dense1(x)), deterministic=not train)
        x = self.drop(nn.relu(self.dense2(x)), deterministic=not train)
        return self.classifier(x.astype(jnp.float32))

    def __call__(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n k"]:
        return self.head(self.features(x, train), train)


def _names(depths: tuple[int, ...], norm: bool) -> Table:
    """Return both libraries' names: features are numbered alike in both, the head is dense layers
    or 7x7 and 1x1 convolutions."""
    table, number = [], 0
    for stage, depth in enumerate(depths):
        for i in range(depth):
            table.append((rf"features\.{number}\.(.*)", rf"convs_{stage}_{i}/\1"))
            if norm:
                table.append((rf"features\.{number + 1}\.(.*)", rf"norms_{stage}_{i}/norm/\1"))
            number += 3 if norm else 2
        number += 1
    return table + [
        (r"pre_logits\.fc1\.(.*)", r"dense1/\1"),
        (r"pre_logits\.fc2\.(.*)", r"dense2/\1"),
        (r"head\.fc\.(.*)", r"classifier/\1"),
        (r"classifier\.0\.(.*)", r"dense1/\1"),
        (r"classifier\.3\.(.*)", r"dense2/\1"),
        (r"classifier\.6\.(.*)", r"classifier/\1"),
    ]


_SIXTEEN, _NINETEEN = (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)
_STREAM = {"pooling": "average"}
VGGS = (
    Network("vgg16", VGG, _names(_SIXTEEN, False), stream=_STREAM, order=60),
    Network(
        "vgg19",
        partial(VGG, depths=_NINETEEN),
        _names(_NINETEEN, False),
        stream=_STREAM,
        order=70,
    ),
    Network("vgg16_bn", partial(VGG, norm=True), _names(_SIXTEEN, True), stream=_STREAM, order=80),
    Network(
        "vgg19_bn",
        partial(VGG, depths=_NINETEEN, norm=True),
        _names(_NINETEEN, True),
        stream=_STREAM,
        order=90,
    ),
)
