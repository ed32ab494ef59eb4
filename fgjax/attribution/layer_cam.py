"""LayerCAM: each place of a feature map is weighed by its own positive gradient.

Reference:
  Jiang, Zhang, Hou, Cheng, Wei, LayerCAM: Exploring Hierarchical Class Activation Maps for
  Localization, IEEE TIP 2021.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
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
class LayerCamConfig(GradCamConfig):
    """Settings of LayerCAM: those of `GradCamConfig`."""


@jax.jit
def _weigh(features, gradient):
    return (features * jnp.maximum(gradient, 0)).sum(-1)


@with_config
def layer_cam(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: LayerCamConfig = LayerCamConfig(),
) -> Attribution:
    """LayerCAM: a weight for each place and channel, its positive gradient.

      w^k_ij = ReLU(∂s/∂A^k_ij)              (Jiang et al. 2021, Eq. 5)
      L = ReLU(Σ_k w^k ⊙ A^k)                (Eqs. 6 and 7)

    Here of the last feature map, which every model with `features` and `head` has. Of shallower
    layers the paper scales the map by tanh and takes the pixelwise maximum with this one.

    Args:
      model: a classifier with `features(images)` and `head(features)`.
      images: RGB in [0, 1].
      targets: class index per image.
      key: not used.
      config: see `LayerCamConfig`.

    Returns:
      heatmap: L, enlarged and divided by the image's maximum. maps: "signed", the same without the
      outer ReLU, enlarged.

    Raises:
      ValueError: as in `grad_cam`.
    """
    prepared = prepare_features(model, images, targets, "layer_cam")
    features, gradient = prepared_gradient(prepared, config.score, config.chunk_size)
    return enlarged(_weigh(features, gradient), prepared.images)


LAYER_CAM = Method(
    layer_cam,
    LayerCamConfig,
    passes=lambda *_: Passes(1, 0),  # the head alone is differentiated
    needs=("gradient", "features"),
    order=144,
)
