"""Swin: attention within windows, which every second block shifts.

Reference: Liu et al., Swin Transformer: Hierarchical Vision Transformer using Shifted Windows,
  2021.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fgjax.models.names import Table
from fgjax.models.networks.dense import Dense
from fgjax.models.networks.layers import computed_again
from fgjax.models.networks.tokens import (
    Attention,
    DropPath,
    LayerNorm,
    Mlp,
    Patchify,
    drop_path_rates,
    small,
)
from fgjax.models.registry import Network

FORBIDDEN = -100.0
"""Added to the scores of cells that are neighbours only because the map was rolled."""


def relative_places(rows: int, columns: int, window: int) -> Int[np.ndarray, "t t"]:
    """Return, for each pair of a window's cells, the place of their offset in a table for windows
    of `window` cells a side."""
    cells = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    cells = cells.reshape(-1, 2)
    offset = cells[:, None] - cells[None] + window - 1
    return offset[..., 0] * (2 * window - 1) + offset[..., 1]


def windows_of(x: Float[Array, "n h w d"], rows: int, columns: int) -> Float[Array, "m t d"]:
    """Return the map cut into windows, each a sequence of cells."""
    n, height, width, d = x.shape
    x = x.reshape(n, height // rows, rows, width // columns, columns, d)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows * columns, d)


def from_windows(
    x: Float[Array, "m t d"], rows: int, columns: int, height: int, width: int
) -> Float[Array, "n h w d"]:
    """Return the map that was cut into windows."""
    x = x.reshape(-1, height // rows, width // columns, rows, columns, x.shape[-1])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), height, width, -1)


def strangers(
    height: int, width: int, window: tuple[int, int], shift: tuple[int, int]
) -> Bool[np.ndarray, "windows t t"]:
    """Return which pairs of a rolled map's cells were no neighbours before."""

    def bands(size, side, step):
        band = np.zeros(size, int)
        band[size - side : size - step], band[size - step :] = 1, 2
        return band

    rows, columns = (
        bands(size, side, step)
        for size, side, step in zip((height, width), window, shift, strict=True)
    )
    region = (3 * rows[:, None] + columns[None]).astype(np.float32)
    cells = region.reshape(1, height // window[0], window[0], width // window[1], window[1])
    cells = cells.transpose(0, 1, 3, 2, 4).reshape(-1, window[0] * window[1])
    return cells[:, :, None] != cells[:, None]


class SwinBlock(nn.Module):
    """Attention within windows, then a perceptron, each behind a normalisation and around a
    shortcut.

    Where the map is no larger than a window along a side, the window is the map's and is not
    shifted along it; the table's biases of the smaller offsets are used.
    """

    heads: int
    window: int
    shifted: bool
    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w d"], train: bool) -> Float[Array, "n h w d"]:
        n, *sides, d = x.shape
        rows, columns = window = (min(sides[0], self.window), min(sides[1], self.window))
        step = lambda side: self.window // 2 if self.shifted and side > self.window else 0
        shift = (step(sides[0]), step(sides[1]))
        y = LayerNorm(1e-5, self.dtype, name="norm1")(x)
        y = jnp.roll(y, [-s for s in shift], (1, 2)) if any(shift) else y
        pads = [-side % w for side, w in zip(sides, window, strict=True)]
        y = jnp.pad(y, ((0, 0), (0, pads[0]), (0, pads[1]), (0, 0)))
        height, width = y.shape[1:3]
        table = self.param("bias", small, ((2 * self.window - 1) ** 2, self.heads), jnp.float32)
        bias = table[relative_places(rows, columns, self.window)].transpose(2, 0, 1)[None]
        if any(shift):
            apart = np.where(strangers(height, width, window, shift), np.float32(FORBIDDEN), 0)
            bias = bias + jnp.asarray(np.tile(apart, (n, 1, 1))[:, None], jnp.float32)
        y = windows_of(y, rows, columns)
        y, _ = Attention(self.heads, dtype=self.dtype, name="attention")(y, bias=bias)
        y = from_windows(y, rows, columns, height, width)[:, : sides[0], : sides[1]]
        y = jnp.roll(y, shift, (1, 2)) if any(shift) else y
        x = x + DropPath(self.drop_path)(y, train)
        y = Mlp(4 * d, dtype=self.dtype, name="mlp")(LayerNorm(1e-5, self.dtype, name="norm2")(x))
        return x + DropPath(self.drop_path)(y, train)


class Merge(nn.Module):
    """Four neighbours become one cell of twice the width."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w d"]) -> Float[Array, "n H W e"]:
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        n, height, width, d = x.shape
        x = x.reshape(n, height // 2, 2, width // 2, 2, d).transpose(0, 1, 3, 4, 2, 5)
        x = LayerNorm(1e-5, self.dtype, name="norm")(x.reshape(n, height // 2, width // 2, 4 * d))
        return Dense(2 * d, use_bias=False, dtype=self.dtype, kernel_init=small, name="reduction")(
            x
        )


class Swin(nn.Module):
    """Swin. Input: normalised images, NHWC; stride 32 in all.

    `features` gives the last map, normalised, and `head` the logits of it.

    Attributes:
      num_classes: k.
      width: of the first stage; every next one has twice that.
      depths, heads: of the four stages.
      window: cells along the side of a window.
      drop_path: the last block's chance to be left out in a training step.
      checkpointing: blocks are computed again on the way back, see `computed_again`.
    """

    num_classes: int
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    drop_path: float = 0.0
    padding: str = "symmetric"
    dtype: Any = jnp.float32
    checkpointing: bool = False

    def setup(self) -> None:
        block = computed_again(SwinBlock, self.checkpointing)
        rates = iter(drop_path_rates(self.drop_path, sum(self.depths)))
        self.stem = Patchify(self.width, 4, dtype=self.dtype)
        self.stem_norm = LayerNorm(1e-5, self.dtype)
        self.merges = {f"{stage}": Merge(self.dtype) for stage in range(1, len(self.depths))}
        self.blocks = {
            f"{stage}_{i}": block(heads, self.window, i % 2 == 1, next(rates), self.dtype)
            for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True))
            for i in range(depth)
        }
        self.norm = LayerNorm(1e-5, self.dtype)
        self.classifier = nn.Dense(self.num_classes, dtype=jnp.float32)

    def intermediates(
        self, x: Float[Array, "n h w 3"], train: bool = False
    ) -> dict[str, Float[Array, "n ..."]]:
        """Return every stage's output by name: "stem", "stage_0" … "stage_3", "features"."""
        fill = [-side % 4 for side in x.shape[1:3]]
        x = jnp.pad(x, ((0, 0), (0, fill[0]), (0, fill[1]), (0, 0)))
        out = {"stem": (x := self.stem_norm(self.stem(x)))}
        for stage, depth in enumerate(self.depths):
            x = self.merges[f"{stage}"](x) if stage else x
            for i in range(depth):
                x = self.blocks[f"{stage}_{i}"](x, train)
            out[f"stage_{stage}"] = x
        out["features"] = self.norm(x)
        return out

    def features(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n H W d"]:
        """Return the last feature map."""
        return self.intermediates(x, train)["features"]

    def head(self, features: Float[Array, "n H W d"], train: bool = False) -> Float[Array, "n k"]:
        """Return average pooling and the linear classifier."""
        return self.classifier(features.astype(jnp.float32).mean((1, 2)))

    def __call__(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n k"]:
        return self.head(self.features(x, train), train)


def _names() -> Table:
    """Return timm's names."""
    block, ours = r"layers\.(\d+)\.blocks\.(\d+)", r"blocks_\1_\2"
    return [
        (r"patch_embed\.proj\.(.*)", r"stem/\1"),
        (r"patch_embed\.norm\.(.*)", r"stem_norm/\1"),
        (r"layers\.(\d+)\.downsample\.(norm|reduction)\.(.*)", r"merges_\1/\2/\3"),
        (rf"{block}\.attn\.relative_position_bias_table", rf"{ours}/bias"),
        (rf"{block}\.attn\.relative_position_index", r""),
        (rf"{block}\.attn_mask", r""),
        (rf"{block}\.norm(\d)\.(.*)", rf"{ours}/norm\3/\4"),
        (rf"{block}\.attn\.(qkv|proj)\.(.*)", rf"{ours}/attention/\3/\4"),
        (rf"{block}\.mlp\.(fc\d)\.(.*)", rf"{ours}/mlp/\3/\4"),
        (r"norm\.(.*)", r"norm/\1"),
        (r"head\.fc\.(.*)", r"classifier/\1"),
    ]


_SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(),
    "small": dict(depths=(2, 2, 18, 2)),
    "base": dict(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
    "large": dict(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48)),
}


def _window(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return what the biases of a file's first block say of the windows."""
    shape = shapes.get("params/blocks_0_0/bias")
    return {} if shape is None else {"window": (round(shape[0] ** 0.5) + 1) // 2}


SWINS = tuple(
    Network(
        f"swin_{size}_patch4_window{window}_{pixels}",
        partial(Swin, **options, window=window),
        _names(),
        reads=_window,
        order=130,
    )
    for size, options in _SIZES.items()
    for window, pixels in ((7, 224), (12, 384))
    if window == 7 or size in ("base", "large")
)
