"""A classifier that groups pixels into parts, and says how much each part counts.

Reference: Huang and Li, Interpretable and Accurate Fine-grained Recognition via Region
Grouping, CVPR 2020, section 3.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from fgjax.models.classifier import Classifier
from fgjax.models.composed.grouping import group_pixels, pixel_attribution
from fgjax.models.networks.layers import Conv, Norm, Padding
from fgjax.models.registry import NETWORKS, Network, choose


def has_trunk(network: Network) -> bool:
    """Return whether parts can be found in a network, cut off at its `trunk`."""
    return network.trunk is not None


class Regions(NamedTuple):
    """What the network finds in images. With attribute heads, an `a` axis per attribute.

    Attributes:
      logits: as of any classifier, float32.
      assignment: q of Eq. 1, the share of each part in every cell of the map.
      attention: a, how much each part counts; positive, sums to 1 over the parts.
      attribution: Qᵀa, how much each cell counts (section 3.3, "Pixel Attribution").
    """

    logits: Float[Array, "n c"]
    assignment: Float[Array, "n h w k"]
    attention: Float[Array, "n *a k"]
    attribution: Float[Array, "n *a h w"]


class Grouping(nn.Module):
    """The part dictionary: assignment and region features of a map (Eqs. 1 and 3).

    σ = sigmoid(s) with s = 0 at first; part vectors begin as Kaiming's, not below 1e-5.
    """

    num_parts: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w d"]
    ) -> tuple[Float[Array, "n h w k"], Float[Array, "n k d"]]:
        def kaiming(key, shape, dtype):
            drawn = jax.random.normal(key, shape, dtype) * (2 / shape[1]) ** 0.5
            return jnp.maximum(drawn, 1e-5)

        dictionary = self.param("dictionary", kaiming, (self.num_parts, x.shape[-1]), jnp.float32)
        s = self.param("smoothing", nn.initializers.zeros, (self.num_parts,), jnp.float32)
        return group_pixels(x, dictionary, jax.nn.sigmoid(s))


class PointBlock(nn.Module):
    """Three 1x1 convolutions around a shortcut; `n k 1 d`, a part a row."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n k 1 d"], train: bool) -> Float[Array, "n k 1 e"]:
        y, out = x, 4 * self.width
        for i, features in enumerate((self.width, self.width, out), start=1):
            y = Conv(features, 1, dtype=self.dtype, name=f"conv{i}")(y)
            y = Norm(self.dtype, name=f"norm{i}")(y, train)
            y = nn.relu(y) if i < 3 else y
        if x.shape[-1] != out:
            x = Conv(out, 1, dtype=self.dtype, name="shortcut")(x)
            x = Norm(self.dtype, name="shortcut_norm")(x, train)
        return nn.relu(x + y)


class PostBlock(nn.Module):
    """f_z: bottlenecks of 1x1 convolutions, one part after the other."""

    width: int
    dtype: Any
    blocks: int = 4

    @nn.compact
    def __call__(self, z: Float[Array, "n k 1 d"], train: bool) -> Float[Array, "n k 1 e"]:
        for i in range(self.blocks):
            z = PointBlock(self.width, self.dtype, name=f"block{i + 1}")(z, train)
        return z


class PartAttention(nn.Module):
    """f_a: 1x1 convolutions to 256, 32 and 1 value a part, each normalised and rectified, and a
    softmax over the parts."""

    dtype: Any

    @nn.compact
    def __call__(self, z: Float[Array, "n k 1 d"], train: bool) -> Float[Array, "n k"]:
        for i, features in enumerate((256, 32, 1), start=1):
            z = Conv(features, 1, dtype=self.dtype, name=f"conv{i}")(z)
            z = nn.relu(Norm(self.dtype, name=f"norm{i}")(z, train))
        return jax.nn.softmax(z[:, :, 0, 0].astype(jnp.float32))


class AttributeHead(nn.Module):
    """One attribute: an attention, a bottleneck and a linear unit of its own."""

    width: int
    attention: bool
    dtype: Any

    @nn.compact
    def __call__(
        self, z: Float[Array, "n k 1 d"], parts: Float[Array, "n k 1 e"], train: bool
    ) -> tuple[Float[Array, "n"], Float[Array, "n k"]]:
        n, k = z.shape[:2]
        attention = jnp.full((n, k), 1 / k, jnp.float32)
        if self.attention:
            attention = PartAttention(self.dtype, name="attention")(z, train)
        pooled = _weigh(parts, attention)[:, None, None]
        pooled = PointBlock(self.width, self.dtype, name="block")(pooled, train)
        logits = nn.Dense(1, dtype=jnp.float32, name="unit")(pooled[:, 0, 0].astype(jnp.float32))
        return logits[:, 0], attention


def _weigh(parts: Float[Array, "n k 1 e"], attention: Float[Array, "n k"]) -> Float[Array, "n e"]:
    return jnp.einsum("nke,nk->ne", parts[:, :, 0].astype(jnp.float32), attention)


class RegionGrouping(nn.Module):
    """A backbone cut off after a stage, parts, and a classifier of the parts (Eq. 4).

    `features` gives the map that is grouped, `head` the logits of it, `regions` everything.

    Attributes:
      num_classes: outputs.
      backbone: a network that has a `trunk`.
      num_parts: k.
      attention: False: every part counts alike (Table 7, "w/o attention").
      attributes: the outputs are attributes, each yes or no, with a head of its own; else classes.
    """

    num_classes: int
    backbone: str = "resnet101"
    num_parts: int = 5
    attention: bool = True
    attributes: bool = False
    padding: Padding = "symmetric"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        backbone = choose(self.backbone, has_trunk)
        width = backbone.trunk.width
        self.trunk = backbone.make(
            num_classes=1, padding=self.padding, dtype=self.dtype, **backbone.trunk.options
        )
        self.grouping = Grouping(self.num_parts)
        self.post = PostBlock(width, self.dtype)
        if self.attributes:
            heads = nn.vmap(
                AttributeHead,
                in_axes=None,
                out_axes=1,
                axis_size=self.num_classes,
                variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True},
            )
            self.classifier = heads(width, self.attention, self.dtype)
            return
        if self.attention:
            self.part_attention = PartAttention(self.dtype)
        self.norm = Norm(self.dtype)
        self.classifier = nn.Dense(self.num_classes, dtype=jnp.float32)

    def intermediates(
        self, x: Float[Array, "n h w 3"], train: bool = False
    ) -> dict[str, Float[Array, "n ..."]]:
        """Return every stage's output by name, to the one that is grouped, which is "features"
        too."""
        stage = NETWORKS[self.backbone].trunk.stage
        found = self.trunk.intermediates(x, train, last=stage)
        return found | {"features": found[stage]}

    def features(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n H W d"]:
        """Return the map whose pixels are grouped."""
        return self.intermediates(x, train)["features"]

    def _regions(self, features: Float[Array, "n H W d"], train: bool) -> Regions:
        assignment, z = self.grouping(features)
        z = z[:, :, None].astype(self.dtype)
        parts = self.post(z, train)
        if self.attributes:
            logits, attention = self.classifier(z, parts, train)
            attribution = jax.vmap(pixel_attribution, (None, 1), 1)(assignment, attention)
            return Regions(logits, assignment, attention, attribution)
        n, k = z.shape[:2]
        attention = jnp.full((n, k), 1 / k, jnp.float32)
        if self.attention:
            attention = self.part_attention(z, train)
        pooled = self.norm(_weigh(parts, attention)[:, None, None].astype(self.dtype), train)
        logits = self.classifier(pooled[:, 0, 0].astype(jnp.float32))
        return Regions(logits, assignment, attention, pixel_attribution(assignment, attention))

    def regions(self, x: Float[Array, "n h w 3"], train: bool = False) -> Regions:
        """Return logits, assignment maps, part attention and pixel attribution."""
        return self._regions(self.features(x, train), train)

    def head(self, features: Float[Array, "n H W d"], train: bool = False) -> Float[Array, "n c"]:
        """Return the logits of a map."""
        return self._regions(features, train).logits

    def __call__(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n c"]:
        return self.regions(x, train).logits


def region_grouping(num_classes: int, **options: Any) -> RegionGrouping:
    """Return the network with these options (see `RegionGrouping`).

    Raises:
      ValueError: an unknown backbone, with the nearest known one, or no part.
    """
    network = RegionGrouping(num_classes, **options)
    try:
        choose(network.backbone, has_trunk)
    except ValueError as error:
        raise ValueError(f"region_grouping has no backbone {network.backbone!r}: {error}") from None
    if network.num_parts < 1:
        raise ValueError(f"num_parts={network.num_parts}: at least 1")
    return network


@struct.dataclass
class RegionClassifier(Classifier):
    """A classifier that says which pixels it groups into which part."""

    def regions(self, images: Float[Array | np.ndarray, "n h w 3"]) -> Regions:
        """Return parts, their attention and the pixels'."""
        return self._apply(self.normalise(images), method="regions")


REGION_GROUPING = Network(
    "region_grouping",
    region_grouping,
    fits=has_trunk,
    options={
        "backbone": "parts.backbone",
        "num_parts": "parts.number",
        "attention": "parts.attention",
    },
    attributes=True,
    classifier=RegionClassifier,
    order=200,
)
