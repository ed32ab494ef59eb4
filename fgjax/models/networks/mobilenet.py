"""MobileNetV2: inverted residuals with linear bottlenecks.

Reference: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fgjax.models.names import Table
from fgjax.models.networks.layers import Conv, DepthwiseConv, Norm, Padding
from fgjax.models.registry import Network, Trunk

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
          (6, 320, 1, 1))  # fmt: skip
"""Table 2 of the paper: expansion, channels, blocks, stride of the first block."""


def _relu6(x):
    return jnp.clip(x, 0, 6)


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1; added to its input where shapes agree."""

    features: int
    expansion: int
    stride: int
    padding: Padding
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n H W d"]:
        inner = x.shape[-1] * self.expansion
        y = x
        if self.expansion != 1:
            y = Conv(inner, 1, dtype=self.dtype, name="expand")(y)
            y = _relu6(Norm(dtype=self.dtype, name="expand_norm")(y, train))
        y = DepthwiseConv(3, self.stride, self.padding, self.dtype, name="depthwise")(y)
        y = _relu6(Norm(dtype=self.dtype, name="depthwise_norm")(y, train))
        y = Conv(self.features, 1, dtype=self.dtype, name="project")(y)
        y = Norm(dtype=self.dtype, name="project_norm")(y, train)
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


LAST_STRIDE = 5
"""The stage that halves the map for the last time, from stride 16 to 32."""


def _apart(x: Float[Array, "n h w c"]) -> Float[Array, "m H W c"]:
    """Return every second cell by itself, as an image of its own: (0, 0), (0, 1), (1, 0), (1, 1).

    A convolution of these is a convolution of the map with dilation 2. Odd sides get a line of
    zeros, which is what a convolution finds outside.
    """
    n, height, width, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    x = x.reshape(n, (height + 1) // 2, 2, (width + 1) // 2, 2, c)
    return x.transpose(2, 4, 0, 1, 3, 5).reshape(4 * n, *x.shape[1:4:2], c)


def _together(x: Float[Array, "m H W c"], height: int, width: int) -> Float[Array, "n h w c"]:
    """Return the map whose cells were taken apart."""
    m, down, across, c = x.shape
    x = x.reshape(2, 2, m // 4, down, across, c).transpose(2, 3, 0, 4, 1, 5)
    return x.reshape(m // 4, 2 * down, 2 * across, c)[:, :height, :width]


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1. Input: normalised images, NHWC; stride 32 in all.

    `features` gives the last map (`n h/32 w/32 1280`), `head` the logits of it.

    Attributes:
      dense: the last stride is left out and the blocks after it are dilated by 2, with the same
        weights: stride 16 in all, maps with four times the cells.
    """

    num_classes: int
    padding: Padding = "symmetric"
    dropout: float = 0.2
    dtype: Any = jnp.float32
    dense: bool = False

    def setup(self) -> None:
        self.stem = Conv(32, 3, 2, self.padding, self.dtype)
        self.stem_norm = Norm(dtype=self.dtype)
        blocks = {}
        for stage, (expansion, features, repeats, stride) in enumerate(STAGES):
            stride = 1 if self.dense and stage == LAST_STRIDE else stride
            for i in range(repeats):
                blocks[f"{stage}_{i}"] = InvertedResidual(
                    features, expansion, stride if i == 0 else 1, self.padding, self.dtype
                )
        self.blocks = blocks
        self.last = Conv(1280, 1, dtype=self.dtype)
        self.last_norm = Norm(dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)
        self.classifier = nn.Dense(self.num_classes, dtype=jnp.float32)

    def intermediates(
        self, x: Float[Array, "n h w 3"], train: bool = False, last: str = "features"
    ) -> dict[str, Float[Array, "n ..."]]:
        """Return every stage's output by name: "stem", "stage_0" … "stage_6", "features".

        Those after `last` are left out; a network that is only used so has no weights for them.
        """
        out = {"stem": (x := _relu6(self.stem_norm(self.stem(x), train)))}
        for stage, (_, _, repeats, _) in enumerate(STAGES):
            for i in range(repeats):
                if self.dense and (stage, i) > (LAST_STRIDE, 0):
                    x = _together(self.blocks[f"{stage}_{i}"](_apart(x), train), *x.shape[1:3])
                else:
                    x = self.blocks[f"{stage}_{i}"](x, train)
            out[f"stage_{stage}"] = x
            if last == f"stage_{stage}":
                return out
        out["features"] = _relu6(self.last_norm(self.last(x), train))
        return out

    def features(
        self, x: Float[Array, "n h w 3"], train: bool = False
    ) -> Float[Array, "n H W 1280"]:
        """Return the last feature map."""
        return self.intermediates(x, train)["features"]

    def head(
        self, features: Float[Array, "n H W 1280"], train: bool = False
    ) -> Float[Array, "n k"]:
        """Return average pooling, dropout when training, and the linear classifier."""
        pooled = features.astype(jnp.float32).mean((1, 2))
        return self.classifier(self.drop(pooled, deterministic=not train))

    def __call__(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n k"]:
        return self.head(self.features(x, train), train)


def _timm() -> Table:
    block, ours = r"blocks\.(\d+)\.(\d+)", r"blocks_\1_\2"
    return [
        (r"conv_stem\.(.*)", r"stem/\1"),
        (r"bn1\.(.*)", r"stem_norm/norm/\1"),
        # The first block does not expand, and so counts its layers otherwise.
        (r"blocks\.0\.0\.conv_dw\.(.*)", r"blocks_0_0/depthwise/\1"),
        (r"blocks\.0\.0\.bn1\.(.*)", r"blocks_0_0/depthwise_norm/norm/\1"),
        (r"blocks\.0\.0\.conv_pw\.(.*)", r"blocks_0_0/project/\1"),
        (r"blocks\.0\.0\.bn2\.(.*)", r"blocks_0_0/project_norm/norm/\1"),
        (rf"{block}\.conv_pw\.(.*)", rf"{ours}/expand/\3"),
        (rf"{block}\.bn1\.(.*)", rf"{ours}/expand_norm/norm/\3"),
        (rf"{block}\.conv_dw\.(.*)", rf"{ours}/depthwise/\3"),
        (rf"{block}\.bn2\.(.*)", rf"{ours}/depthwise_norm/norm/\3"),
        (rf"{block}\.conv_pwl\.(.*)", rf"{ours}/project/\3"),
        (rf"{block}\.bn3\.(.*)", rf"{ours}/project_norm/norm/\3"),
        (r"conv_head\.(.*)", r"last/\1"),
        (r"bn2\.(.*)", r"last_norm/norm/\1"),
        (r"classifier\.(\w+)", r"classifier/\1"),
    ]


def _torchvision() -> Table:
    blocks = [f"{s}_{i}" for s, (_, _, repeats, _) in enumerate(STAGES) for i in range(repeats)]
    table = [
        (r"features\.0\.0\.(.*)", r"stem/\1"),
        (r"features\.0\.1\.(.*)", r"stem_norm/norm/\1"),
        (r"features\.18\.0\.(.*)", r"last/\1"),
        (r"features\.18\.1\.(.*)", r"last_norm/norm/\1"),
        (r"classifier\.1\.(.*)", r"classifier/\1"),
    ]
    for number, block in enumerate(blocks, start=1):
        expands = block != "0_0"
        layers = ["expand"] if expands else []
        for place, layer in enumerate([*layers, "depthwise"]):
            theirs = rf"features\.{number}\.conv\.{place}"
            table += [
                (rf"{theirs}\.0\.(.*)", rf"blocks_{block}/{layer}/\1"),
                (rf"{theirs}\.1\.(.*)", rf"blocks_{block}/{layer}_norm/norm/\1"),
            ]
        place = 2 if expands else 1
        table += [
            (rf"features\.{number}\.conv\.{place}\.(.*)", rf"blocks_{block}/project/\1"),
            (
                rf"features\.{number}\.conv\.{place + 1}\.(.*)",
                rf"blocks_{block}/project_norm/norm/\1",
            ),
        ]
    return table


MOBILENET_V2 = Network(
    "mobilenet_v2",
    MobileNetV2,
    _timm() + _torchvision(),
    also=("mobilenetv2_100",),
    # Its maps are narrow before: the post block of region grouping replaces only what comes after
    # the last stage.
    trunk=Trunk("stage_6", 256, {"dense": True}),
    order=110,
)
