"""The loss of a classifier with prototypes.

Reference: Chen et al., This Looks Like That, 2019, section 2.2, Eqs. 1 and 2.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fgjax.models.composed.prototypes import Comparison, prototype_classes
from fgjax.training.objectives.losses import cross_entropy


def cluster_and_separation(
    distances: Float[Array, "n m"], labels: Int[Array, "n"], num_classes: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Compute Eq. 2: the mean squared distance to the nearest prototype of the image's own class,
    which is to be small, and to the nearest of any other class, which is to be large.

    Args:
      distances: each image's smallest squared distance to every prototype; the prototypes of
        class 0 come first, and every class has as many.
      labels: the images' classes.
    """
    classes = jnp.asarray(prototype_classes(num_classes, distances.shape[1] // num_classes))
    own = labels[:, None] == classes[None].astype(labels.dtype)
    cluster = jnp.where(own, distances, jnp.inf).min(1).mean()
    separation = jnp.where(own, jnp.inf, distances).min(1).mean()
    return cluster, separation


@dataclass(frozen=True)
class PrototypeLoss:
    """Eq. 1: cross-entropy + `cluster` · cluster cost - `separation` · separation cost; and of
    stage 3, Eq. 4, `l1` · the sum of the last layer's weights to other classes' prototypes.

    Attributes:
      cluster, separation: the weights of the two costs; the defaults are the paper's.
      smoothing: ε of label smoothing; 0 in the paper.
      l1: weight of that sum; 0 but in stage 3, where the two costs are constant.
    """

    cluster: float = 0.8
    separation: float = 0.08
    smoothing: float = 0.0
    l1: float = 0.0

    def __call__(self, outputs: Comparison, labels: Int[Array, "n"]) -> Float[Array, ""]:
        """Return the mean loss of a batch."""
        near, far = cluster_and_separation(outputs.distances, labels, outputs.logits.shape[1])
        entropy = cross_entropy(outputs.logits, labels, self.smoothing).mean()
        loss = entropy + self.cluster * near - self.separation * far
        if self.l1 and outputs.others is not None:
            loss = loss + self.l1 * outputs.others
        return loss
