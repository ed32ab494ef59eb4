"""The image times its gradient: what each pixel gives to the score, were the model linear.

References:
  Shrikumar et al., Not Just a Black Box: Learning Important Features Through Propagating
    Activation Differences, 2016 (arXiv:1605.01713, section 1).
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.common.score_gradient import Reduce, attribution, input_gradient
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.gradients import GradientConfig
from fgjax.attribution.registry import Method, Passes
from fgjax.core.option import option


@dataclass(frozen=True)
class InputXGradientConfig(GradientConfig):
    """Settings of input times gradient."""

    reduce: Reduce = option(
        "abs_sum",
        'as in `GradientConfig`; channels are summed, then made positive ("abs_sum"), because '
        "what a pixel's channels give to the score adds up.",
    )


@with_config
def input_x_gradient(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: InputXGradientConfig = InputXGradientConfig(),
) -> Attribution:
    """Return the image times the gradient of the score.

      M_ijc = x_ijc · ∂s/∂x_ijc

    Of a linear score these are its terms. x is the image in [0, 1]: a black pixel gives nothing,
    whatever the gradient; with the image in the model's normalised space other pixels would.

    Args:
      model: any callable pytree, images -> logits.
      images: RGB in [0, 1].
      targets: class index per image.
      key: not used.
      config: see `InputXGradientConfig`.

    Returns:
      heatmap: channels reduced by `config.reduce`, divided by the image's maximum. maps:
      "signed", the sum over channels.

    Raises:
      ValueError: as in `gradient`.

    Example:
      >>> model = lambda images: images.mean((1, 2)) * 10  # as many classes as channels
      >>> images, target = jnp.full((1, 16, 16, 3), 0.5), jnp.array([0])
      >>> result = input_x_gradient(model, images, target)
      >>> round(float(result.maps["signed"].sum()), 3)  # the score
      5.0
    """
    images = jnp.asarray(images, jnp.float32)
    values = images * input_gradient(
        model, images, targets, score=config.score, chunk_size=config.chunk_size
    )
    return attribution(values, config.reduce, "signed")


INPUT_X_GRADIENT = Method(
    input_x_gradient,
    InputXGradientConfig,
    passes=lambda *_: Passes(0, 1),
    needs=("gradient",),
    order=85,
)
