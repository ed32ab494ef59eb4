"""Concrete dropout: relaxed Bernoulli masks that gradients pass through.

Both samplers draw the same masks from the same key; they differ in how many
exponentials and logarithms stand between the parameter and the mask.

References:
  Korsch et al., Simplified Concrete Dropout, 2023 (Eqs. 5-8).
  Gal et al., Concrete Dropout, 2017.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, Key

from fgjax.core.filters import REFERENCE_SIDE, gaussian_matrix


def _logistic_noise(
    key: Key[Array, ""], shape: tuple[int, ...], dtype, antithetic: bool, smoothing: float
) -> Float[Array, "samples *s"]:
    """log(η / (1 - η)) for uniform η; with `antithetic`, the second half negates the first."""
    if antithetic and shape[0] % 2:
        raise ValueError(f"antithetic noise comes in pairs: samples must be even, got {shape[0]}")
    drawn = (shape[0] // 2, *shape[1:]) if antithetic else shape
    if smoothing:
        noise = _smooth_logistic_noise(key, drawn, dtype, smoothing)
    else:
        noise = jax.random.logistic(key, drawn, dtype)
    return jnp.concatenate([noise, -noise]) if antithetic else noise


def _smooth_logistic_noise(key, shape, dtype, smoothing):
    """η = Φ(g) for a Gaussian field g of unit variance (a Gaussian copula): every pixel's η is
    uniform, as it must be, and those of neighbours go together."""
    field = jax.random.normal(key, shape, dtype)
    sides = shape[-2:]
    scale = min(sides) / REFERENCE_SIDE
    rows, columns = (gaussian_matrix(side, smoothing * scale) for side in sides)
    rows, columns = (m / np.sqrt((m**2).sum(1, keepdims=True)) for m in (rows, columns))
    field = jnp.einsum("yi,xj,...ij->...yx", rows, columns, field, precision="highest")
    return log_ndtr(field) - log_ndtr(-field)


def concrete_dropout(
    key: Key[Array, ""],
    theta: Float[Array, "*s"],
    temperature: float | Float[Array, ""],
    samples: int,
    *,
    antithetic: bool = False,
    smoothing: float = 0.0,
) -> Float[Array, "samples *s"]:
    """Return samples relaxed Bernoulli masks from their rates (Eq. 5).

    z = σ((log(θ / (1 - θ)) + log(η / (1 - η))) / t), η uniform on (0, 1).

    Args:
      theta: rate of z = 1 ("replaced"), in (0, 1). Clipped one rounding step inside, so
        that a rate that rounded to 0 or 1 gives a mask and a zero gradient, not a NaN.
      temperature: t > 0; masks become binary as t falls to 0.
      samples: how many masks.
      antithetic: draw η and 1 - η in pairs. `samples` must be even.
      smoothing: σ of the Gaussian that makes the η of neighbouring pixels (the last two axes) go
        together, in pixels of a 224 px mask; 0: each pixel draws by itself. The rate of every
        single pixel stays what θ says.

    Returns:
      z in [0, 1]; 1 = replaced by the infill.

    Example:
      >>> z = concrete_dropout(jax.random.key(0), jnp.full((4, 4), 0.5), 0.1, 8)
      >>> z.shape
      (8, 4, 4)
    """
    eps = jnp.finfo(theta.dtype).epsneg
    theta = jnp.clip(theta, eps, 1 - eps)
    noise = _logistic_noise(key, (samples, *theta.shape), theta.dtype, antithetic, smoothing)
    odds = jnp.log(theta / (1 - theta))
    return jax.nn.sigmoid((odds[None] + noise) / temperature)


def simplified_concrete_dropout(
    key: Key[Array, ""],
    logits: Float[Array, "*s"],
    temperature: float | Float[Array, ""],
    samples: int,
    *,
    antithetic: bool = False,
    smoothing: float = 0.0,
) -> Float[Array, "samples *s"]:
    """Return samples relaxed Bernoulli masks from the logits ϑ of their rates (Eq. 8).

    z = σ((ϑ + log(η / (1 - η))) / t). Equal to `concrete_dropout` with θ = σ(ϑ) and the
    same key, without the detour through θ. Its gradient is z(1 - z)/t.

    Args and returns: as `concrete_dropout`, but `logits` is any real number.

    Example:
      >>> key, logits = jax.random.key(0), jnp.ones((4, 4))
      >>> z = simplified_concrete_dropout(key, logits, 0.5, 8)
      >>> bool(jnp.allclose(z, concrete_dropout(key, jax.nn.sigmoid(logits), 0.5, 8), atol=1e-5))
      True
    """
    noise = _logistic_noise(key, (samples, *logits.shape), logits.dtype, antithetic, smoothing)
    return jax.nn.sigmoid((logits[None] + noise) / temperature)
