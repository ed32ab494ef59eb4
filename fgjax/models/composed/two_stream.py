"""Two streams: the whole image, and patches of it that are looked at again and again.

The global stream is a plain classifier. The local stream has a network of its own for patches
of the image, whose pooled feature goes through stacked LSTMs and an attention over their steps
(`recurrent_attention.py`). Both are classified; their logits together are the prediction.

Reference: Shroff, Search for Finer Attention Details for Fine-Grained Image Classification, 2020
  (Shroff et al., Focus Longer to See Better: Recursively Refined Attention, 2020).
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from fgjax.models.classifier import Classifier
from fgjax.models.composed.patches import Patches, crop_patches, peak_boxes
from fgjax.models.composed.recurrent_attention import ReadOut, Recurrence
from fgjax.models.networks.layers import Padding
from fgjax.models.registry import Network, choose, has_last_map


def make_backbone(name: str, num_classes: int, padding: Padding, dtype: Any) -> nn.Module:
    """Return a network for a stream: it ends in global average pooling and one linear layer.

    Args:
      name: of a network that stands alone; of a VGG the dense layers are left out.

    Raises:
      ValueError: an unknown name, with the nearest known one.
    """
    try:
        backbone = choose(name, has_last_map)
    except ValueError as error:
        raise ValueError(f"no stream is made of {name!r}: {error}") from None
    more = backbone.stream
    return backbone.make(num_classes=num_classes, padding=padding, dtype=dtype, **more)


class Streams(NamedTuple):
    """What the two streams say of each image.

    Attributes:
      global_logits: G.
      local_logits: L, the mean over the patches; None: there is no local stream.
      step_logits: what the local classifier says of every time step alone, the mean over the
        patches; None: there are no steps.
    """

    global_logits: Float[Array, "n k"]
    local_logits: Float[Array, "n k"] | None
    step_logits: Float[Array, "n t k"] | None


class TwoStream(nn.Module):
    """Images, and boxes of their patches, -> logits. Input: normalised images, NHWC.

    Called without boxes, the network finds them: squares around the peaks of the global
    stream's class activation map of the class it predicts (no gradient passes through them).
    Everything but training with dropout is deterministic.

    Attributes:
      num_classes: k.
      backbone: of both streams, a network that stands alone; they share no weights.
      readout: what of the local stream is classified: "none": there is no local stream; "cnn":
        its pooled feature; "last", "sum" or "attention" of the LSTMs' steps, see `ReadOut`.
      steps, hidden, layers, self_attention: of the recurrence, see `Recurrence`.
      first, last: of readout "sum", counted from 1, both included.
      local_weight: λ', the local stream's weight in the prediction, as in the loss.
      patches, patch_side: how many patches are found where none are given, and their side as a
        share of the image's.
      patch_size: pixels; patches are resized to this.
    """

    num_classes: int
    backbone: str = "vgg19"
    readout: Literal["none", "cnn", "last", "sum", "attention"] = "attention"
    steps: int = 10
    hidden: int = 512
    layers: int = 2
    self_attention: bool = False
    first: int = 1
    last: int = 10
    local_weight: float = 1.0
    patches: int = 4
    patch_side: float = 0.5
    patch_size: int = 224
    padding: Padding = "symmetric"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        stream = partial(make_backbone, self.backbone, self.num_classes, self.padding, self.dtype)
        self.global_stream = stream()
        if self.readout == "none":
            return
        if self.readout == "sum" and not 1 <= self.first <= self.last <= self.steps:
            raise ValueError(
                f"steps {self.first} to {self.last} are to be summed: from 1 to {self.steps}"
            )
        self.local_stream = stream()
        self.local_classifier = nn.Dense(self.num_classes, dtype=jnp.float32)
        if self.readout != "cnn":
            self.local_recurrence = Recurrence(
                self.steps, self.hidden, self.layers, self.self_attention
            )
            self.local_readout = ReadOut(self.readout, self.first, self.last)

    @property
    def looks_again(self) -> bool:
        """Whether there is a recurrence, and so steps."""
        return self.readout not in ("none", "cnn")

    def features(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n H W d"]:
        """Return the global stream's last feature map."""
        return self.global_stream.features(x, train)

    def head(self, features: Float[Array, "n H W d"], train: bool = False) -> Float[Array, "n k"]:
        """Return the global stream's logits. So methods that ask for a last map and its head, as
        CAM does, explain the global stream alone; `step_cam` explains the local one."""
        return self.global_stream.head(features, train)

    def intermediates(
        self, x: Float[Array, "n h w 3"], train: bool = False
    ) -> dict[str, Float[Array, "n ..."]]:
        """Return every stage's output of the global stream, by name."""
        return self.global_stream.intermediates(x, train)

    def find_patches(self, x: Float[Array, "n h w 3"]) -> Patches:
        """Return squares around the peaks of the global stream's class activation map."""
        return self._find(self.features(x), *x.shape[1:3])

    def _find(self, features, height, width):
        features = jax.lax.stop_gradient(features).astype(jnp.float32)
        predicted = self.global_stream.head(features).argmax(1)
        kernel = self.global_stream.variables["params"]["classifier"]["kernel"]
        cam = jnp.einsum("nhwd,nd->nhw", features, jax.lax.stop_gradient(kernel).T[predicted])
        return peak_boxes(cam, self.patches, self.patch_side, height, width)

    def patch_features(
        self, patches: Float[Array, "n p s s 3"], train: bool = False
    ) -> Float[Array, "n p H W d"]:
        """Compute Eq. 3.3: the local stream's last feature map of every patch, each computed
        once."""
        flat = self.local_stream.features(patches.reshape(-1, *patches.shape[2:]), train)
        return flat.reshape(*patches.shape[:2], *flat.shape[1:])

    def classify_patches(
        self, features: Float[Array, "n p H W d"]
    ) -> tuple[Float[Array, "n p k"], Float[Array, "n p t k"] | None]:
        """Compute Eq. 3.7: logits of every patch, and of every time step by itself."""
        n, p = features.shape[:2]
        flat = features.reshape(n * p, *features.shape[2:]).astype(jnp.float32)
        if not self.looks_again:
            return self.local_classifier(flat.mean((1, 2))).reshape(n, p, -1), None
        steps = self.local_recurrence(flat)
        logits = self.local_classifier(self.local_readout(steps))
        each = self.local_classifier(steps)
        return logits.reshape(n, p, -1), each.reshape(n, p, *each.shape[1:])

    def streams(
        self,
        inputs: tuple[Float[Array, "n h w 3"], Float[Array, "n p s s 3"]],
        train: bool = False,
    ) -> Streams:
        """Return both streams' logits of images and of patches that are cut out already."""
        x, patches = inputs
        return self._both(self.features(x, train), patches, train)

    def _both(self, features, patches, train):
        # jax 0.12's CPU backend, when it fuses pooling into a bfloat16 block, returns NaN.
        features = jax.lax.optimization_barrier(features)
        logits = self.global_stream.head(features, train)
        if self.readout == "none":
            return Streams(logits, None, None)
        local, each = self.classify_patches(self.patch_features(patches, train))
        return Streams(logits, local.mean(1), None if each is None else each.mean(1))

    def joint(self, outputs: Streams) -> Float[Array, "n k"]:
        """Return section 3.1.5: the logits, weighed as the losses are: (G + λ' L) / (1 + λ')."""
        if outputs.local_logits is None:
            return outputs.global_logits
        weight = self.local_weight
        return (outputs.global_logits + weight * outputs.local_logits) / (1 + weight)

    def look(
        self, x: Float[Array, "n h w 3"], boxes: Float[Array, "n p 4"] | None = None
    ) -> Streams:
        """Return both streams' logits of images; the boxes are found where none are given."""
        features = self.features(x)
        if boxes is None:
            boxes = self._find(features, *x.shape[1:3]).boxes
        return self._both(features, crop_patches(x, boxes, self.patch_size), False)

    def __call__(
        self,
        x: Float[Array, "n h w 3"],
        boxes: Float[Array, "n p 4"] | None = None,
        train: bool = False,
    ) -> Float[Array, "n k"]:
        """Return the joint logits. A training with patches calls `streams`."""
        if self.readout == "none":
            return self._both(self.features(x, train), None, train).global_logits
        return self.joint(self.look(x, boxes))


@struct.dataclass
class TwoStreamClassifier(Classifier):
    """A classifier that looks at patches of each image, too.

    Attributes:
      boxes: the patches of the images that it is called with, in their pixels. None: it finds
        them itself.
    """

    boxes: Float[Array | np.ndarray, "n p 4"] | None = None

    def __call__(self, images: Float[Array | np.ndarray, "n h w 3"]) -> Float[Array, "n k"]:
        """Return logits, float32."""
        return self._apply(self.normalise(images), *self._given())

    def _given(self):
        return () if self.boxes is None else (jnp.asarray(self.boxes),)

    @property
    def looks_again(self) -> bool:
        """Whether there is a recurrence over patches, and so steps."""
        return self.network.looks_again

    def streams(self, images: Float[Array | np.ndarray, "n h w 3"]) -> Streams:
        """Return what each of the two streams says, and the local one's every step."""
        x = self.normalise(images)
        return self._apply(x, *self._given(), method="look")

    def patch_boxes(self, images: Float[Array | np.ndarray, "n h w 3"]) -> Float[Array, "n p 4"]:
        """Return the given boxes of the images' patches, or those that the global stream finds."""
        if self.boxes is not None:
            return jnp.asarray(self.boxes)
        x = self.normalise(images)
        return self._apply(x, method="find_patches").boxes

    def patch_features(
        self, images: Float[Array | np.ndarray, "n h w 3"], boxes: Float[Array, "n p 4"]
    ) -> Float[Array, "n p H W d"]:
        """Return the local stream's last feature map of every patch."""
        patches = crop_patches(self.normalise(images), boxes, self.network.patch_size)
        return self._apply(patches, method="patch_features")

    def classify_patches(
        self, features: Float[Array, "n p H W d"]
    ) -> tuple[Float[Array, "n p k"], Float[Array, "n p t k"] | None]:
        """Return the local stream's logits of every patch, and of every time step by itself."""
        return self._apply(features, method="classify_patches")


TWO_STREAM = Network(
    "two_stream",
    TwoStream,
    fits=has_last_map,
    options={
        name: f"focus.{name}"
        for name in (
            "backbone", "readout", "steps", "hidden", "self_attention", "first", "last",
            "local_weight", "patches", "patch_side", "patch_size",
        )
    },
    classifier=TwoStreamClassifier,
    order=220,
)  # fmt: skip
