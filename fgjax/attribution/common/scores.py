"""What FIDO and its kin can ask of the model: how sure it is of a class."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fgjax.core.scores import log_odds, undefined_with


def leaking_log_odds(logits: Float[Array, "n k"], targets: Int[Array, "n"]) -> Float[Array, "n"]:
    """Return the score of the released FIDO code: log p(c) - log(2 - p(c)), at most 0.

    There the target is left out of the sum by multiplying its log-probability by zero, and
    exp(0) = 1 leaks in. Kept to reproduce published figures; it saturates for sure classes.
    """
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_p, targets[:, None], axis=1)[:, 0]
    return undefined_with(chosen - jnp.log(2 - jnp.exp(chosen)), logits)


SCORES = {"log_odds": log_odds, "leaking": leaking_log_odds}
