"""The largest batch that fits a device, for a given model and training step.

Mukherjee's Algorithm 3 (Proxy Attention, 2023, section 4.14) doubles and halves the batch until
a step fails. Here XLA's account of the compiled step takes the place of most failures, the
search ends, and its result is remembered for each kind of device.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fgjax.core.files import user_cache, write_atomic
from fgjax.devices.memory import MARGIN, free_bytes, is_exhausted, program_bytes
from fgjax.models.classifier import Classifier
from fgjax.training.classifier import Recipe, start, train_step

FIRST = 32
"""Where the search begins; a guess that is right costs two compilations."""


def largest_batch(fits: Callable[[int], bool], limit: int, first: int = FIRST) -> int:
    """Return the largest power of two that fits and does not exceed `limit`.

    Doubled from `first` while it fits, or halved until it does: at most log2(limit) + 1 calls.

    Args:
      fits: whether a batch of so many does; what fits, fits when it is smaller, too.
      limit: at least 1: the images there are.

    Raises:
      ValueError: not even one image fits.
    """
    size = 1
    while size * 2 <= min(first, limit):
        size *= 2
    if fits(size):
        while size * 2 <= limit and fits(size * 2):
            size *= 2
        return size
    while size > 1:
        size //= 2
        if fits(size):
            return size
    raise ValueError("not even a batch of one image fits the device's memory")


def cache_file() -> Path | None:
    """Return where a user's findings are kept; None for a user without a home."""
    base = user_cache()
    return None if base is None else base / "batch_sizes.json"


def _shapes(
    model: Classifier, recipe: Recipe, batch: int, side: int, labels: tuple[int, ...], patches: int
) -> tuple[tuple, dict]:
    """Return the arguments of `train_step`, without their values."""
    state = jax.eval_shape(lambda: start(model, recipe))
    images: Any = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.uint8)
    if patches:
        images = (images, jax.ShapeDtypeStruct((batch, patches, 4), jnp.float32))
    classes = jax.ShapeDtypeStruct((batch, *labels), jnp.int32)
    static = dict(network=model.network, mean=model.mean, std=model.std, recipe=recipe)
    return (state, images, classes, jax.eval_shape(lambda: jax.random.key(0))), static


def step_bytes(
    model: Classifier,
    recipe: Recipe,
    batch: int,
    side: int,
    labels: tuple[int, ...] = (),
    patches: int = 0,
) -> int | None:
    """Return what a training step on so many images of this side takes: see `program_bytes`."""
    shapes, static = _shapes(model, recipe, batch, side, labels, patches)
    return program_bytes(train_step.lower(*shapes, **static).compile())


def device_memory() -> int | None:
    """Return bytes to plan with: an accelerator's free ones, or the host's; None where it is not
    told."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return free_bytes(device)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return None


def step_runs(
    model: Classifier,
    recipe: Recipe,
    batch: int,
    side: int,
    labels: tuple[int, ...] = (),
    patches: int = 0,
) -> bool:
    """Return whether a step on so many empty images runs; False when the device's memory is
    exhausted.

    Raises:
      jax.errors.JaxRuntimeError: whatever else goes wrong.
    """
    (_, shapes, _, _), static = _shapes(model, recipe, batch, side, labels, patches)
    state = jax.tree.map(jnp.array, start(model, recipe))
    images = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    classes = jnp.zeros((batch, *labels), jnp.int32)
    try:
        jax.block_until_ready(train_step(state, images, classes, jax.random.key(0), **static))
    except jax.errors.JaxRuntimeError as error:
        if not is_exhausted(error):
            raise
        return False
    return True


def find_batch_size(
    model: Classifier,
    recipe: Recipe,
    side: int,
    limit: int,
    cache: Path | None = None,
    memory: int | None = None,
    labels: tuple[int, ...] = (),
    patches: int = 0,
) -> int:
    """Return the largest power of two of images that a step on one device can take.

    A step fits when XLA's account of it stays within half of the memory (`MARGIN`); on an
    accelerator it must run, too. Where the memory is not known, `FIRST`, or less if `limit` is.

    Args:
      model, recipe: of the step.
      side: of the images, before they are cropped.
      limit: the images there are.
      cache: a JSON file of what was found before, for each device, model, step and memory.
      memory: bytes to plan with; None: what the device has.
      labels: shape of one image's labels.
      patches: boxes that an image comes with, for a network that looks at patches.

    Raises:
      ValueError: not even one image fits.
    """
    memory = device_memory() if memory is None else memory
    place = _key(model, recipe, side, limit, memory, labels, patches)
    known = _read(cache)
    if place in known:
        return known[place]
    accelerator = jax.default_backend() != "cpu"

    def fits(batch: int) -> bool:
        needed = step_bytes(model, recipe, batch, side, labels, patches)
        if memory is None or needed is None:
            return batch <= FIRST
        return needed <= MARGIN * memory and (
            not accelerator or step_runs(model, recipe, batch, side, labels, patches)
        )

    found = largest_batch(fits, limit)
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(cache, json.dumps(_read(cache) | {place: found}, indent=1) + "\n")
    return found


def _key(
    model: Classifier,
    recipe: Recipe,
    side: int,
    limit: int,
    memory: int | None,
    labels: tuple[int, ...],
    patches: int,
) -> str:
    """Return device, memory in GiB, and a hash of the step as it is before XLA compiles it."""
    shapes, static = _shapes(model, recipe, 2, side, labels, patches)
    text = train_step.lower(*shapes, **static).as_text()
    digest = hashlib.sha256(f"{jax.__version__} {limit} {text}".encode()).hexdigest()[:16]
    size = "?" if memory is None else f"{memory / 2**30:.1f}"
    return f"{jax.local_devices()[0].device_kind}, {size} GiB, {digest}"


def _read(cache: Path | None) -> dict[str, Any]:
    if cache is None:
        return {}
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a cache that is lost or damaged is found anew
        return {}
    good = isinstance(known, dict)
    return {k: v for k, v in known.items() if isinstance(v, int)} if good else {}
