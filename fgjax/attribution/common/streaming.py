"""Many perturbed images through one compiled step: how many at a time, and in which order.

A method that asks the model K questions about each of n images asks them in calls of at most
`chunk_size` perturbed images. What a call leaves behind is a sum or a score for each question,
never its images: the peak of memory is that of one call, however large K is.

The calls are made from Python: XLA's CPU backend runs convolutions inside a scan on a slow
path, and a call costs a tenth of a millisecond beside the forward passes in it.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fgjax.core.filters import REFERENCE_SIDE
from fgjax.core.functional import Static, combine
from fgjax.devices.jit import program
from fgjax.devices.memory import MARGIN, free_bytes, host_free_bytes, images_that_fit
from fgjax.devices.placed import device_of

CPU_CHUNK = 8
"""Images of 224 x 224 per call on a CPU. ResNet-18 on two cores needs per image 51 ms at 1,
and 27, 28, 28, 28, 31 ms at 4, 8, 16, 32, 64; forward and backward 66, 65, 67, 65 ms at 4, 8,
16, 32. So 8: as fast as any, and a short last call wastes little."""

LARGEST_CHUNK = 512
UNKNOWN_CHUNK = 32
"""What is taken on an accelerator that does not tell its memory."""

ACTIVATIONS = 4096
"""Bytes per pixel of an image, forward and backward, that no network here of less than `LARGE`
weights exceeds (ResNet-101: 3100; ViT-L/14: 9000). Where the host has room for so much, XLA's
account of the model would change nothing."""

LARGE = 200_000_000

_PROBE = 4


class Choice(NamedTuple):
    """A chunk that was chosen, and the memory that was free then."""

    size: int
    free: int | None


_chosen: dict[Any, Choice] = {}


def choose_chunk(
    arrays: tuple[Any, ...],
    static: Static,
    images: Float[Array | np.ndarray, "n ... c"],
    *,
    backward: bool,
) -> int:
    """Return perturbed images per model call, where the user does not say: a power of two.

    For each device that the model is spread over: on a CPU 8 images of 224 x 224 (see
    `CPU_CHUNK`), more of smaller and fewer of larger ones, 1 to 64; on an accelerator at most 512.
    In both cases no more than fit into half of the free memory, by what XLA says that the model
    needs when compiled for four images. Remembered for each model (its code and the shapes of its
    parameters), image shape and direction, while the free memory stays within a factor of two of
    what it was: another chunk is another program.

    Args:
      arrays, static: the model, see `fgjax.core.functional.partition`.
      images: such images; their number does not matter.
      backward: the calls take the gradient by the images, too.
    """
    shape = tuple(images.shape[1:])
    widths = tuple(None if a is None else (a.shape, str(a.dtype)) for a in arrays)
    device = device_of(images, arrays)
    place = (static, widths, shape, backward, device.device_kind)
    on_cpu = device.platform == "cpu"
    free = host_free_bytes() if on_cpu else free_bytes(device)
    find, devices = _fitting_on_cpu if on_cpu else _fitting, _devices(arrays, static)
    each = lambda: find(arrays, static, shape, images.dtype, backward, free, devices)
    return devices * remembered(_chosen, place, free, each)


def remembered(
    choices: dict[Any, Choice], place: Any, free: int | None, choose: Callable[[], int]
) -> int:
    """Return what was chosen for a place before, while the free memory stays within a factor of two
    of what it was; else what is chosen now."""
    before = choices.get(place)
    if before is None or not about_as_much(before.free, free):
        choices[place] = Choice(choose(), free)
    return choices[place].size


def about_as_much(before: int | None, now: int | None) -> bool:
    """Return whether free memory is within a factor of two of what it was."""
    if before is None or now is None:
        return before is now
    return before <= 2 * now and now <= 2 * before


def _fitting_on_cpu(arrays, static, shape, dtype, backward, free, devices) -> int:
    pixels = int(np.prod(shape[:-1]))
    most = largest_power_of_two(CPU_CHUNK * REFERENCE_SIDE**2 / pixels, 8 * CPU_CHUNK)
    room = None if free is None else MARGIN * free / devices
    if room is None or most == 1 or surely_fits(arrays, most * pixels, room):
        return most
    needed = bytes_per_image(arrays, static, shape, dtype, backward)
    return most if needed is None else images_that_fit(needed, 0, room, most)


def surely_fits(arrays: tuple[Any, ...], pixels: int, room: float) -> bool:
    """Return whether images of so many pixels together fit, without asking XLA: see
    `ACTIVATIONS`."""
    weights = sum(a.size for a in arrays if a is not None)
    return weights < LARGE and pixels * ACTIVATIONS <= room


def largest_power_of_two(limit: int | float, most: int = LARGEST_CHUNK) -> int:
    """Return the largest power of two that exceeds neither; 1 where there is none."""
    return 2 ** int(np.log2(max(1.0, min(limit, most))))


def _devices(arrays, static) -> int:
    """Return how many a call of the model is split over, see `fgjax.devices.mesh.Spread`."""
    return getattr(combine(arrays, static), "spread_over", 1)


def _fitting(arrays, static, shape, dtype, backward, free, devices) -> int:
    needed = bytes_per_image(arrays, static, shape, dtype, backward)
    if free is None or needed is None:
        return UNKNOWN_CHUNK
    return largest_power_of_two(MARGIN * free / needed)


def bytes_per_image(
    arrays: tuple[Any, ...], static: Static, shape: tuple[int, ...], dtype: Any, backward: bool
) -> int | None:
    """Return what one perturbed image of `shape` costs, by XLA's account of the compiled model.

    A quarter of the temporaries and outputs of a call that gives a device four images, and the
    image itself twice (as it is and perturbed). None where the compiler does not tell.
    """
    images = jax.ShapeDtypeStruct((_PROBE * _devices(arrays, static), *shape), dtype)
    program = _backward if backward else _forward
    analysis = program.lower(arrays, static, images).compile().memory_analysis()
    if analysis is None:
        return None
    call = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    return call // _PROBE + 2 * int(np.prod(shape)) * np.dtype(dtype).itemsize


@program("explain", static_argnames="static")
def _forward(arrays, static, images):
    return combine(arrays, static)(images)


@program("explain", static_argnames="static")
def _backward(arrays, static, images):
    def total(images):
        outputs = jax.tree.leaves(combine(arrays, static)(images))
        return sum(jnp.sum(leaf.astype(jnp.float32)) for leaf in outputs)

    return jax.grad(total)(images)


class Chunk(NamedTuple):
    """Places of one call, from `start` on. The last call is filled up with the last place, and
    `keep` is False there."""

    index: Int[np.ndarray, "size"]
    keep: Bool[np.ndarray, "size"]

    @property
    def start(self) -> np.int32:
        """The first place."""
        return self.index[0]


def chunks(count: int, size: int) -> Iterator[Chunk]:
    """Yield all places, `size` to a call; every call is as long, so that one program serves all."""
    for start in range(0, count, size):
        place = np.arange(start, start + size, dtype=np.int32)
        yield Chunk(np.minimum(place, count - 1).astype(np.int32), place < count)


class Plan(NamedTuple):
    """So many images and so many perturbations of each to a call."""

    images: int
    perturbations: int


def plan(images: int, perturbations: int, chunk_size: int) -> Plan:
    """Share a call's `chunk_size` places between images and perturbations of each.

    Perturbations first, and where they do not fill a call, several images. Calls are made
    equally long: 225 perturbations at 128 go as 2 x 113 rather than 128 and 97, which would
    be filled up to 2 x 128.
    """
    each = least_in_vain(perturbations, chunk_size)
    return Plan(even(images, max(1, chunk_size // each)), each)


def least_in_vain(count: int, most: int) -> int:
    """Return how many go together where `count` go at most `most` at a time and the last call is
    filled up: of 51 at 8, 4 (13 calls of 4 for 51), where calls of 8 would compute 56.

    A call is taken to cost as much as a thirty-second of the largest, beside its images.

    Example:
      >>> least_in_vain(51, 8), least_in_vain(225, 128), least_in_vain(64, 8)
      (4, 113, 8)
    """
    if count <= most:
        return count
    sizes = range(max(1, most // 2), most + 1)
    return min(sizes, key=lambda size: (-(-count // size) * (size + most / 32), -size))


def even(count: int, most: int) -> int:
    """Return how many go together where `count` go at most `most` at a time, in as few and equally
    long turns as can be: of 17 at 16, 9.

    Example:
      >>> even(17, 16), even(16, 16), even(5, 8)
      (9, 16, 5)
    """
    calls = max(1, -(-count // most))
    return -(-count // calls)
