"""Does the map depend on which class is explained?"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int, Key

from fgjax.core.functional import partition
from fgjax.core.keys import image_keys
from fgjax.devices.forward import output_shape
from fgjax.evaluation.order import rank_correlation
from fgjax.evaluation.randomisation import structural_similarity


class RandomLogit(NamedTuple):
    """How alike the maps of the class and of another one are.

    Attributes:
      others: the other class of each image.
      rank_correlation: Spearman's ρ over the pixels, in [−1, 1].
      ssim: structural similarity, in [−1, 1].
    """

    others: Int[Array, "n"]
    rank_correlation: Float[Array, "n"]
    ssim: Float[Array, "n"]


def random_logit(
    explain: Callable,
    model: Callable,
    images: Float[Array, "n h w c"],
    targets: Int[Array, "n"],
    *,
    key: Key[Array, "..."],
) -> RandomLogit:
    """Return how alike the map of each image's class is to that of another class, drawn evenly.

    Near 1 says that the map shows the image, whatever is asked. Of two classes the maps of one
    score are often each other's negative: look at |ρ|.

    Args:
      explain: `explain(model, images, targets) -> n h w`, called twice. A method that draws at
        random should draw the same in each call, or its noise is measured too.
      key: one key, or one per image; with one, image i uses `fold_in(key, i)`.

    Returns:
      Values per image. ρ is NaN where either map is constant, both are where a map has a NaN or an
      infinity.

    Raises:
      ValueError: a model of one class; maps smaller than 11 pixels.

    References:
      Sixt, Granz, Landgraf, When Explanations Lie: Why Many Modified BP Attributions Fail, ICML
      2020, §4.
    """
    classes = output_shape(*partition(model), images).shape[1]
    if classes < 2:
        raise ValueError("random logit: the model has one class only, there is no other one")
    keys = image_keys(key, len(images))
    # One of the others: a step of 1 to classes − 1 from the target, around the end.
    step = jax.vmap(lambda k: jax.random.randint(k, (), 1, classes))(keys)
    others = (targets + step.astype(targets.dtype)) % classes
    own, other = explain(model, images, targets), explain(model, images, others)
    flat = (maps.reshape(len(maps), -1) for maps in (own, other))
    return RandomLogit(others, rank_correlation(*flat), structural_similarity(own, other))


def random_logit_protocol() -> str:
    """Return between what the numbers of `random_logit` are measured, to print beside them."""
    return "of the map of the class and that of another class, drawn evenly"
