"""How much does the map change when the image hardly does?"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from fgjax.core.keys import image_keys

RADIUS, SAMPLES = 0.02, 10


def max_sensitivity(
    explain: Callable,
    model: Callable,
    images: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    *,
    key: Key[Array, "..."],
    radius: float = RADIUS,
    samples: int = SAMPLES,
) -> Float[Array, "n"]:
    """Return the largest change of a map Φ under small changes of the image, as a share of the map.

      max over y of ‖Φ(y) − Φ(x)‖₂ / ‖Φ(x)‖₂,   |y_i − x_i| ≤ radius in every pixel, channel

    The maximum is over `samples` images drawn evenly from that cube, cut to [0, 1]: a lower
    bound that rises with `samples`. At least 0, lower is better; a constant method has 0.

    Args:
      explain: `explain(model, images, targets) -> n h w`, called samples + 1 times. A method
        that draws at random should draw the same in each call, or its noise is measured too.
      key: one key, or one per image; with one, image i uses `fold_in(key, i)`.
      radius: in units of the image, whose values span 0 to 1.

    Returns:
      A value per image; NaN where Φ(x) is 0 everywhere or any of the maps has a NaN.

    Raises:
      ValueError: a radius that is not positive; samples below 1.

    References:
      Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019
      (its definition does not divide by ‖Φ(x)‖). Dividing, this radius and this number of
      samples are those of Captum's `sensitivity_max`.
    """
    if not radius > 0 or samples < 1:
        raise ValueError(f"radius={radius}, samples={samples}: must be above 0, and at least 1")
    keys = image_keys(key, len(images))
    start = explain(model, images, targets)
    largest = jnp.zeros(len(images), jnp.float32)
    for sample in range(samples):
        near = _nearby(images, keys, sample, radius)
        largest = jnp.maximum(largest, _change(start, explain(model, near, targets)))
    return largest


def sensitivity_protocol(*, radius: float = RADIUS, samples: int = SAMPLES) -> str:
    """Return what a number of `max_sensitivity` was measured with, to print beside it."""
    return (
        f"largest change of the map (L2, as a share of the map's) over {samples} images drawn "
        f"evenly within {radius:g} of each pixel value in [0, 1]"
    )


@jax.jit
def _nearby(images, keys, sample, radius):
    def noise(key):
        key = jax.random.fold_in(key, sample)
        return jax.random.uniform(key, images.shape[1:], images.dtype, -1, 1)

    return jnp.clip(images + radius * jax.vmap(noise)(keys), 0, 1)


@jax.jit
def _change(before, after):
    change, size = (
        jnp.sqrt(jnp.sum(maps.astype(jnp.float32) ** 2, axis=(1, 2)))
        for maps in (after - before, before)
    )
    return jnp.where(size > 0, change / size, jnp.nan)
