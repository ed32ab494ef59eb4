"""A classifier that asks a frozen transformer for each class: is this one's mark in the image?

Every class has a prompt, a token of its own that goes into the last block beside the image's. What
comes out of it is judged by one vector that all classes share, so that classes can only differ in
where their prompts look: the prompt's attention is the explanation.

Reference: Chowdhury et al., Prompt-CAM: Making Vision Transformers Interpretable for Fine-Grained
  Analysis, CVPR 2025, sections 2.2 and 2.3.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from fgjax.core.features import Features
from fgjax.models.classifier import Classifier
from fgjax.models.networks.tokens import small
from fgjax.models.networks.vit import VisionTransformer
from fgjax.models.registry import Network, choose

LEARNED = ("class_prompts", "classifier")
"""The parameters that learn: P, and w."""


class Asked(NamedTuple):
    """What the classes' prompts answer, and what they looked at.

    Attributes:
      logits: s[c] = w · z_c (Eq. 1).
      weights: of each head, how much a class's prompt takes of every prompt, then of the tokens
        beside the grid, then of the grid's cells row by row; they sum to 1 (Eq. 5).
    """

    logits: Float[Array, "n k"]
    weights: Float[Array, "n g k t"]


def takes_prompts(network: Network) -> bool:
    """Return whether a network is a vision transformer: its last block takes prompts."""
    made = network.make
    return network.tokens and getattr(made, "func", made) is VisionTransformer


def make_backbone(name: str, num_classes: int, **options: Any) -> VisionTransformer:
    """Return the network that prompts are given to.

    Raises:
      ValueError: there is none such, or it is no vision transformer; with those that are.
    """
    try:
        made: Any = choose(name, takes_prompts).make(num_classes=num_classes, **options)
        return made
    except ValueError as error:
        raise ValueError(f"no prompts are given to {name!r}: {error}") from None


class PromptNet(nn.Module):
    """Prompt-CAM on any ViT of fgjax. Input: normalised images, NHWC.

      [Z_N, E_N, x_N] = L_N([P, E_{N-1}, x_{N-1}])     (Eq. 3, of the last block)
      s[c] = w · z_c                                   (Eq. 1)

    The paper's deep form has further prompts, of no class, in the blocks before. Here these blocks
    stay as they are: what goes into the last one is computed once for an image.

    Attributes:
      num_classes: k.
      backbone: a vision transformer.
      grid: side, in patches, that its positions were learned for; 0: as it is usually made.
    """

    num_classes: int
    backbone: str = "vit_small_patch14_dinov2"
    grid: int = 0
    padding: str = "symmetric"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        more: dict[str, Any] = {"grid": self.grid} if self.grid else {}
        more |= {"padding": self.padding, "dtype": self.dtype}
        self.trunk = make_backbone(self.backbone, self.num_classes, **more)
        shape = (self.num_classes, self.trunk.width)
        self.class_prompts = self.param("class_prompts", small, shape, jnp.float32)
        # Without a bias, which all classes would share: no softmax sees it.
        self.classifier = nn.Dense(1, use_bias=False, dtype=jnp.float32)

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return make_backbone(self.backbone, self.num_classes).patch

    def features(self, x: Float[Array, "n h w 3"], train: bool = False) -> Features:
        """Return what goes into the last block: E_{N-1}, and the tokens beside it."""
        return self.trunk.before_last_block(x, train)

    def intermediates(
        self, x: Float[Array, "n h w 3"], train: bool = False
    ) -> dict[str, Float[Array, "n H W d"]]:
        """Return the grid after every stage by name, see the backbone's; "features" is the last
        that the prompts see."""
        return self.trunk.intermediates(x, train) | {"features": self.features(x, train).grid}

    def ask(
        self, features: Features, tap: Float[Array, "n g k t"] | None = None, train: bool = False
    ) -> Asked:
        """Return every class's answer to an image, and what its prompt looked at.

        Args:
          features: of `features`.
          tap: added to the attention weights.
        """
        z, weights = self.trunk.ask_last_block(self.class_prompts, Features(*features), train, tap)
        return Asked(self.classifier(z.astype(jnp.float32))[..., 0], weights)

    def head(self, features: Features, train: bool = False) -> Float[Array, "n k"]:
        """Return every class's answer."""
        return self.ask(features, train=train).logits

    def __call__(self, x: Float[Array, "n h w 3"], train: bool = False) -> Float[Array, "n k"]:
        return self.head(self.features(x, train), train)


@struct.dataclass
class PromptClassifier(Classifier):
    """A classifier that says what each class's prompt looked at."""

    def ask(
        self, features: Features, tap: Float[Array | np.ndarray, "n g k t"] | None = None
    ) -> Asked:
        """Return every class's answer to what `features` gave, and what its prompt looked at.

        Args:
          tap: added to the attention weights.
        """
        return self._apply(features, tap, method="ask")


PROMPTS = Network(
    "prompts",
    PromptNet,
    fits=takes_prompts,
    options={"backbone": "prompts.backbone"},
    classifier=PromptClassifier,
    tokens=True,
    order=215,
)
