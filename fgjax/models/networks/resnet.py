"""ResNet, as torchvision has it: stride in the 3x3 convolution of a bottleneck; and its kin.

References:
  He et al., Deep Residual Learning for Image Recognition, 2016.
  Xie et al., Aggregated Residual Transformations for Deep Neural Networks, 2017 (ResNeXt).
  He et al., Bag of Tricks for Image Classification with CNNs, 2019 (ResNet-D).
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fgjax.models.names import Table
from fgjax.models.networks.layers import Conv, Norm, Padding, computed_again, max_pool
from fgjax.models.registry import Network, Trunk


def mean_of_four(x: Float[Array, "n h w c"]) -> Float[Array, "n H W c"]:
    """Return the mean of every 2x2 pixels; of what there is of them at an odd side."""
    n, height, width, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    x = x.reshape(n, (height + 1) // 2, 2, (width + 1) // 2, 2, c).sum((2, 4))
    down, across = (np.minimum(2, side - 2 * np.arange(-(-side // 2))) for side in (height, width))
    counts = (down[:, None] * across[None]).astype(np.float32)
    return x / jnp.asarray(counts[None, :, :, None], x.dtype)


class Block(nn.Module):
    """Two 3x3 convolutions, or a 1x1-3x3-1x1 bottleneck, around a shortcut.

    Attributes:
      groups, inner: of a bottleneck's 3x3 convolution; `inner` times its width.
      pooled: the shortcut is averaged where it shrinks, not strided (ResNet-D).
    """

    features: int
    stride: int
    bottleneck: bool
    padding: Padding
    dtype: Any
    groups: int = 1
    inner: int = 1
    pooled: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n H W d"]:
        out = self.features * (4 if self.bottleneck else 1)
        kernels = (1, 3, 1) if self.bottleneck else (3, 3)
        strided = 1 if self.bottleneck else 0
        y = x
        for i, kernel in enumerate(kernels):
            last = i == len(kernels) - 1
            stride = self.stride if i == strided else 1
            width = out if last else self.features * self.inner
            groups = self.groups if i == strided else 1
            y = Conv(
                width, kernel, stride, self.padding, self.dtype, groups=groups, name=f"conv{i + 1}"
            )(y)
            y = Norm(self.dtype, name=f"norm{i + 1}")(y, train)
            y = y if last else nn.relu(y)
        if x.shape != y.shape:
            strided = self.stride > 1 and not self.pooled
            x = mean_of_four(x) if self.stride > 1 and self.pooled else x
            stride = self.stride if strided else 1
            x = Conv(out, 1, stride, self.padding, self.dtype, name="shortcut")(x)
            x = Norm(self.dtype, name="shortcut_norm")(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network. Input: normalised images, NHWC.

    `features` gives the last map, `head` the logits of it.

    Attributes:
      num_classes: k.
      depths: blocks in each of the four stages.
      bottleneck: the block of ResNet-50 and deeper.
      width: channels of the first stage.
      small_stem: 3x3 stride 2 and no pooling (stride 16 in all), for images of about
        100 px; else 7x7 stride 2 and 3x3 max pooling (stride 32).
      checkpointing: blocks are computed again on the way back, see `computed_again`.
    """

    num_classes: int
    depths: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    width: int = 64
    small_stem: bool = False
    padding: Padding = "symmetric"
    dtype: Any = jnp.float32
    deep_stem: bool = False
    groups: int = 1
    inner: int = 1
    checkpointing: bool = False

    def setup(self) -> None:
        if self.deep_stem:
            half = self.width // 2
            self.first = [
                Conv(half, 3, 2 if i == 0 else 1, self.padding, self.dtype) for i in range(2)
            ]
            self.first_norms = [Norm(self.dtype) for _ in range(2)]
            self.stem = Conv(self.width, 3, 1, self.padding, self.dtype)
        else:
            self.stem = Conv(self.width, 3 if self.small_stem else 7, 2, self.padding, self.dtype)
        self.stem_norm = Norm(self.dtype)
        blocks, block = {}, computed_again(Block, self.checkpointing)
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                width = self.width * 2**stage
                blocks[f"{stage}_{i}"] = block(
                    width, stride, self.bottleneck, self.padding, self.dtype, self.groups,
                    self.inner, self.deep_stem,
                )  # fmt: skip
        self.blocks = blocks
        self.classifier = nn.Dense(self.num_classes, dtype=jnp.float32)

    def intermediates(
        self, x: Float[Array, "n h w 3"], train: bool = False, last: str = "features"
    ) -> dict[str, Float[Array, "n ..."]]:
        """Return every stage's output by name: "stem", "stage_0" … "stage_3", "features".

        Those after `last` are left out; a network that is only used so has no weights for them.
        """
        if self.deep_stem:
            for conv, norm in zip(self.first, self.first_norms, strict=True):
                x = nn.relu(norm(conv(x), train))
        x = nn.relu(self.stem_norm(self.stem(x), train))
        if not self.small_stem:
            x = max_pool(x, 3, 2, self.padding)
        out = {"stem": x}
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                x = self.blocks[f"{stage}_{i}"](x, train)
            out[f"stage_{stage}"] = x
            if last == f"stage_{stage}":
                return out
        out["features"] = x
        return out

    def features(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n H W d"]:
        """Return the last feature map."""
        return self.intermediates(x, train)["features"]

    def head(self, features: Float[Array, "n H W d"], train: bool = False) -> Float[Array, "n k"]:
        """Return average pooling and the linear classifier."""
        return self.classifier(features.astype(jnp.float32).mean((1, 2)))

    def __call__(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n k"]:
        # jax 0.12's CPU backend, when it fuses the pooling into a bfloat16 block, returns NaN.
        return self.head(jax.lax.optimization_barrier(self.features(x, train)), train)


def _names(deep_stem: bool = False) -> Table:
    """torchvision's names, which are timm's too."""
    stem = [
        (r"conv1\.0\.(.*)", r"first_0/\1"),
        (r"conv1\.1\.(.*)", r"first_norms_0/norm/\1"),
        (r"conv1\.3\.(.*)", r"first_1/\1"),
        (r"conv1\.4\.(.*)", r"first_norms_1/norm/\1"),
        (r"conv1\.6\.(.*)", r"stem/\1"),
    ]
    conv, norm = (1, 2) if deep_stem else (0, 1)  # the mean comes before
    table = [
        *(stem if deep_stem else [(r"conv1\.(.*)", r"stem/\1")]),
        (r"bn1\.(.*)", r"stem_norm/norm/\1"),
        (r"fc\.(.*)", r"classifier/\1"),
    ]
    for stage in range(4):
        layer, block = rf"layer{stage + 1}\.(\d+)", rf"blocks_{stage}_\1"
        table += [
            (rf"{layer}\.conv(\d)\.(.*)", rf"{block}/conv\2/\3"),
            (rf"{layer}\.bn(\d)\.(.*)", rf"{block}/norm\2/norm/\3"),
            (rf"{layer}\.downsample\.{conv}\.(.*)", rf"{block}/shortcut/\2"),
            (rf"{layer}\.downsample\.{norm}\.(.*)", rf"{block}/shortcut_norm/norm/\2"),
        ]
    return table


RESNETS = (
    Network(
        "resnet_tiny",
        partial(ResNet, depths=(1, 1, 1, 1), width=16, small_stem=True),
        _names(),
        trunk=Trunk("stage_2", 32),  # stride 8; of the others 16
        order=10,
    ),
    Network("resnet18", ResNet, _names(), trunk=Trunk("stage_2", 128), order=20),
    Network(
        "resnet34",
        partial(ResNet, depths=(3, 4, 6, 3)),
        _names(),
        trunk=Trunk("stage_2", 128),
        order=30,
    ),
    Network(
        "resnet50",
        partial(ResNet, depths=(3, 4, 6, 3), bottleneck=True),
        _names(),
        trunk=Trunk("stage_2", 512),
        order=40,
    ),
    Network(
        "resnet101",
        partial(ResNet, depths=(3, 4, 23, 3), bottleneck=True),
        _names(),
        trunk=Trunk("stage_2", 512),
        order=50,
    ),
    Network(
        "resnet50d",
        partial(ResNet, depths=(3, 4, 6, 3), bottleneck=True, deep_stem=True),
        _names(deep_stem=True),
        trunk=Trunk("stage_2", 512),
        order=51,
    ),
    Network(
        "resnext50_32x4d",
        partial(ResNet, depths=(3, 4, 6, 3), bottleneck=True, groups=32, inner=2),
        _names(),
        trunk=Trunk("stage_2", 512),
        order=52,
    ),
)
"""The post block of region grouping replaces the last stage."""
