"""A classifier that compares: this part of the image looks like that part of a training image.

Every class has a few prototypes, points in the space of the last feature map. An image's
evidence for a class is how near its most similar place comes to the class's prototypes. Labels
of whole images train it, and where a prototype is active is a part of the image that matters.

Reference: Chen et al., This Looks Like That: Deep Learning for Interpretable Image Recognition,
  2019 (ProtoPNet), sections 2.1 and 2.2.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from fgjax.devices.jit import program
from fgjax.models.classifier import Classifier
from fgjax.models.composed.two_stream import make_backbone
from fgjax.models.networks.layers import Padding
from fgjax.models.registry import Network, has_last_map

EPSILON = 1e-4
"""ε of the log similarity, the paper's."""


def squared_distances(
    features: Float[Array | np.ndarray, "n h w d"], prototypes: Float[Array | np.ndarray, "m d"]
) -> Float[Array, "n h w m"]:
    """||z - p||² of every place and every prototype, not below 0."""
    # As ||z||² - 2 z·p + ||p||²: a matrix product instead of n h w m differences.
    z = jnp.square(features).sum(-1, keepdims=True)
    p = jnp.square(prototypes).sum(-1)[None, None, None]
    product = jnp.einsum("nhwd,md->nhwm", features, prototypes, precision="highest")
    return jnp.maximum(z - 2 * product + p, 0)


def log_similarity(distances: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """log((d + 1) / (d + ε)) of squared distances: from 0, far away, to log(1/ε), the same."""
    return jnp.log((distances + 1) / (distances + EPSILON))


def prototype_classes(num_classes: int, per_class: int) -> Int[np.ndarray, "m"]:
    """Return the class of every prototype: 0 0 … 1 1 …"""
    return np.repeat(np.arange(num_classes), per_class)


class Comparison(NamedTuple):
    """Logits, each image's smallest squared distance to every prototype, and the sum of the last
    layer's absolute weights from prototypes to classes that are not theirs."""

    logits: Float[Array, "n k"]
    distances: Float[Array, "n m"]
    others: Float[Array, ""] | None = None


def _own_class(key, shape, dtype=jnp.float32):
    """Return weights of the last layer: 1 from a class's own prototypes, -0.5 from the others'."""
    prototypes, classes = shape
    own = np.repeat(np.eye(classes), prototypes // classes, axis=0)
    return jnp.asarray(np.where(own == 1, 1.0, -0.5), dtype)


class PrototypeNet(nn.Module):
    """ProtoPNet on any backbone. Input: normalised images, NHWC.

    Two 1x1 convolutions (ReLU, sigmoid) lead from the backbone's last map to the prototypes'
    space. Called in a training, `compare` gives what `PrototypeLoss` needs.

    Attributes:
      num_classes: k.
      backbone: a network that stands alone.
      per_class: prototypes of each class.
      channels: of the prototypes' space.
    """

    num_classes: int
    backbone: str = "vgg19"
    per_class: int = 10
    channels: int = 128
    padding: Padding = "symmetric"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.trunk = make_backbone(self.backbone, self.num_classes, self.padding, self.dtype)
        self.adapt1 = nn.Dense(self.channels, dtype=jnp.float32)
        self.adapt2 = nn.Dense(self.channels, dtype=jnp.float32)
        shape = (self.num_classes * self.per_class, self.channels)
        self.prototypes = self.param("prototypes", nn.initializers.uniform(1.0), shape)
        self.classifier = nn.Dense(
            self.num_classes, use_bias=False, kernel_init=_own_class, dtype=jnp.float32
        )

    def features(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n H W d"]:
        """Return the map in the prototypes' space, in (0, 1)."""
        return self._adapt(self.trunk.features(x, train))

    def _adapt(self, x):
        return nn.sigmoid(self.adapt2(nn.relu(self.adapt1(x.astype(jnp.float32)))))

    def intermediates(
        self, x: Float[Array, "n h w 3"], train: bool = False
    ) -> dict[str, Float[Array, "n ..."]]:
        """Return every stage's output by name: those of the backbone, then "features"."""
        stages = self.trunk.intermediates(x, train)
        return stages | {"features": self._adapt(stages["features"])}

    def _compare(self, features):
        nearest = squared_distances(features, self.prototypes).min((1, 2))
        logits = self.classifier(log_similarity(nearest))
        weights = self.classifier.variables["params"]["kernel"]
        own = _own_class(None, weights.shape) > 0
        return Comparison(logits, nearest, jnp.abs(jnp.where(own, 0, weights)).sum())

    def head(self, features: Float[Array, "n H W d"], train: bool = False) -> Float[Array, "n k"]:
        """Return logits of a map: the nearest place to every prototype, weighed."""
        return self._compare(features).logits

    def activations(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n H W m"]:
        """Return the log similarity of every place to every prototype."""
        return log_similarity(squared_distances(self.features(x), self.prototypes))

    def compare(self, x: Float[Array, "n h w 3"], train: bool = False) -> Comparison:
        """Return logits and distances."""
        return self._compare(jax.lax.optimization_barrier(self.features(x, train)))

    def __call__(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n k"]:
        return self.compare(x, train).logits


@struct.dataclass
class PrototypeClassifier(Classifier):
    """A classifier that says where each prototype is active."""

    def activations(self, images: Float[Array | np.ndarray, "n h w 3"]) -> Float[Array, "n H W m"]:
        """Return how much each place of the image looks like each prototype."""
        return self._apply(self.normalise(images), method="activations")


@program("explain", static_argnames="classes")
def _nearest(model, images, labels, classes):
    """Of each prototype: its smallest squared distance to a place of an image of its class, and
    what lies there."""
    features = model.features(images)
    prototypes = model.variables["params"]["prototypes"]
    distances = squared_distances(features, prototypes)
    own = labels[:, None] == jnp.asarray(classes)[None]
    distances = jnp.where(own[:, None, None], distances, jnp.inf)
    flat = distances.reshape(-1, distances.shape[-1])
    best = flat.argmin(0)
    return flat.min(0), features.reshape(-1, features.shape[-1])[best]


def project(model: Any, batches: Iterable[tuple[Array | np.ndarray, np.ndarray]]) -> Any:
    """Return the classifier with every prototype moved onto the nearest patch of an image of its
    class.

    After this each prototype is a part of a training image that can be shown.

    Args:
      model: a `Classifier` of a `PrototypeNet`.
      batches: training images in [0, 1], `n h w 3`, not augmented, with their labels, `n`.

    Returns:
      the same classifier with other prototypes; one whose class has no image stays.

    Reference: Chen et al. 2019, section 2.2, stage 2 (Eq. 3).
    """
    network = model.network
    classes = tuple(prototype_classes(network.num_classes, network.per_class).tolist())
    prototypes = np.array(model.variables["params"]["prototypes"])
    smallest = np.full(len(classes), np.inf, np.float32)
    for images, labels in batches:
        part = _nearest(model, jnp.asarray(images), jnp.asarray(labels), classes)
        distances, vectors = map(np.asarray, part)
        nearer = distances < smallest
        smallest = np.where(nearer, distances, smallest)
        prototypes[nearer] = vectors[nearer]
    params = {**model.variables["params"], "prototypes": jnp.asarray(prototypes)}
    return model.replace(variables={**model.variables, "params": params})


PROTOTYPES = Network(
    "prototypes",
    PrototypeNet,
    fits=has_last_map,
    options={
        "backbone": "focus.backbone",
        "per_class": "focus.prototypes",
        "channels": "focus.channels",
    },
    classifier=PrototypeClassifier,
    order=210,
)
