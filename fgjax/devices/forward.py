"""A model called as a program of its own, compiled once; see `fgjax.core.functional`."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from fgjax.core.functional import Static, combine, partition
from fgjax.devices.jit import program


@program("explain", static_argnames="static")
def forward(arrays: tuple[Any, ...], static: Static, images: Float[Array, "n ..."]) -> Any:
    """Return what the model in its two parts (`partition`) returns."""
    return combine(arrays, static)(images)


def output_shape(arrays: tuple[Any, ...], static: Static, images: Array) -> Any:
    """Return what the model returns for such images, as shapes; nothing is computed, and a model
    that was asked before is not traced again."""
    return forward.eval_shape(arrays, static, images)


def compiled(model: Any) -> Callable[[Float[Array, "n h w c"]], Float[Array, "n k"]]:
    """Return the model as a jitted function `images -> logits`, its parameters passed as
    arguments."""
    arrays, static = partition(model)
    return lambda images: forward(arrays, static, images)
