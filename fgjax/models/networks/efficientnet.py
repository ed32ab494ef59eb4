"""EfficientNet: MobileNet's blocks with squeeze and excitation, grown in width and depth together.

References:
  Tan & Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019.
  Hu et al., Squeeze-and-Excitation Networks, 2018.
"""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fgjax.models.names import Table
from fgjax.models.networks.layers import Conv, DepthwiseConv, Norm, Padding
from fgjax.models.networks.tokens import Activation, DropPath, Fixed, drop_path_rates
from fgjax.models.registry import Network, Trunk

STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
          (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip
"""Table 1 of the paper, B0: expansion, channels, blocks, stride of the first block, kernel."""


def grown(channels: int, factor: float) -> int:
    """Return the channels times the factor, to the nearest multiple of 8, not below 90 %."""
    wanted = channels * factor
    found = max(8, int(wanted + 4) // 8 * 8)
    return found + 8 if found < 0.9 * wanted else found


class MbConv(nn.Module):
    """Expand 1x1, depthwise, squeeze and excite, project 1x1; added to its input where shapes
    agree."""

    features: int
    expansion: int
    stride: int
    kernel: int
    drop_path: float
    padding: Padding
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n H W d"]:
        norm = lambda name: Norm(self.dtype, self.epsilon, name=f"{name}_norm")
        act, y, inner = Activation("silu"), x, x.shape[-1] * self.expansion
        if self.expansion != 1:
            y = Conv(inner, 1, dtype=self.dtype, name="expand")(y)
            y = act(norm("expand")(y, train))
        y = DepthwiseConv(self.kernel, self.stride, self.padding, self.dtype, name="depthwise")(y)
        y = act(norm("depthwise")(y, train))
        squeezed = y.astype(jnp.float32).mean((1, 2), keepdims=True).astype(self.dtype)
        dense = partial(Conv, kernel=1, dtype=self.dtype, bias=True)
        gate = dense(inner, name="excite")(act(dense(x.shape[-1] // 4, name="squeeze")(squeezed)))
        y = Fixed()(jax.nn.sigmoid(gate)) * y
        y = Conv(self.features, 1, dtype=self.dtype, name="project")(y)
        y = norm("project")(y, train)
        if self.stride != 1 or x.shape[-1] != self.features:
            return y
        return x + DropPath(self.drop_path)(y, train)


class EfficientNet(nn.Module):
    """EfficientNet. Input: normalised images, NHWC; stride 32 in all.

    `features` gives the last map, `head` the logits of it.

    Attributes:
      num_classes: k.
      wider, deeper: factors of B0's channels and blocks.
      dropout: before the classifier.
      drop_path: the last block's chance to be left out in a training step.
    """

    num_classes: int
    wider: float = 1.0
    deeper: float = 1.0
    dropout: float = 0.2
    drop_path: float = 0.0
    epsilon: float = 1e-5
    padding: Padding = "symmetric"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.repeats = [math.ceil(self.deeper * stage[2]) for stage in STAGES]
        rates = iter(drop_path_rates(self.drop_path, sum(self.repeats)))
        self.stem = Conv(grown(32, self.wider), 3, 2, self.padding, self.dtype)
        self.stem_norm = Norm(self.dtype, self.epsilon)
        self.blocks = {
            f"{stage}_{i}": MbConv(
                grown(channels, self.wider), expansion, stride if i == 0 else 1, kernel,
                next(rates), self.padding, self.epsilon, self.dtype,
            )
            for stage, (expansion, channels, _, stride, kernel) in enumerate(STAGES)
            for i in range(self.repeats[stage])
        }  # fmt: skip
        self.last = Conv(grown(1280, self.wider), 1, dtype=self.dtype)
        self.last_norm = Norm(self.dtype, self.epsilon)
        self.activation = Activation("silu")
        self.drop = nn.Dropout(self.dropout)
        self.classifier = nn.Dense(self.num_classes, dtype=jnp.float32)

    def intermediates(
        self, x: Float[Array, "n h w 3"], train: bool = False, last: str = "features"
    ) -> dict[str, Float[Array, "n ..."]]:
        """Return every stage's output by name: "stem", "stage_0" … "stage_6", "features".

        Those after `last` are left out; a network that is only used so has no weights for them.
        """
        out = {"stem": (x := self.activation(self.stem_norm(self.stem(x), train)))}
        for stage, count in enumerate(self.repeats):
            for i in range(count):
                x = self.blocks[f"{stage}_{i}"](x, train)
            out[f"stage_{stage}"] = x
            if last == f"stage_{stage}":
                return out
        out["features"] = self.activation(self.last_norm(self.last(x), train))
        return out

    def features(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n H W d"]:
        """Return the last feature map."""
        return self.intermediates(x, train)["features"]

    def head(self, features: Float[Array, "n H W d"], train: bool = False) -> Float[Array, "n k"]:
        """Return average pooling, dropout when training, and the linear classifier."""
        pooled = features.astype(jnp.float32).mean((1, 2))
        return self.classifier(self.drop(pooled, deterministic=not train))

    def __call__(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n k"]:
        return self.head(self.features(x, train), train)


def _timm() -> Table:
    block, ours = r"blocks\.(\d+)\.(\d+)", r"blocks_\1_\2"
    # The first stage's blocks do not expand, and so count their layers otherwise.
    first, own = r"blocks\.0\.(\d+)", r"blocks_0_\1"
    return [
        (r"conv_stem\.(.*)", r"stem/\1"),
        (r"bn1\.(.*)", r"stem_norm/norm/\1"),
        (rf"{first}\.bn1\.(.*)", rf"{own}/depthwise_norm/norm/\2"),
        (rf"{first}\.conv_pw\.(.*)", rf"{own}/project/\2"),
        (rf"{first}\.bn2\.(.*)", rf"{own}/project_norm/norm/\2"),
        (rf"{block}\.conv_pw\.(.*)", rf"{ours}/expand/\3"),
        (rf"{block}\.bn1\.(.*)", rf"{ours}/expand_norm/norm/\3"),
        (rf"{block}\.conv_dw\.(.*)", rf"{ours}/depthwise/\3"),
        (rf"{block}\.bn2\.(.*)", rf"{ours}/depthwise_norm/norm/\3"),
        (rf"{block}\.se\.conv_reduce\.(.*)", rf"{ours}/squeeze/\3"),
        (rf"{block}\.se\.conv_expand\.(.*)", rf"{ours}/excite/\3"),
        (rf"{block}\.conv_pwl\.(.*)", rf"{ours}/project/\3"),
        (rf"{block}\.bn3\.(.*)", rf"{ours}/project_norm/norm/\3"),
        (r"conv_head\.(.*)", r"last/\1"),
        (r"bn2\.(.*)", r"last_norm/norm/\1"),
        (r"classifier\.(\w+)", r"classifier/\1"),
    ]


def _torchvision() -> Table:
    table = [
        (r"features\.0\.0\.(.*)", r"stem/\1"),
        (r"features\.0\.1\.(.*)", r"stem_norm/norm/\1"),
        (r"features\.8\.0\.(.*)", r"last/\1"),
        (r"features\.8\.1\.(.*)", r"last_norm/norm/\1"),
        (r"classifier\.1\.(.*)", r"classifier/\1"),
    ]
    for stage, (expansion, *_) in enumerate(STAGES):
        block, ours = rf"features\.{stage + 1}\.(\d+)\.block", rf"blocks_{stage}_\1"
        layers = ["expand", "depthwise", "", "project"] if expansion > 1 else [
            "depthwise", "", "project"]  # fmt: skip
        for place, layer in enumerate(layers):
            if not layer:
                table += [
                    (rf"{block}\.{place}\.fc1\.(.*)", rf"{ours}/squeeze/\2"),
                    (rf"{block}\.{place}\.fc2\.(.*)", rf"{ours}/excite/\2"),
                ]
                continue
            table += [
                (rf"{block}\.{place}\.0\.(.*)", rf"{ours}/{layer}/\2"),
                (rf"{block}\.{place}\.1\.(.*)", rf"{ours}/{layer}_norm/norm/\2"),
            ]
    return table


GROWTH = ((1.0, 1.0, 0.2), (1.0, 1.1, 0.2), (1.1, 1.2, 0.3), (1.2, 1.4, 0.3), (1.4, 1.8, 0.4))
"""Of B0 … B4: wider, deeper, dropout."""

EFFICIENTNETS = (
    *(
        Network(
            f"efficientnet_b{number}",
            partial(EfficientNet, wider=wider, deeper=deeper, dropout=dropout),
            _timm() + _torchvision(),
            trunk=Trunk("stage_4", 128),
            order=140,
        )
        for number, (wider, deeper, dropout) in enumerate(GROWTH)
    ),
    *(
        Network(
            f"tf_efficientnet_b{number}",
            partial(
                EfficientNet,
                wider=wider,
                deeper=deeper,
                dropout=dropout,
                epsilon=1e-3,
                padding="same",
            ),
            _timm(),
            trunk=Trunk("stage_4", 128),
            reads=lambda shapes: {"padding": "same"},
            order=141,
        )
        for number, (wider, deeper, dropout) in enumerate(GROWTH)
    ),
)
"""Those called tf_ were trained with TensorFlow's padding and ε."""
