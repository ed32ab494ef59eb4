"""When proxies are made, of which images, and how they stand in for them.

The schedule and the choice are pure functions; see `fgjax.training.proxies.proxy_attention`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from fgjax.data.pipeline import epoch_order


def proxy_epochs(epochs: int, start: float, stop: float, every: int) -> tuple[int, ...]:
    """Return the epochs, counted from 0, that begin with a proxy step.

    Args:
      epochs: of the training.
      start, stop: shares of the training; steps lie in [start, stop). The network must have
        seen the images before it is told that it looked at the wrong place, so epoch 0 has none.
      every: epochs from one step to the next.
    """
    first = max(1, round(start * epochs))
    return tuple(range(first, round(stop * epochs), every))


def clears(step: int, every: int) -> bool:
    """Return whether the step with this number, from 0, takes all earlier proxies back: every
    `every`-th does. 1: no proxy outlives the next step."""
    return step % every == 0


def chosen(wrong: Int[np.ndarray, "m"], share: float, seed: int, epoch: int) -> np.ndarray:
    """⌈share · m⌉ of the misclassified images, sorted; which ones is a function of all arguments.

    Algorithm 2 takes the first ones, which of an ordered set are all of one class.
    """
    count = int(np.ceil(round(share * len(wrong), 9)))
    return np.sort(wrong[epoch_order(seed, epoch, len(wrong))[:count]])


@dataclass(frozen=True)
class Proxies:
    """Which images are replaced, and by what.

    Attributes:
      places: of the replaced images in the set, ascending.
      pixels: their proxies, of the images' whole size.
    """

    places: Int[np.ndarray, "m"]
    pixels: UInt8[Array | np.ndarray, "m h w c"] | None

    def put(
        self, images: UInt8[Array | np.ndarray, "n h w c"], places: Int[np.ndarray, "n"]
    ) -> UInt8[Array | np.ndarray, "n h w c"]:
        """Return a batch of images of these places, with those that have a proxy exchanged for
        it."""
        slots = np.searchsorted(self.places, places)
        slots = np.minimum(slots, max(0, len(self.places) - 1))
        has = self.places[slots] == places if len(self.places) else np.zeros(len(places), bool)
        if not has.any():
            return images
        return _exchange(images, self.pixels, slots, has)

    def replace(self, places: Int[np.ndarray, "k"], pixels: Array) -> "Proxies":
        """Return these and new ones; an image that has one already gets the new one."""
        every, both = places, pixels
        if self.pixels is not None and len(self.places):
            stay = ~np.isin(self.places, places)
            every = np.concatenate([self.places[stay], places])
            both = jnp.concatenate([jnp.asarray(self.pixels)[stay], jnp.asarray(pixels)])
        order = np.argsort(every, kind="stable")
        if (np.diff(order) > 0).all():
            return Proxies(every, both)
        return Proxies(every[order], jnp.asarray(both)[order])


NONE = Proxies(np.zeros(0, np.int64), None)
"""No image is replaced."""


@jax.jit
def _exchange(images, pixels, slots, has):
    return jnp.where(has[:, None, None, None], jnp.asarray(pixels)[slots], jnp.asarray(images))
