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

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from fgjax.core.features import Attended, Features
from fgjax.models.classifier import Classifier
from fgjax.models.names import Table
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
from fgjax.models.networks.zero_shot import CLIP_MEAN, CLIP_STD, CosineHead
from fgjax.models.registry import Network


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


def _timm(norm: str = "norm", scale: str = r"ls(\d)\.gamma") -> Table:
    """Return timm's names.

    Args:
      norm: what it calls the last normalisation; the other word is understood, too.
      scale: what it calls LayerScale; the other word is understood, too.
    """
    block, ours = r"blocks\.(\d+)", r"blocks_\1"
    norms = sorted(["norm", "fc_norm"], key=lambda word: word != norm)
    scales = sorted([r"ls(\d)\.gamma", r"gamma_(\d)"], key=lambda word: word != scale)
    return [
        (r"cls_token", r"cls_token"),
        (r"reg_token", r"reg_token"),
        (r"pos_embed", r"pos_embed"),
        (r"mask_token", r""),
        (r"rope\.periods", r""),
        (r"patch_embed\.proj\.(.*)", r"patches/\1"),
        (r"norm_pre\.(.*)", r"norm_pre/\1"),
        *((rf"{word}\.(.*)", r"norm/\1") for word in norms),
        (rf"{block}\.norm(\d)\.(.*)", rf"{ours}/norm\2/\3"),
        (rf"{block}\.attn\.(qkv|proj)\.(.*)", rf"{ours}/attention/\2/\3"),
        (rf"{block}\.mlp\.(fc\w+)\.(.*)", rf"{ours}/mlp/\2/\3"),
        *((rf"{block}\.{word}", rf"{ours}/scale\2/gamma") for word in scales),
        (r"head\.(.*)", r"classifier/\1"),
    ]


def _torchvision() -> Table:
    block, ours = r"encoder\.layers\.encoder_layer_(\d+)", r"blocks_\1"
    return [
        (r"class_token", r"cls_token"),
        (r"encoder\.pos_embedding", r"pos_embed"),
        (r"conv_proj\.(.*)", r"patches/\1"),
        (r"encoder\.ln\.(.*)", r"norm/\1"),
        (rf"{block}\.ln_(\d)\.(.*)", rf"{ours}/norm\2/\3"),
        (rf"{block}\.self_attention\.in_proj_(.*)", rf"{ours}/attention/qkv/\2"),
        (rf"{block}\.self_attention\.out_proj\.(.*)", rf"{ours}/attention/proj/\2"),
        (rf"{block}\.mlp\.(?:0|linear_1)\.(.*)", rf"{ours}/mlp/fc1/\2"),
        (rf"{block}\.mlp\.(?:3|linear_2)\.(.*)", rf"{ours}/mlp/fc2/\2"),
        (r"heads\.head\.(.*)", r"classifier/\1"),
    ]


def _open_clip() -> Table:
    """Return the names of a whole CLIP, and of BioCLIP: its text tower is left out."""
    block, ours = r"visual\.transformer\.resblocks\.(\d+)", r"blocks_\1"
    return [
        (r"visual\.class_embedding", r"cls_token"),
        (r"visual\.positional_embedding", r"pos_embed"),
        (r"visual\.conv1\.(.*)", r"patches/\1"),
        (r"visual\.ln_pre\.(.*)", r"norm_pre/\1"),
        (r"visual\.ln_post\.(.*)", r"norm/\1"),
        (r"visual\.proj", r"classifier/projection"),
        (rf"{block}\.ln_(\d)\.(.*)", rf"{ours}/norm\2/\3"),
        (rf"{block}\.attn\.in_proj_(.*)", rf"{ours}/attention/qkv/\2"),
        (rf"{block}\.attn\.out_proj\.(.*)", rf"{ours}/attention/proj/\2"),
        (rf"{block}\.mlp\.c_fc\.(.*)", rf"{ours}/mlp/fc1/\2"),
        (rf"{block}\.mlp\.c_proj\.(.*)", rf"{ours}/mlp/fc2/\2"),
        (r"logit_scale", r"classifier/logit_scale"),
        (r"(?:transformer|token_embedding|ln_final)\..*", r""),
        (r"positional_embedding|text_projection|attn_mask|logit_bias|text\..*", r""),
    ]


def _hugging_face() -> Table:
    """Return the names of transformers' CLIPModel; queries, keys and values are apart there."""
    block, ours = r"vision_model\.encoder\.layers\.(\d+)", r"blocks_\1"
    return [
        (r"vision_model\.embeddings\.class_embedding", r"cls_token"),
        (r"vision_model\.embeddings\.position_embedding\.weight", r"pos_embed"),
        (r"vision_model\.embeddings\.patch_embedding\.(.*)", r"patches/\1"),
        (r"vision_model\.pre_layrnorm\.(.*)", r"norm_pre/\1"),
        (r"vision_model\.post_layernorm\.(.*)", r"norm/\1"),
        (r"visual_projection\.weight", r"classifier/projection:T"),
        (rf"{block}\.layer_norm(\d)\.(.*)", rf"{ours}/norm\2/\3"),
        *(
            (rf"{block}\.self_attn\.{q}_proj\.(.*)", rf"{ours}/attention/qkv/\2:{i}")
            for i, q in enumerate("qkv")
        ),
        (rf"{block}\.self_attn\.out_proj\.(.*)", rf"{ours}/attention/proj/\2"),
        (rf"{block}\.mlp\.(fc\d)\.(.*)", rf"{ours}/mlp/\2/\3"),
        (r"(?:text_model|text_projection)\..*|.*\.position_ids", r""),
    ]


def _made_with(placed: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return what a file says of the grid its positions were learned for, and of a space that
    images share with texts."""
    found = {}
    if (shape := shapes.get("params/pos_embed")) is not None:
        found["grid"] = round((shape[-2] - placed) ** 0.5)
    if "params/classifier/kernel" in shapes and "params/classifier/projection" in shapes:
        found["embedding"] = shapes["params/classifier/projection"][-1]
    return found


def _vit(name: str, names: Table, *, mean: Any = None, std: Any = None, **options: Any) -> Network:
    make = partial(VisionTransformer, **options)
    placed = make(num_classes=1).placed
    known: dict[str, Any] = {} if mean is None else dict(mean=mean, std=std)
    reads = partial(_made_with, placed)
    return Network(
        name, make, names, reads=reads, classifier=TransformerClassifier, tokens=True, order=200,
        **known,
    )  # fmt: skip


SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(width=192, depth=12, heads=3, hidden=768),
    "small": dict(width=384, depth=12, heads=6, hidden=1536),
    "base": dict(width=768, depth=12, heads=12, hidden=3072),
    "large": dict(width=1024, depth=24, heads=16, hidden=4096),
    "giant": dict(width=1536, depth=40, heads=24, hidden=4096),
}
_HALF: dict[str, Any] = dict(mean=(0.5,) * 3, std=(0.5,) * 3)
_CLIP: dict[str, Any] = dict(mean=CLIP_MEAN, std=CLIP_STD)


def _plain() -> list[Network]:
    made = [("tiny", 16), ("small", 16), ("small", 32), ("base", 16), ("base", 32), ("large", 14),
            ("large", 16)]  # fmt: skip
    return [
        _vit(
            f"vit_{size}_patch{patch}_224",
            _timm() + _torchvision(),
            **_HALF,
            patch=patch,
            grid=224 // patch,
            **SIZES[size],
        )
        for size, patch in made
    ]


def _averaged() -> list[Network]:
    """Without a class token."""
    mean: dict[str, Any] = dict(class_token=False, pool="mean", **_HALF)
    return [
        _vit("vit_base_patch16_siglip_gap_224", _timm(), **mean, **SIZES["base"]),
        _vit(
            "vit_base_patch16_reg4_gap_256",
            _timm("fc_norm"),
            **mean,
            **SIZES["base"],
            grid=16,
            registers=4,
            norm_last=True,
        ),
    ]


def _dino() -> list[Network]:
    second: dict[str, Any] = dict(patch=14, grid=37, layer_scale=1e-5)
    third: dict[str, Any] = dict(
        grid=0, registers=4, pool="mean", qkv_bias=False, layer_scale=1e-5, epsilon=1e-5
    )
    rotary = _timm(scale=r"gamma_(\d)")
    found = []
    for size in ("small", "base", "large", "giant"):
        options = second | SIZES[size] | ({"gate": "packed"} if size == "giant" else {})
        found += [
            _vit(f"vit_{size}_patch14_dinov2", _timm(), **options),
            _vit(
                f"vit_{size}_patch14_reg4_dinov2",
                _timm(),
                **options,
                registers=4,
                place_class=False,
            ),
        ]
    for size in ("small", "base", "large"):
        found.append(_vit(f"vit_{size}_patch16_dinov3", rotary, **third, **SIZES[size]))
    plus = third | SIZES["small"] | {"gate": "split"}
    return [*found, _vit("vit_small_plus_patch16_dinov3", rotary, **plus)]


def _clip() -> list[Network]:
    made = [("base", 32), ("base", 16), ("large", 14)]
    return [
        _vit(
            f"vit_{size}_patch{patch}_clip{act and '_quickgelu'}_224",
            _timm() + _open_clip() + _hugging_face(),
            **_CLIP,
            patch=patch,
            grid=224 // patch,
            norm_first=True,
            epsilon=1e-5,
            activation="quick_gelu" if act else "gelu",
            **SIZES[size],
        )
        for size, patch in made
        for act in ("", "quick_gelu")
    ]


def _ours() -> list[Network]:
    """Return a network small enough to be trained from scratch in minutes, on images of 96 px."""
    small = dict(patch=8, width=96, depth=4, heads=4, hidden=192, grid=12)
    return [_vit("vit_tiny", _timm(), **small)]


VITS = (*_ours(), *_plain(), *_averaged(), *_dino(), *_clip())
"""BioCLIP is vit_base_patch16_clip_224, BioCLIP 2 vit_large_patch14_clip_224; OpenAI's CLIPs are
the "quickgelu" ones."""
