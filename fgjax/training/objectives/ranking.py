"""Losses of a global and a local stream that learn together.

Reference: Shroff, Search for Finer Attention Details for Fine-Grained Image Classification,
2020, section 3.1.4; the ranking loss after Fu et al., Look Closer to See Better, 2017.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fgjax.models.composed.two_stream import Streams
from fgjax.training.objectives.losses import cross_entropy


def ranking_loss(
    p_global: Float[Array | np.ndarray, "n"],
    p_local: Float[Array | np.ndarray, "n"],
    margin: float,
) -> Float[Array, ""]:
    """Compute Eq. 3.11: max(0, p^g - p^l + margin), averaged over the images.

    Args:
      p_global, p_local: each stream's probability of the right class, in [0, 1].
      margin: by how much the local stream has to be surer than the global one to pay nothing.

    Example:
      >>> float(ranking_loss(jnp.array([0.5]), jnp.array([0.25]), 0.5))
      0.75
    """
    return jnp.maximum(0.0, p_global - p_local + margin).mean()


@dataclass(frozen=True)
class StreamLoss:
    """Eqs. 3.8 to 3.10: cross-entropy of both streams, and the ranking loss between them.

      L = CE(global) + λ' CE(local) + λ max(0, p^g - p^l + margin), averaged over the images.

    The text has the local stream "take predictions from global branch as reference" (3.1.4.2). With
    a gradient through p^g the loss would pull the reference down, too: where the margin is missed
    the global logits' gradient would shrink by the factor 1 - λ p^g. Eq. 3.11 alone does not say
    which; `moves_reference` is the other reading.

    Attributes:
      local: λ'.
      ranking: λ.
      margin: of the ranking loss.
      moves_reference: whether the ranking loss also moves the global stream, down. False: its
        probability is a reference, and has no gradient.
      every_step: the local cross-entropy is the mean over all time steps (section 6.1: the
        network whose last step is used), and p^l the last step's.
      smoothing: ε of label smoothing, in both cross-entropies; 0 in the paper.
    """

    local: float = 1.0
    ranking: float = 0.5
    margin: float = 0.5
    moves_reference: bool = False
    every_step: bool = False
    smoothing: float = 0.0

    def __call__(self, outputs: Streams, labels: Int[Array, "n"]) -> Float[Array, ""]:
        """Return the mean loss of a batch."""
        total = cross_entropy(outputs.global_logits, labels, self.smoothing).mean()
        if outputs.local_logits is None:
            return total
        if self.every_step and outputs.step_logits is not None:
            logits = outputs.step_logits
            steps = logits.shape[1]
            each = [
                cross_entropy(logits[:, t], labels, self.smoothing).mean() for t in range(steps)
            ]
            local = sum(each) / steps
        else:
            local = cross_entropy(outputs.local_logits, labels, self.smoothing).mean()
        p_global, p_local = (
            jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], axis=1)[:, 0]
            for logits in (outputs.global_logits, outputs.local_logits)
        )
        if not self.moves_reference:
            p_global = jax.lax.stop_gradient(p_global)
        return (
            total + self.local * local + self.ranking * ranking_loss(p_global, p_local, self.margin)
        )
