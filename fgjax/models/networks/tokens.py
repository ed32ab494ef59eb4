"""Layers that transformers and their kin share: normalisation, attention, perceptrons, positions.

What a rule of relevance treats in its own way is a module of its own, also where it holds no
weights: `Activation`, `Attend`, `Fixed`, `Product`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fgjax.models.networks.dense import Dense

ActivationKind = Literal["gelu", "quick_gelu", "silu", "relu"]

ACTIVATIONS: dict[str, Callable] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}

small = nn.initializers.truncated_normal(0.02)
"""How the weights of a transformer begin."""


class Activation(nn.Module):
    """A function of each number by itself."""

    kind: ActivationKind = "gelu"

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return ACTIVATIONS[self.kind](x)


class Fixed(nn.Module):
    """Return what a rule of relevance takes for a constant: a deviation, a gate."""

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return x


class LayerNorm(nn.Module):
    """Normalisation over the channels, its statistics in float32."""

    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        wide = (1,) * (x.ndim - 1) + (-1,)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        x = centred / Fixed()(jnp.sqrt(variance + self.epsilon))
        return (x * scale.reshape(wide) + bias.reshape(wide)).astype(self.dtype)


class Scale(nn.Module):
    """LayerScale: every channel of a branch by a number of its own.

    Reference: Touvron et al., Going deeper with Image Transformers, 2021.
    """

    value: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        gamma = self.param("gamma", nn.initializers.constant(self.value), (x.shape[-1],))
        return x * gamma.astype(self.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class DropPath(nn.Module):
    """Leave a branch out for some images of a training step; the others' are scaled up.

    Reference: Huang et al., Deep Networks with Stochastic Depth, 2016.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "n ..."], train: bool) -> Float[Array, "n ..."]:
        if not train or self.rate == 0:
            return x
        shape = (len(x),) + (1,) * (x.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return jnp.where(kept, x / (1 - self.rate), 0).astype(x.dtype)


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Return the rate of each block: from 0 at the first, evenly, to `rate` at the last."""
    return [rate * i / max(1, depth - 1) for i in range(depth)]


class Patchify(nn.Module):
    """A convolution whose windows do not overlap, as the matrix product it is.

    Pixels right and below that fill no window are left out, as a convolution leaves them.
    """

    features: int
    patch: int
    bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n H W d"]:
        p, (n, h, w, c) = self.patch, x.shape
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (p, p, c, self.features))
        rows, columns = h // p, w // p
        x = x[:, : rows * p, : columns * p].astype(self.dtype)
        x = x.reshape(n, rows, p, columns, p, c).transpose(0, 1, 3, 2, 4, 5)
        y = x.reshape(-1, p * p * c) @ kernel.astype(self.dtype).reshape(-1, self.features)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)[None]
        return y.reshape(n, rows, columns, self.features)


class Mlp(nn.Module):
    """Two dense layers with an activation between, or the gated form, SwiGLU.

    Attributes:
      hidden: width between.
      gate: None, or how a gated form holds its two first layers: "packed" as one, the gate first;
        "split" as two.

    Reference: Shazeer, GLU Variants Improve Transformer, 2020.
    """

    hidden: int
    activation: ActivationKind = "gelu"
    gate: Literal["packed", "split"] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        dense = lambda width, name: Dense(width, dtype=self.dtype, kernel_init=small, name=name)
        act = Activation("silu" if self.gate else self.activation)
        if self.gate == "packed":
            gate, y = jnp.split(dense(2 * self.hidden, "fc1")(x), 2, axis=-1)
            y = Product()(act(gate), y)
        elif self.gate == "split":
            y = Product()(act(dense(self.hidden, "fc1_g")(x)), dense(self.hidden, "fc1_x")(x))
        else:
            y = act(dense(self.hidden, "fc1")(x))
        return dense(x.shape[-1], "fc2")(y)


class Product(nn.Module):
    """One array times another."""

    def __call__(self, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
        return a * b


def plain(product: Callable, a: Array, b: Array) -> Array:
    """Return a product as it is."""
    return product(a, b)


class Attend(nn.Module):
    """(softmax(q kᵀ/√d + bias) + tap) v: what attention does between its dense layers.

    Returns the sum, and the weights that it was made with.

    Attributes:
      product: how its two matrix products are made, `product(f, a, b)`; f(a, b) but for a rule of
        relevance.
    """

    product: Callable = plain

    def __call__(
        self,
        q: Float[Array, "n h t d"],
        k: Float[Array, "n h s d"],
        v: Float[Array, "n h s d"],
        bias: Float[Array, "m g t s"] | None = None,
        tap: Float[Array, "n h t s"] | None = None,
    ) -> tuple[Float[Array, "n h t d"], Float[Array, "n h t s"]]:
        compare, gather = (
            partial(jnp.einsum, "nhtd,nhsd->nhts"),
            partial(jnp.einsum, "nhts,nhsd->nhtd"),
        )
        scores = self.product(compare, q * q.shape[-1] ** -0.5, k)
        scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
        scores = scores if bias is None else scores + bias
        weights = jax.nn.softmax(scores, axis=-1)
        weights = weights if tap is None else weights + tap
        return self.product(gather, weights.astype(v.dtype), v), weights


class Attention(nn.Module):
    """Self-attention with several heads.

    Attributes:
      heads: how many.
      qkv_bias: whether queries, keys and values have a bias.
    """

    heads: int
    qkv_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n t d"],
        turn: Callable[[Array], Array] = lambda x: x,
        bias: Float[Array, "m g t t"] | None = None,
        tap: Float[Array, "n h a t"] | None = None,
        asks: int | None = None,
    ) -> tuple[Float[Array, "n a d"], Float[Array, "n h a t"]]:
        """Return the tokens' sums and the weights they were made with.

        Args:
          turn: of queries and keys, by their places.
          bias: added to the scores before the softmax.
          tap: added to the weights after it; zeros, to differentiate by the weights.
          asks: only the first a tokens have queries; None: all.
        """
        n, t, d = x.shape
        qkv = Dense(3 * d, use_bias=self.qkv_bias, dtype=self.dtype, kernel_init=small, name="qkv")(
            x
        )
        q, k, v = qkv.reshape(n, t, 3, self.heads, d // self.heads).transpose(2, 0, 3, 1, 4)
        y, weights = Attend()(turn(q)[:, :, :asks], turn(k), v, bias, tap)
        y = y.transpose(0, 2, 1, 3).reshape(n, -1, d)
        return Dense(d, dtype=self.dtype, kernel_init=small, name="proj")(y), weights


def resample_position(
    position: Float[Array, "1 p d"], others: int, height: int, width: int
) -> Float[Array, "1 q d"]:
    """Return position embeddings of a square grid for a grid of another size: bicubic, with
    antialiasing where it gets smaller.

    Args:
      others: tokens at the front that lie nowhere, which stay as they are.
    """
    front, grid = position[:, :others], position[:, others:]
    side, d = round(grid.shape[1] ** 0.5), grid.shape[-1]
    if (side, side) == (height, width):
        return position
    grid = grid.reshape(1, side, side, d)
    grid = jax.image.resize(grid, (1, height, width, d), "cubic", antialias=True)
    return jnp.concatenate([front, grid.reshape(1, -1, d)], axis=1)
