"""Region attention: what a network that groups pixels into parts says of itself."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.cam import enlarge
from fgjax.attribution.common.perturbation import check_at_least_one, positive_part
from fgjax.attribution.common.score_gradient import chunk_for, prepare
from fgjax.attribution.common.settings import with_config
from fgjax.attribution.common.streaming import chunks
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes
from fgjax.core.functional import combine
from fgjax.core.option import option
from fgjax.devices.jit import program


@dataclass(frozen=True)
class RegionAttentionConfig:
    """Settings of region attention."""

    chunk_size: int | None = option(
        None,
        "images per model call; None: as memory allows.",
        free=True,
    )

    def __post_init__(self):
        check_at_least_one(self, "chunk_size")


@program("explain", static_argnames="static")
def _regions(arrays, static, images, targets):
    found = combine(arrays, static).regions(images)
    attribution = found.attribution
    if attribution.ndim == 4:  # a head for each attribute
        attribution = jnp.take_along_axis(attribution, targets[:, None, None, None], axis=1)[:, 0]
    height, width = images.shape[1:3]
    parts = [
        enlarge(found.assignment[..., k], height, width) for k in range(found.assignment.shape[-1])
    ]
    return enlarge(attribution, height, width), parts


@with_config
def region_attention(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: RegionAttentionConfig = RegionAttentionConfig(),
) -> Attribution:
    """Return the pixel attribution Qᵀa of a region grouping network: every pixel counts as much as
    the parts it belongs to (Huang and Li 2020, section 3.3).

    The network decides by its parts' features, weighted by the attention a: this is no estimate
    of what it does but a piece of it. It is the same for every class; attributes have their own.

    Args:
      model: a classifier with `regions(images)`, such as
        `create_model("region_grouping", …)`; what it returns has `assignment` n H W k and
        `attribution` n H W, or n a H W with an attribute for each target.
      images: RGB in [0, 1].
      targets: class index per image; checked, and for attributes the one that is asked for.
      key: not used.
      config: see `RegionAttentionConfig`.

    Returns:
      heatmap: Qᵀa, enlarged and divided by the image's maximum. maps: "attribution", Qᵀa as it
      is, and "part_1" … "part_k", the share of each part, all enlarged.

    Raises:
      ValueError: a model without parts; shapes that do not fit, a target outside the model's
        classes, or images outside [0, 1].
    """
    if not callable(getattr(model, "regions", None)):
        raise ValueError(
            "region_attention needs a model that groups pixels into parts, with regions(images); "
            f"{getattr(model, 'name', '') or type(model).__name__} has none. "
            "model.name=region_grouping trains one"
        )
    arrays, static, images, targets = prepared = prepare(model, images, targets)
    size = chunk_for(prepared, config.chunk_size, len(images), backward=False)
    found, shares = [], []
    for index, keep in chunks(len(images), size):
        attribution, parts = _regions(arrays, static, images[index], jnp.asarray(targets[index]))
        found.append(attribution[: keep.sum()])
        shares.append([part[: keep.sum()] for part in parts])
    attribution = jnp.concatenate(found)
    maps = {f"part_{k}": jnp.concatenate(p) for k, p in enumerate(zip(*shares), start=1)}
    return Attribution(positive_part(attribution), {"attribution": attribution, **maps})


REGION_ATTENTION = Method(
    region_attention,
    RegionAttentionConfig,
    passes=lambda *_: Passes(1, 0),
    needs=("regions",),
    order=170,
)
