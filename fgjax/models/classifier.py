"""A network together with its weights and its idea of a normalised image."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Key

from fgjax.core.spelling import did_you_mean
from fgjax.models.backbones import BACKBONES
from fgjax.models.composed.patches import crop_patches
from fgjax.models.composed.prototypes import PrototypeNet
from fgjax.models.composed.region_grouping import Regions, region_grouping
from fgjax.models.composed.two_stream import Streams, TwoStream

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

NETWORKS = {
    **BACKBONES,
    "region_grouping": region_grouping,
    "prototypes": PrototypeNet,
    "two_stream": TwoStream,
}
"""Architectures by name: functions of `num_classes`, `padding`, `dtype` and what a kind takes
besides."""


@struct.dataclass
class Classifier:
    """Images in [0, 1] -> logits. A pytree: its weights are arguments of every compiled step.

    Attributes:
      variables: Flax variables (params and batch statistics).
      network: the Linen module.
      mean, std: what normalises an image, per channel.
      classes: the name of each output; empty when unknown.
      size: side of the square images it was made for.
      name: of the architecture, a key of `NETWORKS`; empty for a network of another kind.
      options: what else `make_network` was given to make it, in plain values.
      boxes: of a two-stream network: the patches of the images that it is called with, in their
        pixels. None: it finds them itself.
    """

    variables: Any
    network: nn.Module = struct.field(pytree_node=False)
    mean: tuple[float, float, float] = struct.field(pytree_node=False, default=IMAGENET_MEAN)
    std: tuple[float, float, float] = struct.field(pytree_node=False, default=IMAGENET_STD)
    classes: tuple[str, ...] = struct.field(pytree_node=False, default=())
    size: int = struct.field(pytree_node=False, default=224)
    name: str = struct.field(pytree_node=False, default="")
    options: tuple[tuple[str, Any], ...] = struct.field(pytree_node=False, default=())
    boxes: Float[Array | np.ndarray, "n p 4"] | None = None

    def normalise(self, images: Float[Array | np.ndarray, "n h w 3"]) -> Float[Array, "n h w 3"]:
        """(image - mean) / std."""
        mean = jnp.asarray(self.mean, images.dtype)[None, None, None]
        std = jnp.asarray(self.std, images.dtype)[None, None, None]
        return (images - mean) / std

    def __call__(self, images: Float[Array | np.ndarray, "n h w 3"]) -> Float[Array, "n k"]:
        """Return logits, float32."""
        given = () if self.boxes is None else (jnp.asarray(self.boxes),)
        return self.network.apply(self.variables, self.normalise(images), *given)

    def features(self, images: Float[Array | np.ndarray, "n h w 3"]) -> Float[Array, "n H W d"]:
        """Return the last feature map; `head(features(images))` equals the logits."""
        return self.network.apply(self.variables, self.normalise(images), method="features")

    def head(self, features: Float[Array, "n H W d"]) -> Float[Array, "n k"]:
        """Return logits of a feature map."""
        return self.network.apply(self.variables, features, method="head")

    def intermediates(
        self, images: Float[Array | np.ndarray, "n h w 3"]
    ) -> dict[str, Float[Array, "n ..."]]:
        """Return every stage's output, by name."""
        return self.network.apply(self.variables, self.normalise(images), method="intermediates")

    def regions(self, images: Float[Array | np.ndarray, "n h w 3"]) -> Regions:
        """Return parts, their attention and the pixels', of a network that has them.

        Raises:
          ValueError: it has none.
        """
        if not hasattr(self.network, "regions"):
            raise ValueError(
                f"{self.name or type(self.network).__name__} groups no pixels into parts: "
                'create_model("region_grouping", …) makes a network that does'
            )
        return self.network.apply(self.variables, self.normalise(images), method="regions")

    # Of a network with prototypes, and of a two-stream network.

    @property
    def has_prototypes(self) -> bool:
        """Whether `activations` can be called."""
        return hasattr(self.network, "activations")

    def activations(self, images: Float[Array | np.ndarray, "n h w 3"]) -> Float[Array, "n H W m"]:
        """Return how much each place of the image looks like each prototype."""
        return self.network.apply(self.variables, self.normalise(images), method="activations")

    @property
    def looks_again(self) -> bool:
        """Whether there is a recurrence over patches, so that the three below can be called."""
        return getattr(self.network, "looks_again", False)

    def streams(self, images: Float[Array | np.ndarray, "n h w 3"]) -> Streams:
        """Return what each of the two streams says, and the local one's every step."""
        given = () if self.boxes is None else (jnp.asarray(self.boxes),)
        return self.network.apply(self.variables, self.normalise(images), *given, method="look")

    def patch_boxes(self, images: Float[Array | np.ndarray, "n h w 3"]) -> Float[Array, "n p 4"]:
        """Return the given boxes of the images' patches, or those that the global stream finds."""
        if self.boxes is not None:
            return jnp.asarray(self.boxes)
        x = self.normalise(images)
        return self.network.apply(self.variables, x, method="find_patches").boxes

    def patch_features(
        self, images: Float[Array | np.ndarray, "n h w 3"], boxes: Float[Array, "n p 4"]
    ) -> Float[Array, "n p H W d"]:
        """Return the local stream's last feature map of every patch."""
        patches = crop_patches(self.normalise(images), boxes, self.network.patch_size)
        return self.network.apply(self.variables, patches, method="patch_features")

    def classify_patches(
        self, features: Float[Array, "n p H W d"]
    ) -> tuple[Float[Array, "n p k"], Float[Array, "n p t k"] | None]:
        """Return the local stream's logits of every patch, and of every time step by itself."""
        return self.network.apply(self.variables, features, method="classify_patches")


def make_network(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Return the Linen module called `name` (see `NETWORKS`).

    Raises:
      ValueError: an unknown name, with the nearest known one.
    """
    if name not in NETWORKS:
        hint = did_you_mean(name, NETWORKS)
        raise ValueError(f"no network is called {name!r}: one of {', '.join(NETWORKS)}.{hint}")
    return NETWORKS[name](num_classes=num_classes, **options)


def variable_shapes(network: nn.Module) -> Any:
    """Return the shapes of a network's variables, without computing any."""
    # They do not depend on the image size; 96 px is enough for every network here.
    return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 96, 96, 3)))


def create_model(
    name: str,
    num_classes: int,
    *,
    key: Key[Array, ""] | None = None,
    size: int = 224,
    classes: tuple[str, ...] = (),
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    **options: Any,
) -> Classifier:
    """Return a classifier with fresh weights.

    Args:
      name: a key of `NETWORKS`.
      num_classes: outputs.
      key: of the weights; the same key gives the same weights. None: key 0.
      size: side of the images it is meant for.
      options: passed to the network: `padding`, `dtype`, and what its kind takes besides.
    """
    network = make_network(name, num_classes, **options)
    key = jax.random.key(0) if key is None else key
    variables = jax.jit(network.init)(key, jnp.zeros((1, 96, 96, 3), jnp.float32))
    kept = tuple((k, v) for k, v in options.items() if k != "dtype")
    return Classifier(variables, network, mean, std, classes, size, name, kept)
