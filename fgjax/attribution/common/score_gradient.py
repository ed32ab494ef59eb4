"""The gradient of a class's score by the image, in calls of a bounded size.

What the gradient, the guided and the CAM methods share.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fgjax.attribution.common.inputs import check_inputs, class_targets, is_traced
from fgjax.attribution.common.perturbation import (
    CLASS_SCORES,
    positive_part,
)
from fgjax.attribution.common.streaming import choose_chunk, chunks
from fgjax.attribution.common.types import Attribution
from fgjax.core.functional import Static, combine, partition
from fgjax.devices.jit import program

Score = Literal["logit", "log_odds", "probability", "log_probability", "sigmoid"]
Reduce = Literal["max_abs", "sum_abs", "abs_sum", "norm"]


REDUCTIONS: dict[str, Callable] = {
    "max_abs": lambda values: jnp.abs(values).max(-1),
    "sum_abs": lambda values: jnp.abs(values).sum(-1),
    "abs_sum": lambda values: jnp.abs(values.sum(-1)),
    "norm": lambda values: jnp.sqrt(jnp.square(values).sum(-1)),
}
"""How a pixel's channels become one number: `n h w c -> n h w`."""


class Prepared(NamedTuple):
    """A model taken apart, and inputs that fit it."""

    arrays: tuple
    static: Static
    images: Float[Array, "n h w c"]
    targets: Int[np.ndarray, "n"]


def prepare(model: Any, images: Any, targets: Any) -> Prepared:
    """Take the model apart and checks that images and targets fit it.

    Raises:
      ValueError, TypeError: see `check_inputs` and `partition`.
    """
    images = jnp.asarray(images, jnp.float32)
    targets = class_targets(targets)
    arrays, static = partition(model)
    check_inputs(arrays, static, images, targets)
    return Prepared(arrays, static, images, targets if is_traced(targets) else np.asarray(targets))


def chunk_for(prepared: Prepared, chunk_size: int | None, count: int, *, backward: bool) -> int:
    """Return images per call: what the user says, or what fits; never more than there are."""
    arrays, static, images, _ = prepared
    chosen = chunk_size or choose_chunk(arrays, static, images, backward=backward)
    return min(chosen, count)


@partial(jax.jit, static_argnames="reduce")
def _heatmap(values, reduce):
    return positive_part(REDUCTIONS[reduce](values))


def attribution(values: Float[Array, "n h w c"], reduce: str, name: str) -> Attribution:
    """Return an attribution per channel as a heatmap, with its sum over channels as a map."""
    return Attribution(_heatmap(values, reduce), {name: values.sum(-1)})


@program("explain", static_argnames=("static", "score"))
def score_gradient(
    arrays: tuple,
    static: Static,
    images: Float[Array, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    score: str,
) -> Float[Array, "n h w c"]:
    """Return ∂s_c/∂x of each image. NaN where the score is: a ReLU would let no NaN through."""
    return image_gradient(combine(arrays, static), images, targets, score)


def image_gradient(
    model: Callable,
    images: Float[Array, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    score: str,
) -> Float[Array, "n h w c"]:
    """Return ∂s_c/∂x of each image, NaN where the score is, within a compiled program."""

    def total(images):
        values = CLASS_SCORES[score](model(images).astype(jnp.float32), targets)
        return values.sum(), values

    # Images never mix, so the gradient of the sum is each image's own.
    gradient, values = jax.grad(total, has_aux=True)(images)
    return jnp.where(jnp.isnan(values)[:, None, None, None], jnp.nan, gradient)


def chunked_gradient(
    program: Callable, prepared: Prepared, chunk_size: int | None
) -> Float[Array, "n h w c"]:
    """`program(arrays, static, images, targets)` over all images, in equal calls."""
    arrays, static, images, targets = prepared
    size = chunk_for(prepared, chunk_size, len(images), backward=True)
    parts = [
        program(arrays, static, images[index], targets[index])[: keep.sum()]
        for index, keep in chunks(len(images), size)
    ]
    return jnp.concatenate(parts)


def input_gradient(
    model: Any,
    images: Float[Array | np.ndarray, "n h w c"],
    targets: Int[Array | np.ndarray, "n"],
    *,
    score: str = "logit",
    chunk_size: int | None = None,
) -> Float[Array, "n h w c"]:
    """Return the raw gradient of each image's score by each of its values, ∂s_c(x)/∂x.

    Raises:
      ValueError: inputs that do not fit the model, see `check_inputs`.
    """
    program = partial(score_gradient, score=score)
    return chunked_gradient(program, prepare(model, images, targets), chunk_size)


@partial(jax.jit, donate_argnames="total")
def add_at(
    total: Float[Array, "n h w c"],
    image: Int[Array | np.ndarray, "m"],
    weight: Float[Array | np.ndarray, "m"],
    values: Float[Array, "m h w c"],
) -> Float[Array, "n h w c"]:
    """Return the sums with weighted values added, each to its image's."""
    weight = weight[:, None, None, None]
    # A place that only fills up a call has weight 0, and may hold a NaN.
    return total.at[image].add(jnp.where(weight == 0, 0, weight * values))


def places(count: int, each: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
    """Yield `(image, question, keep)` of every call: `each` questions on each of `count` images."""
    for index, keep in chunks(count * each, size):
        image, question = np.divmod(index, each)
        yield image, question, keep.astype(np.float32)
