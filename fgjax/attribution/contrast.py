"""Why this class and not that one: a model that answers only this question.

Any attribution method explains it as it would any other model: its first output is the contrast,
its second 0, so that the softmax probability of the first is the logistic function of the
contrast, and its log-odds and its logit are the contrast itself.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Contrast:
    """A model of two outputs, `n 2`: logit_c - Σ_b w_b logit_b, and 0.

    A pytree as its model is: another target or other rivals are the same compiled program, as long
    as there are as many of them.

    Attributes:
      model: images -> logits `n k`.
      target: c.
      others: the rivals b.
      weights: w_b of each.
    """

    model: Any
    target: Int[Array | np.ndarray, ""]
    others: Int[Array | np.ndarray, "m"]
    weights: Float[Array | np.ndarray, "m"]

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n 2"]:
        """Return the contrast of each image, and 0."""
        return self._contrast(self.model(images))

    def _contrast(self, logits: Float[Array, "n k"]) -> Float[Array, "n 2"]:
        against = logits[:, self.others] @ jnp.asarray(self.weights, logits.dtype)
        found = logits[:, self.target] - against
        return jnp.stack([found, jnp.zeros_like(found)], axis=1)

    def __getattr__(self, name: str) -> Any:
        # What else the model offers, it offers still; of its head the contrast is taken, too.
        found = getattr(object.__getattribute__(self, "model"), name)
        if name == "head":
            return lambda features: self._contrast(found(features))
        return found


def contrast(model: Any, target: int, others: tuple[int, ...] = ()) -> Contrast:
    """Return a model whose class 0 is "`target` and not `others`".

    Without rivals it is the class by itself, p = σ(logit): what models with one output, and those
    with several labels an image, mean by their logits.

    Args:
      model: images -> logits.
      target: the class to explain.
      others: the rivals; of several, the mean of their logits.

    Raises:
      ValueError: the target is among the rivals.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = jax.tree_util.Partial(lambda images: images.mean((1, 2)))
      >>> images = jnp.stack([jnp.full((1, 4, 4), light) for light in (0.75, 0.5, 0.25)], -1)
      >>> contrast(model, 0, (1, 2))(images)
      Array([[0.375, 0.   ]], dtype=float32)
    """
    if target in others:
        raise ValueError(f"class {target} cannot be told from itself: leave it out of the rivals")
    share = 1 / max(1, len(others))
    return Contrast(
        model,
        np.array(target, np.int32),
        np.array(others, np.int32),
        np.full(len(others), share, np.float32),
    )


def similar_classes(
    weights: Float[Array | np.ndarray, "d k"], target: int, count: int = 3
) -> tuple[int, ...]:
    """Return the classes whose weights in the last layer are most like the target's, by cosine.

    Args:
      weights: of the last layer, a column for each class.
      target: the class.
      count: how many, at most all others.
    """
    columns = np.asarray(weights, np.float64)
    norms = np.maximum(np.linalg.norm(columns, axis=0), np.finfo(np.float64).tiny)
    cosine = (columns / norms).T @ (columns[:, target] / norms[target])
    order = [int(k) for k in np.argsort(-cosine, kind="stable") if k != target]
    return tuple(order[:count])
