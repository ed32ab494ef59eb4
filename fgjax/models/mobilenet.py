"""MobileNetV2: inverted residuals with linear bottlenecks.

Reference: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fgjax.models.layers import Conv, DepthwiseConv, Norm, Padding

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


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1. Input: normalised images, NHWC; stride 32 in all.

    `features` gives the last map (`n h/32 w/32 1280`), `head` the logits of it.
    """

    num_classes: int
    padding: Padding = "symmetric"
    dropout: float = 0.2
    dtype: Any = jnp.float32

    def setup(self):
        self.stem = Conv(32, 3, 2, self.padding, self.dtype)
        self.stem_norm = Norm(dtype=self.dtype)
        blocks = {}
        for stage, (expansion, features, repeats, stride) in enumerate(STAGES):
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
        """Every stage's output by name: "stem", "stage_0" … "stage_6", "features".

        Those after `last` are left out; a network that is only used so has no weights for them.
        """
        out = {"stem": (x := _relu6(self.stem_norm(self.stem(x), train)))}
        for stage, (_, _, repeats, _) in enumerate(STAGES):
            for i in range(repeats):
                x = self.blocks[f"{stage}_{i}"](x, train)
            out[f"stage_{stage}"] = x
            if last == f"stage_{stage}":
                return out
        out["features"] = _relu6(self.last_norm(self.last(x), train))
        return out

    def features(
        self, x: Float[Array, "n h w 3"], train: bool = False
    ) -> Float[Array, "n H W 1280"]:
        """The last feature map."""
        return self.intermediates(x, train)["features"]

    def head(
        self, features: Float[Array, "n H W 1280"], train: bool = False
    ) -> Float[Array, "n k"]:
        """Average pooling, dropout when training, and the linear classifier."""
        pooled = features.astype(jnp.float32).mean((1, 2))
        return self.classifier(self.drop(pooled, deterministic=not train))

    def __call__(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n k"]:
        return self.head(self.features(x, train), train)
