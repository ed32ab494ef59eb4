"""How sure the model is of a class: s_M(c | x) in Eqs. 2-4 of seed 000."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def log_odds(logits: Float[Array, "n k"], targets: Int[Array, "n"]) -> Float[Array, "n"]:
    """log(p(c) / (1 - p(c))) without forming p: logit_c - logsumexp of the other classes (Eq. 4).

    Exact and unsaturated where p(c) rounds to 0 or 1. Needs at least two classes.
    """
    if logits.shape[1] < 2:
        raise ValueError("log-odds need at least two classes; the model returned one")
    chosen = jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    is_target = jax.nn.one_hot(targets, logits.shape[1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(is_target, -jnp.inf, logits), axis=1)
    return chosen - others


def leaking_log_odds(logits: Float[Array, "n k"], targets: Int[Array, "n"]) -> Float[Array, "n"]:
    """Return the score of the released FIDO code: log p(c) - log(2 - p(c)), at most 0.

    There the target is left out of the sum by multiplying its log-probability by zero, and
    exp(0) = 1 leaks in. Kept to reproduce published figures; it saturates for sure classes.
    """
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_p, targets[:, None], axis=1)[:, 0]
    return chosen - jnp.log(2 - jnp.exp(chosen))


SCORES = {"log_odds": log_odds, "leaking": leaking_log_odds}
