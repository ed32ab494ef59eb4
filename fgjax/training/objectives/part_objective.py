"""What region grouping makes smaller: a wrong class, and parts that come and go as no part does."""

from dataclasses import dataclass

from jaxtyping import Array, Float, Int

from fgjax.models.composed.region_grouping import Regions
from fgjax.training.objectives.losses import binary_cross_entropy, cross_entropy
from fgjax.training.objectives.part_occurrence import part_occurrence_loss


@dataclass(frozen=True)
class PartObjective:
    """Classification loss + `weight` × occurrence loss: an objective of `Recipe`, for the
    network's method "regions". The paper's weights 2:1 are 0.5 here, 10:1 are 0.1.

    Attributes:
      weight: of the occurrence loss; 0: it is not computed.
      alpha, beta, radius, std: see `part_occurrence_loss`.
      smoothing: ε of label smoothing.
    """

    weight: float = 0.5
    alpha: float = 1.0
    beta: float = 1e-3
    radius: int = 2
    std: float = 0.4
    smoothing: float = 0.0

    def __call__(self, regions: Regions, labels: Int[Array, "n *a"]) -> Float[Array, ""]:
        """Of classes: cross-entropy. Of attributes (labels `n a`): binary cross-entropy."""
        if labels.ndim == 2:
            loss = binary_cross_entropy(regions.logits, labels).mean()
        else:
            loss = cross_entropy(regions.logits, labels, self.smoothing).mean()
        if self.weight == 0:
            return loss
        return loss + self.weight * part_occurrence_loss(
            regions.assignment, self.alpha, self.beta, radius=self.radius, std=self.std
        )
