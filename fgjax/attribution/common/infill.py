"""What a pixel is replaced by when a mask takes it away: x̂ in FIDO's Eq. 1.

Images are RGB in [0, 1], so every infill lives there too.

References:
  Chang et al., Explaining Image Classifiers by Counterfactual Generation, 2018.
  Popescu et al., Counterfactual Generation with Knockoffs, 2021.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from fgjax.core.filters import REFERENCE_SIDE, gaussian_blur, smooth
from fgjax.core.keys import image_keys
from fgjax.core.spelling import did_you_mean

Images = Float[Array, "n h w c"]
Infill = str | Array | np.ndarray | Callable[[Array, Array], Array]


def blur(images: Images, key: Key[Array, ""] | None = None, *, sigma: float = 11.6) -> Images:
    """Gaussian blur; `sigma` in pixels of a 224 px image, scaled with the shorter side."""
    return gaussian_blur(images, sigma)


def mean(images: Images, key: Key[Array, ""] | None = None) -> Images:
    """Return each image's own mean colour."""
    return jnp.broadcast_to(images.mean((1, 2), keepdims=True), images.shape)


def zeros(images: Images, key: Key[Array, ""] | None = None) -> Images:
    """Black."""
    return jnp.zeros_like(images)


def uniform(images: Images, key: Key[Array, ""]) -> Images:
    """Return uniform noise on [0, 1], each value by itself."""
    return jax.random.uniform(key, images.shape, images.dtype)


def normal(images: Images, key: Key[Array, ""]) -> Images:
    """Gaussian noise with each image's mean and deviation per channel, clipped to [0, 1]."""
    centre = images.mean((1, 2), keepdims=True)
    spread = images.std((1, 2), keepdims=True)
    noise = jax.random.normal(key, images.shape, images.dtype)
    return jnp.clip(centre + spread * noise, 0, 1)


def original(images: Images, key: Key[Array, ""] | None = None) -> Images:
    """Return the image itself: replacing changes nothing. A control: no mask should be found."""
    return images


def knockoff(images: Images, key: Key[Array, ""], *, tile: int = 9) -> Images:
    """Return the image with its pixels shuffled inside square tiles, as the released code has it.

    Every tile keeps its pixels, so colours stay where they are to within a tile; each has an order
    of its own, the same for all images of a call. At the right and lower edge a tile may be
    smaller. (The released code leaves what fills no whole tile there black.)

    `tile` is in pixels of a 224 px image, scaled with the shorter side.
    """
    n, height, width, channels = images.shape
    side = max(1, round(tile * min(height, width) / REFERENCE_SIDE))
    row, column = np.arange(height) // side, np.arange(width) // side
    tiles = jnp.asarray((row[:, None] * width + column[None]).ravel())
    place = jnp.argsort(tiles, stable=True)
    source = jnp.lexsort((jax.random.uniform(key, tiles.shape), tiles))
    pixels = images.reshape(n, height * width, channels)
    return pixels.at[:, place].set(pixels[:, source]).reshape(images.shape)


def patches(images: Images, key: Key[Array, ""], *, patch: int = 16) -> Images:
    """Return patches of the same image in another order, none in its own place.

    It looks as if drawn from the same image but carries no information about the place it
    stands in: every patch keeps its statistics, their order is broken. The permutation is a
    random cycle, so no patch stays. What does not fill a whole patch at the right and lower
    edge is taken from the mirrored image.

    `patch` is in pixels of a 224 px image, scaled with the shorter side.
    """
    n, height, width, channels = images.shape
    side = max(1, round(patch * min(height, width) / REFERENCE_SIDE))
    down, across = math.ceil(height / side), math.ceil(width / side)
    padding = ((0, 0), (0, down * side - height), (0, across * side - width), (0, 0))
    tiles = jnp.pad(images, padding, mode="symmetric")
    tiles = tiles.reshape(n, down, side, across, side, channels).swapaxes(2, 3)
    tiles = tiles.reshape(n, down * across, side, side, channels)
    order = jax.random.permutation(key, down * across)
    source = jnp.zeros_like(order).at[order].set(jnp.roll(order, 1))
    tiles = tiles[:, source].reshape(n, down, across, side, side, channels).swapaxes(2, 3)
    return tiles.reshape(n, down * side, across * side, channels)[:, :height, :width]


def blurs(images: Images, key: Key[Array, ""], *, sigma: float = 11.6) -> Images:
    """Gaussian blur of a σ drawn between `sigma` / 2 and 2 `sigma`, even on a logarithmic scale."""
    drawn = sigma * 2.0 ** jax.random.uniform(key, (), minval=-1, maxval=1)
    return jnp.moveaxis(smooth(jnp.moveaxis(images, -1, 1), drawn), 1, -1)


def grey(images: Images, key: Key[Array, ""]) -> Images:
    """Middle grey with Gaussian noise of deviation 0.1, each value by itself, clipped to [0, 1]."""
    return jnp.clip(0.5 + 0.1 * jax.random.normal(key, images.shape, images.dtype), 0, 1)


INFILLS: dict[str, Callable] = {
    "blur": blur,
    "blurs": blurs,
    "mean": mean,
    "zeros": zeros,
    "uniform": uniform,
    "normal": normal,
    "grey": grey,
    "original": original,
    "knockoff": knockoff,
    "patches": patches,
}


RANDOM_INFILLS = ("blurs", "grey", "uniform", "normal", "knockoff", "patches")
"""Those that draw."""


def check_infill(infill: Infill, setting: str = "infill") -> None:
    """Raise ValueError when a named infill does not exist, with the nearest name."""
    if isinstance(infill, str) and infill not in INFILLS:
        hint = did_you_mean(infill, INFILLS)
        raise ValueError(f"{setting}={infill!r}: must be one of {', '.join(INFILLS)}.{hint}")


def named_infill(name: str, blur_sigma: float = 11.6) -> Callable[[Array, Array], Array]:
    """Return the function `(images, key) -> images` of that name."""
    function = INFILLS[name]
    return partial(function, sigma=blur_sigma) if function in (blur, blurs) else function


def make_infill(
    infill: Infill, images: Images, keys: Key[Array, "n"], *, blur_sigma: float = 11.6
) -> Images:
    """Return the infill images x̂ for `images`.

    Args:
      infill: a name in `INFILLS`; or an array that broadcasts to `images`; or a function
        `(images n h w c, key) -> n h w c`, called for one image at a time with its key.
      images: RGB in [0, 1].
      keys: one key per image, so that an image's infill does not depend on its neighbours.
      blur_sigma: for "blur", in pixels of a 224 px image.

    Raises:
      ValueError: an unknown name, or an array or result of another shape.
    """
    check_infill(infill)
    if not isinstance(infill, str) and not callable(infill):
        try:
            return jnp.broadcast_to(jnp.asarray(infill, images.dtype), images.shape)
        except ValueError:
            raise ValueError(
                f"infill of shape {np.shape(infill)} does not fit images {images.shape}"
            ) from None
    if infill is blur or (isinstance(infill, str) and infill == "blur"):
        return blur(images, sigma=blur_sigma)
    function = named_infill(infill, blur_sigma) if isinstance(infill, str) else infill
    made = [function(images[i : i + 1], keys[i]) for i in range(len(images))]
    result = jnp.concatenate([jnp.asarray(m, images.dtype) for m in made])
    if result.shape != images.shape:
        raise ValueError(f"the infill function returned shape {result.shape}, not {images.shape}")
    return result


def keyed_infill(
    infill: Infill,
    images: Images,
    key: Key[Array, "..."] | None,
    *,
    name: str = "infill",
    blur_sigma: float = 11.6,
) -> Images:
    """Return the infill images of a method that draws nothing itself: a key is needed only by those
    made at random. A function given as infill gets keys of seed 0 where none is given.

    Raises:
      ValueError: a random infill (said by the setting's `name`) and no key, or what
        `make_infill` refuses.
    """
    if key is None and isinstance(infill, str) and infill in RANDOM_INFILLS:
        raise ValueError(f"{name}={infill!r} is random: give key=jax.random.key(seed)")
    keys = image_keys(jax.random.key(0) if key is None else key, len(images))
    return make_infill(infill, images, keys, blur_sigma=blur_sigma)
