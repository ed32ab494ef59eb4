"""How many images FIDO optimises together, and how many masked ones the model is shown at a time,
where the user does not say: as many as fit."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from fgjax.attribution.common.streaming import (
    Choice,
    bytes_per_image,
    largest_power_of_two,
    remembered,
    surely_fits,
)
from fgjax.attribution.fido.config import FidoConfig
from fgjax.attribution.fido.loop import step_config
from fgjax.attribution.fido.step import fido_start, fido_step
from fgjax.core.functional import Static, combine
from fgjax.devices.memory import (
    MARGIN,
    free_bytes,
    host_free_bytes,
    images_that_fit,
    program_bytes,
)
from fgjax.devices.placed import device_of

FULL = 256
"""Images that a model is shown at once, masked or as they are, beyond which an accelerator is
taken not to become faster."""
UNKNOWN = 16
"""Images at a time on an accelerator that does not tell its memory."""
ROOM = 0.8
"""The share of the free memory that a step may take. More than `MARGIN`: what is accounted is the
step itself, not the model alone."""

_chosen: dict[Any, Choice] = {}
_masks: dict[Any, Choice] = {}


def choose_images(
    arrays: tuple[Any, ...],
    static: Static,
    images: Float[Array, "n h w c"],
    config: FidoConfig,
) -> int:
    """Return images that a step optimises: 1 on a CPU, where that is fastest; on an accelerator a
    power of two for each device of the model that lets at most `FULL` masked images into a step,
    and fits.

    Remembered for each model and shape, as `choose_chunk` does: another number is another program.
    """
    device = device_of(images, arrays)
    if device.platform == "cpu":
        return 1
    devices = getattr(combine(arrays, static), "spread_over", 1)
    most = most_images(-(-images.shape[0] // devices), config)
    free = free_bytes(device)
    widths = tuple(None if a is None else (a.shape, str(a.dtype)) for a in arrays)
    known = step_config(config), config.mask_size
    place = (static, widths, images.shape[1:], known, most, device.device_kind)
    shape, fixed = images.shape[1:], sum(a.nbytes for a in arrays if a is not None)
    account = lambda count: step_bytes(arrays, static, config, (count * devices, *shape))
    find = lambda: accounted(account, fixed, free, most)
    return devices * remembered(_chosen, place, free, find)


def choose_masks(
    arrays: tuple[Any, ...],
    static: Static,
    images: Float[Array, "n h w c"],
    config: FidoConfig,
    together: int,
) -> int:
    """Return masked images that the model is shown at a time: all of a step's, or as many as fit
    into half of the free memory, by XLA's account of the model, where a step is of one image.

    Args:
      together: images of a step. Where there are several they were found to fit, or are wished.
    """
    masked = 2 * config.batch_size * together
    devices = getattr(combine(arrays, static), "spread_over", 1)
    device = device_of(images, arrays)
    free = host_free_bytes() if device.platform == "cpu" else free_bytes(device)
    height, width, channels = images.shape[1:]
    if together > 1 or devices > 1 or free is None:
        return masked
    if surely_fits(arrays, masked * height * width, MARGIN * free):
        return masked
    widths = tuple(None if a is None else (a.shape, str(a.dtype)) for a in arrays)
    place = (static, widths, images.shape[1:], masked, device.device_kind)

    def find() -> int:
        shape = (height, width, channels)
        each = bytes_per_image(arrays, static, shape, images.dtype, backward=True)
        fitting = masked if each is None else int(MARGIN * free // each)
        return masked if fitting >= masked else largest_power_of_two(fitting)

    return remembered(_masks, place, free, find)


def most_images(there: int, config: FidoConfig) -> int:
    """Return the most images that a step is of use for: a power of two, at most those there are."""
    return largest_power_of_two(min(there, FULL / (2 * config.batch_size)))


def accounted(
    account: Callable[[int], int | None], fixed: int, free: int | float | None, most: int
) -> int:
    """Return the power of two of images whose step fits into `ROOM` of the free memory.

    One image's step is accounted, then that of as many as should fit by it, which is halved while
    it is too high. Where account or memory are not told, `UNKNOWN`.

    Args:
      account: images -> bytes of their step; None: the compiler does not tell.
      fixed: bytes of a step without images.
      free: bytes there are.
      most: see `most_images`.
    """
    if most == 1:
        return 1
    one = None if free is None else account(1)
    if free is None or one is None:
        return min(most, UNKNOWN)
    found = images_that_fit(max(1, one - fixed), fixed, ROOM * free, most)
    while found > 1 and (account(found) or 0) > ROOM * free:
        found //= 2
    return found


def step_bytes(
    arrays: tuple[Any, ...],
    static: Static,
    config: FidoConfig,
    shape: tuple[int, ...],
    sharding: Any = None,
) -> int | None:
    """Return what the step of FIDO takes on every device for images of a shape `n h w c`; None
    where the compiler does not tell. It is compiled, not run.

    Args:
      sharding: of all that has a row per image.
    """
    rows = lambda tree: jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )
    known, (count, height, width, _) = step_config(config), shape
    sides = (config.mask_size, config.mask_size) if config.mask_size else (height, width)
    logits = jax.ShapeDtypeStruct((count, 2, *sides), np.float32)
    state = rows(jax.eval_shape(lambda logits: fido_start(logits, known), logits))
    images = rows(jax.ShapeDtypeStruct(shape, np.float32))
    targets = rows(jax.ShapeDtypeStruct((count,), np.int32))
    keys = rows(jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count)))
    step = fido_step.lower(state, arrays, static, images, images, targets, keys, known)
    return program_bytes(step.compile())
