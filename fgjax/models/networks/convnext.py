"""ConvNeXt and its second version: depthwise 7x7 convolutions and perceptrons.

References:
  Liu et al., A ConvNet for the 2020s, 2022.
  Woo et al., ConvNeXt V2, 2023 (global response normalisation).
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fgjax.models.names import Table
from fgjax.models.networks.dense import Dense
from fgjax.models.networks.layers import Conv, DepthwiseConv, Padding, computed_again
from fgjax.models.networks.tokens import (
    Activation,
    DropPath,
    Fixed,
    LayerNorm,
    Patchify,
    Scale,
    drop_path_rates,
    small,
)
from fgjax.models.registry import Network, Trunk


class ResponseNorm(nn.Module):
    """Global response normalisation: channels compete by their norms over the map.

    x + γ x N(x) + β,    N(x)_c = ‖x_c‖ / (mean_c ‖x_c‖ + ε)   (Woo et al. 2023, section 3)
    """

    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        scale, bias = (
            self.param(name, nn.initializers.zeros, (x.shape[-1],), jnp.float32).astype(self.dtype)[
                None, None, None
            ]
            for name in ("scale", "bias")
        )
        squares = jnp.square(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
        # The tiny number keeps the root's gradient finite where a channel is 0 everywhere.
        norm = jnp.sqrt(squares.sum((1, 2), keepdims=True) + 1e-24)
        share = norm / (norm.mean(-1, keepdims=True) + self.epsilon)
        return x + scale * x * Fixed()(share).astype(x.dtype) + bias


class ConvNextBlock(nn.Module):
    """A depthwise convolution, a normalisation and a perceptron around a shortcut."""

    response_norm: bool
    pointwise: bool
    layer_scale: float | None
    drop_path: float
    padding: Padding
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h w c"]:
        width = x.shape[-1]

        def dense(width, name):
            if self.pointwise:
                return Conv(width, 1, dtype=self.dtype, bias=True, name=name)
            return Dense(width, dtype=self.dtype, kernel_init=small, name=name)

        y = DepthwiseConv(7, 1, self.padding, self.dtype, bias=True, name="depthwise")(x)
        y = LayerNorm(1e-6, self.dtype, name="norm")(y)
        y = Activation("gelu")(dense(4 * width, "fc1")(y))
        if self.response_norm:
            y = ResponseNorm(dtype=self.dtype, name="response_norm")(y)
        y = dense(width, "fc2")(y)
        if self.layer_scale is not None:
            y = Scale(self.layer_scale, self.dtype, name="scale")(y)
        return x + DropPath(self.drop_path)(y, train)


class ConvNext(nn.Module):
    """ConvNeXt. Input: normalised images, NHWC; stride 32 in all.

    `features` gives the last map, `head` the logits of it.

    Attributes:
      num_classes: k.
      depths, widths: of the four stages.
      response_norm: that of the second version, instead of LayerScale.
      pointwise: dense layers are kept as 1x1 convolutions, as in timm's files of small ones.
      layer_scale: how LayerScale begins; None: without.
      drop_path: the last block's chance to be left out in a training step.
      checkpointing: blocks are computed again on the way back, see `computed_again`.
    """

    num_classes: int
    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    response_norm: bool = False
    pointwise: bool = False
    layer_scale: float | None = 1e-6
    drop_path: float = 0.0
    padding: Padding = "symmetric"
    dtype: Any = jnp.float32
    checkpointing: bool = False

    def setup(self) -> None:
        block = computed_again(ConvNextBlock, self.checkpointing)
        rates = iter(drop_path_rates(self.drop_path, sum(self.depths)))
        self.stem = Patchify(self.widths[0], 4, dtype=self.dtype)
        self.stem_norm = LayerNorm(1e-6, self.dtype)
        blocks, shrink_norms, shrinks = {}, {}, {}
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if stage:
                shrink_norms[f"{stage}"] = LayerNorm(1e-6, self.dtype)
                shrinks[f"{stage}"] = Patchify(width, 2, dtype=self.dtype)
            for i in range(depth):
                blocks[f"{stage}_{i}"] = block(
                    self.response_norm, self.pointwise, self.layer_scale, next(rates),
                    self.padding, self.dtype,
                )  # fmt: skip
        self.shrink_norms, self.shrinks, self.blocks = shrink_norms, shrinks, blocks
        self.norm = LayerNorm(1e-6, jnp.float32)
        self.classifier = nn.Dense(self.num_classes, dtype=jnp.float32)

    def intermediates(
        self, x: Float[Array, "n h w 3"], train: bool = False, last: str = "features"
    ) -> dict[str, Float[Array, "n ..."]]:
        """Return every stage's output by name: "stem", "stage_0" … "stage_3", "features".

        Those after `last` are left out; a network that is only used so has no weights for them.
        """
        out = {"stem": (x := self.stem_norm(self.stem(x)))}
        for stage, depth in enumerate(self.depths):
            if stage:
                x = self.shrinks[f"{stage}"](self.shrink_norms[f"{stage}"](x))
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
        """Return average pooling, a normalisation and the linear classifier."""
        return self.classifier(self.norm(features.astype(jnp.float32).mean((1, 2))))

    def __call__(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n k"]:
        return self.head(self.features(x, train), train)


def _timm() -> Table:
    block, ours = r"stages\.(\d+)\.blocks\.(\d+)", r"blocks_\1_\2"
    return [
        (r"stem\.0\.(.*)", r"stem/\1"),
        (r"stem\.1\.(.*)", r"stem_norm/\1"),
        (r"stages\.(\d+)\.downsample\.0\.(.*)", r"shrink_norms_\1/\2"),
        (r"stages\.(\d+)\.downsample\.1\.(.*)", r"shrinks_\1/\2"),
        (rf"{block}\.gamma", rf"{ours}/scale/gamma"),
        (rf"{block}\.conv_dw\.(.*)", rf"{ours}/depthwise/\3"),
        (rf"{block}\.norm\.(.*)", rf"{ours}/norm/\3"),
        (rf"{block}\.mlp\.(fc\d)\.(.*)", rf"{ours}/\3/\4"),
        (rf"{block}\.mlp\.grn\.(.*)", rf"{ours}/response_norm/\3"),
        (r"head\.norm\.(.*)", r"norm/\1"),
        (r"head\.fc\.(.*)", r"classifier/\1"),
    ]


def _torchvision() -> Table:
    """Return torchvision's names: stages and what shrinks the map between them take turns."""
    table = [
        (r"features\.0\.0\.(.*)", r"stem/\1"),
        (r"features\.0\.1\.(.*)", r"stem_norm/\1"),
        (r"classifier\.0\.(.*)", r"norm/\1"),
        (r"classifier\.2\.(.*)", r"classifier/\1"),
    ]
    for stage in range(4):
        if stage:
            table += [
                (rf"features\.{2 * stage}\.0\.(.*)", rf"shrink_norms_{stage}/\1"),
                (rf"features\.{2 * stage}\.1\.(.*)", rf"shrinks_{stage}/\1"),
            ]
        block, ours = rf"features\.{2 * stage + 1}\.(\d+)", rf"blocks_{stage}_\1"
        table.append((rf"{block}\.layer_scale", rf"{ours}/scale/gamma"))
        layers = {0: "depthwise", 2: "norm", 3: "fc1", 5: "fc2"}
        table += [
            (rf"{block}\.block\.{place}\.(.*)", rf"{ours}/{layer}/\2")
            for place, layer in layers.items()
        ]
    return table


_FIRST: dict[str, Any] = {
    "tiny": dict(),
    "small": dict(depths=(3, 3, 27, 3)),
    "base": dict(depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024)),
    "large": dict(depths=(3, 3, 27, 3), widths=(192, 384, 768, 1536)),
}
_SECOND: dict[str, Any] = {
    "atto": dict(depths=(2, 2, 6, 2), widths=(40, 80, 160, 320), pointwise=True),
    "femto": dict(depths=(2, 2, 6, 2), widths=(48, 96, 192, 384), pointwise=True),
    "pico": dict(depths=(2, 2, 6, 2), widths=(64, 128, 256, 512), pointwise=True),
    "nano": dict(depths=(2, 2, 8, 2), widths=(80, 160, 320, 640), pointwise=True),
    **_FIRST,
}
# The post block of region grouping replaces the last stage.
CONVNEXTS = (
    *(
        Network(
            f"convnext_{size}",
            partial(ConvNext, **options),
            _timm() + _torchvision(),
            trunk=Trunk("stage_2", 256),
            order=120,
        )
        for size, options in _FIRST.items()
    ),
    *(
        Network(
            f"convnextv2_{size}",
            partial(ConvNext, **options, response_norm=True, layer_scale=None),
            _timm(),
            trunk=Trunk("stage_2", 128),
            order=121,
        )
        for size, options in _SECOND.items()
    ),
)
