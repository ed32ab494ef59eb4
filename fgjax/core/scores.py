"""How sure a model is of a class: s_M(c | x) in Eqs. 2-4 of Korsch et al. 2023."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def log_odds(logits: Float[Array, "n k"], targets: Int[Array, "n"]) -> Float[Array, "n"]:
    """Return log(p(c) / (1 - p(c))) without forming p (Korsch et al. 2023, Eq. 4).

      s = logit_c - logsumexp of the other classes

    Exact and unsaturated where p(c) rounds to 0 or 1. Needs at least two classes.

    Raises:
      ValueError: a single class.

    Example:
      >>> log_odds(jnp.array([[2.0, 0.0]]), jnp.array([0]))
      Array([2.], dtype=float32)
    """
    if logits.shape[1] < 2:
        raise ValueError("log-odds need at least two classes; the model returned one")
    chosen = jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    is_target = jax.nn.one_hot(targets, logits.shape[1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(is_target, -jnp.inf, logits), axis=1)
    return undefined_with(chosen - others, logits)


def predicted(logits: Float[Array | np.ndarray, "*n k"]) -> Int[Array, "*n"]:
    """Return the class of the highest logit, and -1 where one of them is NaN.

    There argmax would say the class of the first NaN, 0 for a broken network, which may be right.

    Example:
      >>> predicted(jnp.array([[0.1, 0.3], [jnp.nan, jnp.nan]])).tolist()
      [1, -1]
    """
    return jnp.where(jnp.isnan(logits).any(-1), -1, logits.argmax(-1))


def undefined_with(values: Float[Array, "n"], logits: Float[Array, "n k"]) -> Float[Array, "n"]:
    """Return the values, NaN for every image with a NaN among its logits.

    It has to be said: XLA's exponential on the CPU (jax 0.10.2) makes finite numbers of NaN, so
    that a softmax of them looks like any other.
    """
    return jnp.where(jnp.isnan(logits).any(axis=1), jnp.nan, values)
