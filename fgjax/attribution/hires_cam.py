"""HiResCAM: each place of the last feature map counts what its own values add to the score.

Reference:
  Draelos & Carin, Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional
  neural networks, 2020.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.cam import (
    GradCamConfig,
    enlarged,
    prepare_features,
    prepared_gradient,
)
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes


@dataclass(frozen=True)
class HiresCamConfig(GradCamConfig):
    """Settings of HiResCAM: those of `GradCamConfig`."""


@jax.jit
def _contributions(features, gradient):
    return (features * gradient).sum(-1)


@with_config
def hires_cam(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: HiresCamConfig = HiresCamConfig(),
) -> Attribution:
    """HiResCAM: the gradient is not averaged over places.

      L = ReLU(Σ_k ∂s/∂A^k ⊙ A^k)   (Draelos & Carin 2020, Eq. 2)

    For a head that is linear in the features, with its bias b, the map before ReLU and enlarging
    sums to s − b: each place holds what it adds to the score. Behind global average pooling the
    gradient is the same everywhere, and the map is Grad-CAM's.

    Args:
      model: a classifier with `features(images)` and `head(features)`.
      images: RGB in [0, 1].
      targets: class index per image.
      key: not used.
      config: see `HiresCamConfig`.

    Returns:
      heatmap: L, enlarged and divided by the image's maximum. maps: "signed", the same without the
      ReLU, enlarged.

    Raises:
      ValueError: as in `grad_cam`.
    """
    prepared = prepare_features(model, images, targets, "hires_cam")
    features, gradient = prepared_gradient(prepared, config.score, config.chunk_size)
    return enlarged(_contributions(features, gradient), prepared.images)


HIRES_CAM = Method(
    hires_cam,
    HiresCamConfig,
    passes=lambda *_: Passes(1, 0),  # the head alone is differentiated
    needs=("gradient", "features"),
    order=142,
)
