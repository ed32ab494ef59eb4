"""Layer-wise relevance propagation: a score shared out over what it was made of, layer by layer.

Each layer hands the relevance of its outputs to its inputs, in shares of what they contributed;
none is made and, but for what biases take, none is lost. Of a transformer it is AttnLRP. The rules
stand with the networks (`fgjax.models.relevance`), as other gradients of their layers; this
method multiplies what arrives at the image by the image.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.common.perturbation import check_at_least_one, check_choice, positive_part
from fgjax.attribution.common.score_gradient import chunked_gradient, prepare, score_gradient
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.registry import Method, Passes
from fgjax.core.option import option

Rule = Literal["composite", "gamma", "epsilon"]


@dataclass(frozen=True)
class LrpConfig:
    """Settings of LRP and AttnLRP."""

    rule: Rule = option(
        "composite",
        'of linear layers: "composite", γ in convolutions and ε in dense layers (Montavon et al. '
        '2019); "gamma" or "epsilon" in all.',
    )
    gamma: float = option(0.25, "how much more counts what favours an output's sign.")
    epsilon: float = option(1e-6, "added to denominators; more of it takes more relevance away.")
    chunk_size: int | None = option(
        None, "images per model call; None: as memory allows.", free=True
    )

    def __post_init__(self):
        check_choice(self, "rule", get_args(Rule))
        check_at_least_one(self, "chunk_size")
        for name in ("gamma", "epsilon"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be below 0")


def relevance(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    config: LrpConfig = LrpConfig(),
) -> Float[Array, "n h w c"]:
    """Return the relevance of every value of each image for its target's logit.

    Raises:
      ValueError: as in `lrp`.
    """
    if not callable(getattr(model, "with_rules", None)):
        raise ValueError(
            f"lrp needs layers with rules of relevance, with_rules(…); {type(model).__name__} has "
            "none. fgjax's classifiers have (create_model, load_pretrained, load_classifier)"
        )
    conv = config.gamma if config.rule != "epsilon" else 0.0
    dense = config.gamma if config.rule == "gamma" else 0.0
    ruled = model.with_rules(epsilon=config.epsilon, conv_gamma=conv, dense_gamma=dense)
    prepared = prepare(ruled, images, targets)
    program = partial(score_gradient, score="logit")
    gradient = chunked_gradient(program, prepared, config.chunk_size)
    # The network's own input is (x - mean) / std: its product with its gradient is this.
    mean = jnp.asarray(getattr(model, "mean", 0), jnp.float32).reshape(1, 1, 1, -1)
    return (prepared.images - mean) * gradient


def lrp(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    key: Key[Array, "..."] | None = None,
    config: LrpConfig = LrpConfig(),
) -> Attribution:
    """Layer-wise relevance propagation; of a transformer, AttnLRP.

      R_i = Σ_j x_i w_ij / (Σ_i x_i w_ij + ε sign) · R_j      (Bach et al. 2015, Eq. 58: ε)
      w ← w + γ w⁺ where that favours the output's sign       (Montavon et al. 2019: γ)
      softmax: R_i = x_i (R_i − s_i Σ_j R_j)                  (Achtibat et al. 2024, Prop. 3.1)
      products: half of R to each factor                      (Prop. 3.3)
      activations and normalisations: R passes as it is       (section 3.2.1, Prop. 3.4)

    Args:
      model: a classifier of fgjax, or another with `with_rules(epsilon, conv_gamma,
        dense_gamma)`: the same function of the images, with rules in place of gradients.
      images: RGB in [0, 1].
      targets: class index per image.
      key: not used.
      config: see `LrpConfig`.

    Returns:
      heatmap: where a pixel's relevance, summed over the channels, is positive; divided by the
      image's maximum. maps: "signed", that sum itself. Over the image it is the logit, less what
      biases and ε took.

    Raises:
      ValueError: a model without rules; shapes that do not fit, a target outside the model's
        classes, or images outside [0, 1].
    """
    signed = relevance(model, images, targets, config=config).sum(-1)
    return Attribution(positive_part(jnp.maximum(signed, 0)), {"signed": signed})


LRP = Method(
    lrp,
    LrpConfig,
    passes=lambda *_: Passes(0, 1),
    presets={
        "epsilon": dict(rule="epsilon"),
        "gamma": dict(rule="gamma"),
        "attn-lrp": dict(rule="epsilon"),
    },
    needs=("gradient", "rules"),
    order=105,
)
