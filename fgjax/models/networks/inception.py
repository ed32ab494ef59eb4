"""Inception v3, as torchvision has it (the auxiliary classifier left out).

Blocks and branches carry torchvision's names; each block is one of five kinds, A to E.

Reference: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fgjax.models.names import Table
from fgjax.models.networks.layers import Conv, Norm, Padding, max_pool
from fgjax.models.registry import Network


class Unit(nn.Module):
    """Convolution, batch normalisation (ε = 1e-3), ReLU."""

    features: int
    kernel: int | tuple[int, int]
    stride: int = 1
    padding: Padding | int = "symmetric"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n H W d"]:
        x = Conv(self.features, self.kernel, self.stride, self.padding, self.dtype, name="conv")(x)
        return nn.relu(Norm(self.dtype, epsilon=1e-3, name="norm")(x, train))


def _average(x):
    """Return the mean over 3x3 pixels; outside the map they count as 0."""
    edges = ((0, 0), (1, 1), (1, 1), (0, 0))
    zero = np.zeros((), x.dtype)  # not traced, else it has no gradient
    return jax.lax.reduce_window(x, zero, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), edges) / 9


def _halve(x):
    return max_pool(x, 3, 2)


class Block(nn.Module):
    """An inception block of kind A, B, C, D or E; `width` is the one number that varies.

    A: of the pooled branch. C: of the 7x7 branches. B and D halve the map.
    """

    kind: str
    width: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n H W d"]:
        def chain(x, *units):
            for name, features, kernel, *rest in units:
                x = Unit(features, kernel, *rest, dtype=self.dtype, name=name)(x, train)
            return x

        w, row, column = self.width, (1, 7), (7, 1)
        if self.kind == "A":
            branches = [
                chain(x, ("branch1x1", 64, 1)),
                chain(x, ("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
                chain(x, ("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3),
                      ("branch3x3dbl_3", 96, 3)),
                chain(_average(x), ("branch_pool", w, 1)),
            ]  # fmt: skip
        elif self.kind == "B":
            branches = [
                chain(x, ("branch3x3", 384, 3, 2, 0)),
                chain(x, ("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3),
                      ("branch3x3dbl_3", 96, 3, 2, 0)),
                _halve(x),
            ]  # fmt: skip
        elif self.kind == "C":
            branches = [
                chain(x, ("branch1x1", 192, 1)),
                chain(x, ("branch7x7_1", w, 1), ("branch7x7_2", w, row),
                      ("branch7x7_3", 192, column)),
                chain(x, ("branch7x7dbl_1", w, 1), ("branch7x7dbl_2", w, column),
                      ("branch7x7dbl_3", w, row), ("branch7x7dbl_4", w, column),
                      ("branch7x7dbl_5", 192, row)),
                chain(_average(x), ("branch_pool", 192, 1)),
            ]  # fmt: skip
        elif self.kind == "D":
            branches = [
                chain(x, ("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2, 0)),
                chain(x, ("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, row),
                      ("branch7x7x3_3", 192, column), ("branch7x7x3_4", 192, 3, 2, 0)),
                _halve(x),
            ]  # fmt: skip
        else:
            single = chain(x, ("branch3x3_1", 384, 1))
            double = chain(x, ("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3))
            branches = [
                chain(x, ("branch1x1", 320, 1)),
                chain(single, ("branch3x3_2a", 384, (1, 3))),
                chain(single, ("branch3x3_2b", 384, (3, 1))),
                chain(double, ("branch3x3dbl_3a", 384, (1, 3))),
                chain(double, ("branch3x3dbl_3b", 384, (3, 1))),
                chain(_average(x), ("branch_pool", 192, 1)),
            ]
        return jnp.concatenate(branches, axis=-1)


STEM = (("Conv2d_1a_3x3", 32, 3, 2, 0), ("Conv2d_2a_3x3", 32, 3, 1, 0), ("Conv2d_2b_3x3", 64, 3),
        "pool", ("Conv2d_3b_1x1", 80, 1), ("Conv2d_4a_3x3", 192, 3, 1, 0), "pool")  # fmt: skip
BLOCKS = {
    "Mixed_5b": ("A", 32), "Mixed_5c": ("A", 64), "Mixed_5d": ("A", 64),
    "Mixed_6a": ("B",), "Mixed_6b": ("C", 128), "Mixed_6c": ("C", 160), "Mixed_6d": ("C", 160),
    "Mixed_6e": ("C", 192), "Mixed_7a": ("D",), "Mixed_7b": ("E",), "Mixed_7c": ("E",),
}  # fmt: skip


class InceptionV3(nn.Module):
    """Inception v3 for images of about 299 px (at least 75). Input: normalised images, NHWC.

    `features` gives the last map (`n 8 8 2048` at 299 px), `head` the logits of it.
    """

    num_classes: int
    padding: Padding = "symmetric"
    dropout: float = 0.5
    dtype: Any = jnp.float32

    def setup(self) -> None:
        if self.padding != "symmetric":
            raise ValueError("inception_v3 pads as its authors do; padding cannot be changed")
        units = [part for part in STEM if part != "pool"]
        for name, *shape in units:
            setattr(self, name, Unit(*shape, dtype=self.dtype))
        for name, kind in BLOCKS.items():
            setattr(self, name, Block(*kind, dtype=self.dtype))
        self.drop = nn.Dropout(self.dropout)
        self.classifier = nn.Dense(self.num_classes, dtype=jnp.float32)

    def intermediates(
        self, x: Float[Array, "n h w 3"], train: bool = False
    ) -> dict[str, Float[Array, "n ..."]]:
        """Return every block's output by torchvision's name, and "stem" and "features"."""
        for part in STEM:
            x = _halve(x) if part == "pool" else getattr(self, part[0])(x, train)
        out = {"stem": x}
        for name in BLOCKS:
            out[name] = x = getattr(self, name)(x, train)
        out["features"] = x
        return out

    def features(
        self, x: Float[Array, "n h w 3"], train: bool = False
    ) -> Float[Array, "n H W 2048"]:
        """Return the last feature map."""
        return self.intermediates(x, train)["features"]

    def head(
        self, features: Float[Array, "n H W 2048"], train: bool = False
    ) -> Float[Array, "n k"]:
        """Return average pooling, dropout when training, and the linear classifier."""
        pooled = features.astype(jnp.float32).mean((1, 2))
        return self.classifier(self.drop(pooled, deterministic=not train))

    def __call__(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n k"]:
        return self.head(self.features(x, train), train)


def _names() -> Table:
    """torchvision's names, which are timm's too; ours are the same but for the layers."""
    return [
        (r"AuxLogits\..*", ""),
        (r"(\w+)\.conv\.(.*)", r"\1/conv/\2"),
        (r"(\w+)\.bn\.(.*)", r"\1/norm/norm/\2"),
        (r"(\w+)\.(\w+)\.conv\.(.*)", r"\1/\2/conv/\3"),
        (r"(\w+)\.(\w+)\.bn\.(.*)", r"\1/\2/norm/norm/\3"),
        (r"fc\.(.*)", r"classifier/\1"),
    ]


_HALF = (0.5, 0.5, 0.5)
INCEPTION_V3 = Network("inception_v3", InceptionV3, _names(), mean=_HALF, std=_HALF, order=100)
