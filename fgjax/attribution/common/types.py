"""What every attribution method returns."""

from dataclasses import dataclass, field

import jax
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Attribution:
    """Where in each image the evidence for its target lies.

    Attributes:
      heatmap: importance in [0, 1], one value a pixel.
      maps: what else the method made, by name, each `n h w`.
      traces: one number per image and optimisation step, each `n steps`, by name.
    """

    heatmap: Float[Array, "n h w"]
    maps: dict[str, Float[Array, "n h w"]] = field(default_factory=dict)
    traces: dict[str, Float[Array, "n steps"]] = field(default_factory=dict)
