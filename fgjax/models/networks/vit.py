"""Vision transformers: ViT, DeiT's and big_vision's kin, DINOv2, DINOv3, the image towers of CLIP.

They differ in few things: class token, registers, how positions are told, LayerScale, the
perceptron and the pooling. A network is called as timm calls it.

References:
  Dosovitskiy et al., An Image is Worth 16x16 Words, 2021.
  Oquab et al., DINOv2, 2023. Darcet et al., Vision Transformers Need Registers, 2024.
  Siméoni et al., DINOv3, 2025 (rotary positions).
  Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021.
  Stevens et al., BioCLIP: A Vision Foundation Model for the Tree of Life, 2024.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from fgjax.core.features import Attended, Features
from fgjax.models.classifier import Classifier
from fgjax.models.networks.layers import computed_again
from fgjax.models.networks.tokens import (
    ActivationKind,
    Attention,
    DropPath,
    LayerNorm,
    Mlp,
    Patchify,
    Scale,
    drop_path_rates,
    resample_position,
    small,
)
from fgjax.models.networks.zero_shot import CosineHead


class Block(nn.Module):
    """Attention, then a perceptron, each behind a normalisation and around a shortcut."""

    heads: int
    hidden: int
    activation: ActivationKind
    gate: Literal["packed", "split"] | None
    qkv_bias: bool
    layer_scale: float | None
    epsilon: float
    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n t d"],
        train: bool,
        turn: Callable[[Array], Array],
        tap: Float[Array, "n h a t"] | None = None,
        asks: int | None = None,
    ) -> tuple[Float[Array, "n a d"], Float[Array, "n h a t"]]:
        """Return tokens and attention weights; with `asks` those of the first so many tokens."""

        def add(x, branch, number):
            if self.layer_scale is not None:
                branch = Scale(self.layer_scale, self.dtype, name=f"scale{number}")(branch)
            return x + DropPath(self.drop_path)(branch, train)

        attention = Attention(self.heads, self.qkv_bias, self.dtype, name="attention")
        normal = LayerNorm(self.epsilon, self.dtype, name="norm1")(x)
        y, weights = attention(normal, turn, tap=tap, asks=asks)
        x = add(x[:, :asks], y, 1)
        mlp = Mlp(self.hidden, self.activation, self.gate, self.dtype, name="mlp")
        return add(x, mlp(LayerNorm(self.epsilon, self.dtype, name="norm2")(x)), 2), weights


class VisionTransformer(nn.Module):
    """A vision transformer. Input: normalised images, NHWC, sides multiples of the patch.

    `features` gives the last grid that is mixed with what the head reads. Behind the last block
    the head of a class token reads that token alone, and no cell of the grid has a gradient: so
    it is the grid before the last block, and `head` begins with that block. With average pooling
    it is the grid that is averaged.

    Attributes:
      num_classes: k.
      patch: side of a patch in pixels.
      width, depth, heads: of the blocks.
      hidden: width of the perceptrons.
      grid: side, in patches, of the images that positions were learned for; for others they are
        resampled. 0: they are not learned but rotary, as in DINOv3.
      class_token, registers: tokens beside the grid.
      place_class: the learned positions have one for the class token.
      pool: what the classifier reads: the class token, or the mean of the grid.
      norm_last: the last normalisation comes after the mean, not before.
      norm_first: a normalisation before the first block, and patches without a bias (CLIP).
      layer_scale: how LayerScale begins; None: without.
      gate: of the perceptrons, see `Mlp`.
      drop_path: the last block's chance to be left out in a training step.
      checkpointing: blocks are computed again on the way back, see `computed_again`.
      embedding: width of the space that images share with texts: the head is the cosine to
        the texts of the classes. None: it is a linear layer.
    """

    num_classes: int
    patch: int = 16
    width: int = 384
    depth: int = 12
    heads: int = 6
    hidden: int = 1536
    grid: int = 14
    class_token: bool = True
    registers: int = 0
    place_class: bool = True
    pool: Literal["token", "mean"] = "token"
    norm_last: bool = False
    norm_first: bool = False
    activation: ActivationKind = "gelu"
    gate: Literal["packed", "split"] | None = None
    qkv_bias: bool = True
    layer_scale: float | None = None
    epsilon: float = 1e-6
    drop_path: float = 0.0
    embedding: int | None = None
    padding: str = "symmetric"
    dtype: Any = jnp.float32
    checkpointing: bool = False

    def setup(self) -> None:
        block = computed_again(Block, self.checkpointing, static=(2, 3))
        self.patches = Patchify(self.width, self.patch, not self.norm_first, self.dtype)
        if self.class_token:
            self.class_tokens = self.param("cls_token", small, (1, 1, self.width), jnp.float32)
        if self.registers:
            shape = (1, self.registers, self.width)
            self.register_tokens = self.param("reg_token", small, shape, jnp.float32)
        if self.grid:
            shape = (1, self.grid**2 + self.placed, self.width)
            self.positions = self.param("pos_embed", small, shape, jnp.float32)
        norm = partial(LayerNorm, self.epsilon, self.dtype)
        if self.norm_first:
            self.norm_pre = norm()
        self.blocks = [
            block(
                self.heads, self.hidden, self.activation, self.gate, self.qkv_bias,
                self.layer_scale, self.epsilon, rate, self.dtype,
            )
            for rate in drop_path_rates(self.drop_path, self.depth)
        ]  # fmt: skip
        self.norm = norm()
        self.classifier: nn.Module
        if self.embedding is None:
            self.classifier = nn.Dense(self.num_classes, dtype=jnp.float32)
        else:
            self.classifier = CosineHead(self.num_classes, self.embedding)

    @property
    def placed(self) -> int:
        """Tokens beside the grid that have a learned position."""
        return int(self.class_token and self.place_class)

    @property
    def others(self) -> int:
        """Tokens beside the grid."""
        return int(self.class_token) + self.registers

    def _embed(self, x):
        """Return patches and other tokens as one sequence, with their positions, and the grid."""
        if any(side % self.patch for side in x.shape[1:3]):
            raise ValueError(
                f"images of {x.shape[1]} x {x.shape[2]} px: a network with patches of {self.patch} "
                "px takes sides that are multiples of that"
            )
        x = self.patches(x)
        n, height, width, d = x.shape
        x = x.reshape(n, -1, d)
        beside = [self.class_tokens] if self.class_token else []
        beside += [self.register_tokens] if self.registers else []
        if self.grid:
            positions = resample_position(self.positions, self.placed, height, width)
            if self.placed:
                beside[0] = beside[0] + positions[:, :1]
            x = x + positions[:, self.placed :].astype(x.dtype)
        beside = [
            jnp.broadcast_to(token.astype(x.dtype), (n, *token.shape[1:])) for token in beside
        ]
        x = jnp.concatenate([*beside, x], axis=1)
        return self.norm_pre(x) if self.norm_first else x, (height, width)

    def _turn(self, grid: tuple[int, int]) -> Callable[[Array], Array]:
        if self.grid:
            return lambda x: x
        return partial(rotate, angles=rotary_angles(*grid, self.width // self.heads))

    def _split(self, x, grid):
        return Features(x[:, self.others :].reshape(len(x), *grid, -1), x[:, : self.others])

    def _pooled(self, features: Features):
        """Return what the classifier reads of what the last block gave."""
        if self.pool == "token":
            return self.norm(features.tokens[:, 0])
        if self.norm_last:
            return self.norm(features.grid.astype(jnp.float32).mean((1, 2)))
        return self.norm(features.grid).astype(jnp.float32).mean((1, 2))

    def intermediates(
        self, x: Float[Array, "n h w 3"], train: bool = False
    ) -> dict[str, Float[Array, "n H W d"]]:
        """Return the grid after every stage by name: "stem", "block_0" …, "features"."""
        x, grid = self._embed(x)
        out, turn = {"stem": self._split(x, grid).grid}, self._turn(grid)
        for i, block in enumerate(self.blocks):
            x, _ = block(x, train, turn)
            out[f"block_{i}"] = self._split(x, grid).grid
        last = self.depth - 2 if self.pool == "token" else self.depth - 1
        out["features"] = out[f"block_{last}"] if last >= 0 else out["stem"]
        return out

    def features(self, x: Float[Array, "n h w 3"], train: bool = False) -> Features:
        """Return the last grid that is mixed with what the head reads, and the other tokens."""
        return self._through(x, train, self.depth - (self.pool == "token"))

    def before_last_block(self, x: Float[Array, "n h w 3"], train: bool = False) -> Features:
        """Return what goes into the last block."""
        return self._through(x, train, self.depth - 1)

    def _through(self, x, train, blocks):
        x, grid = self._embed(x)
        turn = self._turn(grid)
        for block in self.blocks[:blocks]:
            x, _ = block(x, train, turn)
        return self._split(x, grid)

    def ask_last_block(
        self,
        asking: Float[Array, "k d"],
        features: Features,
        train: bool = False,
        tap: Float[Array, "n g k t"] | None = None,
    ) -> tuple[Float[Array, "n k d"], Float[Array, "n g k t"]]:
        """Return what the last block makes of further tokens beside an image's own, normalised, and
        what they looked at: each other, then the image's tokens, then its grid row by row.

        Args:
          features: of `before_last_block`.
          tap: added to the attention weights of the further tokens.
        """
        n, height, width, d = features.grid.shape
        more = jnp.broadcast_to(asking[None], (n, *asking.shape))
        tokens = (more, features.tokens, features.grid.reshape(n, -1, d))
        x = jnp.concatenate([part.astype(self.dtype) for part in tokens], axis=1)
        turn = self._turn((height, width))
        x, weights = self.blocks[-1](x, train, turn, tap, asks=len(asking))
        return self.norm(x), weights

    def head(self, features: Features, train: bool = False) -> Float[Array, "n k"]:
        """Return the last block (of a network with a class token), pooling and the classifier."""
        features = Features(*features)
        if self.pool == "token":
            n, height, width, d = features.grid.shape
            grid = (height, width)
            x = jnp.concatenate([features.tokens, features.grid.reshape(n, -1, d)], axis=1)
            x, _ = self.blocks[-1](x.astype(self.dtype), train, self._turn(grid))
            features = self._split(x, grid)
        return self.classifier(self._pooled(features).astype(jnp.float32))

    def attend(self, x: Float[Array, "n h w 3"], taps: list[Array] | None = None) -> Attended:
        """Return the logits, every block's attention weights, and which tokens are read.

        Args:
          taps: what is added to each block's weights; zeros, to differentiate by them.
        """
        x, grid = self._embed(x)
        turn, weights = self._turn(grid), []
        for i, block in enumerate(self.blocks):
            x, w = block(x, False, turn, None if taps is None else taps[i])
            weights.append(w)
        logits = self.classifier(self._pooled(self._split(x, grid)).astype(jnp.float32))
        readout = np.zeros(x.shape[1], np.float32)
        if self.pool == "token":
            readout[0] = 1
        else:
            readout[self.others :] = 1 / (grid[0] * grid[1])
        return Attended(logits, weights, jnp.tile(readout, (len(x), 1)))

    def __call__(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n k"]:
        return self.head(self.features(x, train), train)


@struct.dataclass
class TransformerClassifier(Classifier):
    """A classifier that says what its tokens looked at."""

    def attend(
        self, images: Float[Array | np.ndarray, "n h w 3"], taps: list[Array] | None = None
    ) -> Attended:
        """Return the logits and every block's attention weights, see `Attended`.

        Args:
          taps: what is added to each block's weights; zeros, to differentiate by them.
        """
        return self._apply(self.normalise(images), taps, method="attend")


def rotary_angles(height: int, width: int, size: int) -> Float[np.ndarray, "cells size"]:
    """Return the angle by which each pair of channels is turned at each cell, as DINOv3 has them.

    Cells lie at their centres, in [-1, 1] along each side; a half of the pairs turns with the row,
    the other with the column, with periods from 1 to 100 in geometric steps.
    """
    along = lambda side: (2 * (np.arange(side) + 0.5) / side - 1).astype(np.float32)
    cells = np.stack(np.meshgrid(along(height), along(width), indexing="ij"), axis=-1)
    quarter = size // 4
    periods = np.float32(100) ** (np.arange(quarter, dtype=np.float32) * 2 / (size // 2))
    angles = 2 * np.pi * cells.reshape(-1, 2, 1) / periods
    return np.tile(angles.reshape(len(angles), -1), (1, 2)).astype(np.float32)


def rotate(
    x: Float[Array, "n h t d"], angles: Float[np.ndarray, "cells d"]
) -> Float[Array, "n h t d"]:
    """Turn pairs of channels (i, i + d/2) by their angles; tokens before the grid stay.

    Reference: Su et al., RoFormer, 2021.
    """
    beside = x.shape[2] - len(angles)
    grid = x[:, :, beside:]
    half = x.shape[-1] // 2
    turned = jnp.concatenate([-grid[..., half:], grid[..., :half]], axis=-1)
    cos, sin = (jnp.asarray(f(angles), x.dtype)[None, None] for f in (np.cos, np.sin))
    return jnp.concatenate([x[:, :, :beside], grid * cos + turned * sin], axis=2)
