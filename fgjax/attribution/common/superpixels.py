"""Images cut into superpixels, and what stands in the place of one that is hidden.

Reference:
  Achanta et al., SLIC Superpixels Compared to State-of-the-Art Superpixel Methods, 2012.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from fgjax.attribution.common.infill import Infill, check_infill, make_infill
from fgjax.core.extras import extra

OWN_MEAN = "segment_mean"
"""The infill that gives a hidden superpixel its own mean colour."""


def check_hidden(infill: Infill) -> None:
    """Check that an infill is `OWN_MEAN`, or one of all methods.

    Raises:
      ValueError: there is no such infill.
    """
    if not (isinstance(infill, str) and infill == OWN_MEAN):
        check_infill(infill)


def cut_up(
    images: Float[Array, "n h w c"],
    keys: Key[Array, "n"],
    segments: int,
    compactness: float,
    infill: Infill,
) -> tuple[Int[np.ndarray, "n h w"], Float[Array, "n h w c"]]:
    """Return each pixel's superpixel, and the picture that a hidden superpixel shows.

    Args:
      images: RGB in [0, 1].
      keys: one per image, for an infill that draws.
      segments, compactness: see `superpixels`.
      infill: `OWN_MEAN`, or what `make_infill` takes.
    """
    pixels = np.asarray(images)
    labels = np.stack([superpixels(x, segments, compactness) for x in pixels])
    if isinstance(infill, str) and infill == OWN_MEAN:
        means = [segment_means(x, own) for x, own in zip(pixels, labels, strict=True)]
        return labels, jnp.asarray(np.stack(means))
    return labels, make_infill(infill, images, keys)


def superpixels(
    image: Float[np.ndarray, "h w c"], segments: int, compactness: float = 10.0
) -> Int[np.ndarray, "h w"]:
    """Return SLIC superpixels numbered 0, 1, …; about `segments` of them."""
    with extra("lime", "superpixels"):
        from skimage.segmentation import slic  # slow to import, and of use only here

    labels = slic(
        image.astype(np.float64),
        n_segments=segments,
        compactness=compactness,
        sigma=1.0,
        start_label=0,
        channel_axis=-1,
        convert2lab=image.shape[-1] == 3,
    )
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


def segment_means(
    image: Float[np.ndarray, "h w c"], labels: Int[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w c"]:
    """Return every pixel at the mean colour of its superpixel."""
    flat, pixels = labels.ravel(), image.reshape(-1, image.shape[-1])
    sums = [np.bincount(flat, weights=channel) for channel in pixels.T]
    means = np.stack(sums, axis=1) / np.bincount(flat)[:, None]
    return means[labels].astype(np.float32)
