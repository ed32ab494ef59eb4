"""How many images are explained at a time, where the user does not say."""

from dataclasses import replace
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fgjax.attribution.common.streaming import even, largest_power_of_two
from fgjax.attribution.fido.config import FidoConfig
from fgjax.attribution.fido.images_per_step import (
    FULL,
    UNKNOWN,
    accounted,
    most_images,
    step_bytes,
)
from fgjax.attribution.registry import count_passes, needs
from fgjax.core.functional import partition
from fgjax.devices.memory import free_bytes
from fgjax.options.schema import Config


def given_or_usual(settings: Any, devices: int) -> int:
    """Return images at a time without a look at the memory: as set, else 1 on a CPU and 16 on an
    accelerator, per device."""
    given = getattr(settings, "images_per_step", None)
    each = given or (1 if jax.default_backend() == "cpu" else UNKNOWN)
    return -(-each // devices) * devices if given else each * devices


def images_per_step(config: Config, model: Any, mesh: Mesh, pending: int, split: bool) -> int:
    """Return images that are explained at a time, a multiple of the mesh's devices.

    As explain.images_per_step says; else one a device on a CPU, where masks are optimised fastest
    one image at a time. Else a power of two a device, at most the images there are:

    - of a method that optimises masks in steps for all images at once, what lets `FULL` masked
      images into a step, and no more than fit: one image's step is compiled, the step of as many
      as should fit by that is compiled, too, and halved while XLA's account of it is too high;
    - of any other, `UNKNOWN`, or more where an image is asked few questions. Those methods cut
      their model calls by memory themselves.

    The images there are go in equally long turns: 17 where 16 fit as 9 and 8.

    Args:
      model: spread over the mesh.
      pending: the images there are.
      split: a step's images are split over the mesh, not its model calls.
    """
    settings, devices = config.explain.settings, mesh.devices.size
    there = -(-pending // devices)
    usual = even(there, given_or_usual(settings, devices) // devices)
    if getattr(settings, "images_per_step", None) or jax.default_backend() == "cpu":
        return usual * devices
    side = config.data.size
    if not isinstance(settings, FidoConfig):
        asked = 1  # one masked copy of each image in a step
        if not hasattr(settings, "chunk_size"):
            asked = FULL  # it takes all images at once
        elif "descent" not in needs(config.explain.method):
            asked = sum(count_passes(config.explain.method, settings, side, side, FULL))
        found = largest_power_of_two(min(there, max(UNKNOWN, FULL / asked)))
        return devices * even(there, found)
    account = lambda count: fido_bytes(model, settings, count, side, mesh, split)
    fixed = sum(leaf.nbytes for leaf in jax.tree.leaves(model) if hasattr(leaf, "nbytes"))
    free = free_bytes(mesh.devices.flat[0])
    found = accounted(account, fixed, free, most_images(there, settings))
    return devices * even(there, found)


def fido_bytes(
    model: Any, settings: FidoConfig, each: int, side: int, mesh: Mesh, split: bool
) -> int | None:
    """Return what the step of FIDO for `each` images a device takes on every device; None where the
    compiler does not tell. It is compiled, not run."""
    sharding = NamedSharding(mesh, PartitionSpec("batch")) if split else None
    shape = (each * mesh.devices.size, side, side, 3)
    return step_bytes(*partition(model), settings, shape, sharding)


def halved(settings: Any, images: int, chunk: int | None, devices: int) -> tuple[Any, int] | None:
    """Return settings and number of images at a time for half the memory; None: nothing is left to
    halve. Of one image's step FIDO's masks are halved.

    Args:
      settings: of the method.
      images: at a time so far, a multiple of `devices`.
      chunk: perturbed images per model call so far; None: the method knows none.
    """
    fewer = max(1, images // devices // 2) * devices
    smaller = None if chunk is None else max(1, chunk // devices // 2) * devices
    if fewer == images and hasattr(settings, "masks_per_pass"):
        masks = (settings.masks_per_pass or 2 * settings.batch_size * images) // 2
        return (replace(settings, masks_per_pass=masks), images) if masks else None
    if fewer == images and smaller == chunk:
        return None
    if smaller is not None:
        settings = replace(settings, chunk_size=smaller)
    return settings, fewer
