"""The head of a CLIP: an image's logits are its cosines to the texts of the classes.

Reference: Radford et al., Learning Transferable Visual Models From Natural Language Supervision,
  2021, section 2.3 and Figure 3.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fgjax.models.networks.tokens import Fixed

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class CosineHead(nn.Module):
    """exp(scale) · cos(P x, t) of an image's features x and each class's text embedding t.

    Attributes:
      num_classes: texts.
      embedding: width of the space that images and texts share.
    """

    num_classes: int
    embedding: int

    @nn.compact
    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        normal = nn.initializers.normal(x.shape[-1] ** -0.5)
        projection = self.param("projection", normal, (x.shape[-1], self.embedding))
        texts = self.param(
            "kernel", nn.initializers.lecun_normal(), (self.embedding, self.num_classes)
        )
        scale = self.param("logit_scale", nn.initializers.constant(math.log(1 / 0.07)), ())
        image = x @ projection
        image = image / Fixed()(jnp.linalg.norm(image, axis=-1, keepdims=True))
        return jnp.exp(scale) * (image @ (texts / jnp.linalg.norm(texts, axis=0, keepdims=True)))
