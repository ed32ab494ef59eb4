"""Random changes to training images, batched, on the device. Images are RGB in [0, 1]."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from fgjax.training.augment.erasing import Erasing
from fgjax.training.augment.randaugment import randaugment

Images = Float[Array, "n h w c"]


def random_flip(key: Key[Array, ""], images: Images) -> Images:
    """Return left and right swapped in half of the images."""
    flip = jax.random.bernoulli(key, 0.5, (len(images),))
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def random_shift(key: Key[Array, ""], images: Images, share: float) -> Images:
    """Return each image moved by up to `share` of its side both ways; the edge is mirrored in."""
    height, width = images.shape[1:3]
    down, across = round(share * height), round(share * width)
    if down == 0 and across == 0:
        return images
    padded = jnp.pad(images, ((0, 0), (down, down), (across, across), (0, 0)), mode="symmetric")
    most = jnp.asarray([2 * down + 1, 2 * across + 1])
    starts = jax.random.randint(key, (len(images), 2), 0, most[None])

    def crop(image, start):
        return jax.lax.dynamic_slice(
            image, (start[0], start[1], 0), (height, width, image.shape[-1])
        )

    return jax.vmap(crop)(padded, starts)


def random_light(key: Key[Array, ""], images: Images, strength: float) -> Images:
    """Return contrast about each image's mean, and brightness, both times 1 ± `strength`;
    clipped."""
    factors = jax.random.uniform(
        key, (2, len(images), 1, 1, 1), images.dtype, 1 - strength, 1 + strength
    )
    mean = images.mean((1, 2, 3), keepdims=True)
    return jnp.clip(((images - mean) * factors[0] + mean) * factors[1], 0, 1)


def random_saturation(key: Key[Array, ""], images: Images, strength: float) -> Images:
    """Return distance from grey (Rec. 601 luma) times 1 ± `strength`; clipped."""
    factor = jax.random.uniform(
        key, (len(images), 1, 1, 1), images.dtype, 1 - strength, 1 + strength
    )
    luma = jnp.asarray([0.299, 0.587, 0.114], images.dtype)
    grey = (images * luma[None, None, None]).sum(3, keepdims=True)
    return jnp.clip((images - grey) * factor + grey, 0, 1)


def random_hue(key: Key[Array, ""], images: Images, most: float) -> Images:
    """Return every colour turned about the grey axis, by up to `most` of the whole circle;
    clipped. Grey stays, and so does the mean of the three channels.

    A rotation in RGB space (Haeberli, Matrix Operations for Image Processing, 1993), not of HSV's
    hexagon, whose corners have no gradient.
    """
    angle = 2 * jnp.pi * jax.random.uniform(key, (len(images), 1), images.dtype, -most, most)
    cos, across = jnp.cos(angle), jnp.sin(angle) / jnp.sqrt(3.0).astype(images.dtype)
    same, next_, last = (1 + 2 * cos) / 3, (1 - cos) / 3 - across, (1 - cos) / 3 + across
    rows = [jnp.concatenate(row, 1) for row in
            ((same, next_, last), (last, same, next_), (next_, last, same))]  # fmt: skip
    return jnp.clip(jnp.einsum("nhwc,nkc->nhwk", images, jnp.stack(rows, 1)), 0, 1)


def random_crop(
    key: Key[Array, ""], images: Images, size: int, smallest: float
) -> Float[Array, "n size size c"]:
    """Return a random rectangle of each image, resized to `size` x `size` (antialiased, bilinear).

    Its area is uniform in [`smallest`, 1] of the image's, its aspect log-uniform in
    [3/4, 4/3] as far as it fits, its place uniform.

    Reference: Szegedy et al., Going Deeper with Convolutions, 2015, section 6.
    """
    n, height, width, channels = images.shape
    keys = jax.random.split(key, 3)
    area = jax.random.uniform(keys[0], (n,), minval=smallest) * height * width
    stretch = jnp.exp(jax.random.uniform(keys[1], (n,), minval=-1, maxval=1) * jnp.log(4 / 3) / 2)
    sides = jnp.sqrt(area)[:, None] * jnp.stack([1 / stretch, stretch], axis=1)
    full = jnp.asarray([height, width], jnp.float32)[None]
    sides = jnp.minimum(sides, full)
    corner = jax.random.uniform(keys[2], (n, 2)) * (full - sides)
    scale = size / sides

    def cut(image, scale, corner):
        return jax.image.scale_and_translate(
            image, (size, size, channels), (0, 1), scale, -corner * scale, "linear"
        )

    return jax.vmap(cut)(images, scale, corner)


def random_window(key: Key[Array, ""], images: Images, size: int) -> Float[Array, "n size size c"]:
    """`size` x `size` pixels of each image, anywhere in it, at their own scale."""
    n, height, width, channels = images.shape
    most = jnp.asarray([height - size + 1, width - size + 1])
    starts = jax.random.randint(key, (n, 2), 0, most[None])

    def cut(image, start):
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), (size, size, channels))

    return jax.vmap(cut)(images, starts)


def center_crop(images: Num[Array, "n h w c"], size: int) -> Num[Array, "n size size c"]:
    """Return the middle `size` x `size` pixels."""
    top, left = (images.shape[1] - size) // 2, (images.shape[2] - size) // 2
    return images[:, top : top + size, left : left + size]


@dataclass(frozen=True)
class Augmentation:
    """What is changed at random in a training image.

    Attributes:
      size: side of the result; None: as the images are.
      crop: smallest share of the area that a random crop keeps; 1: the middle is taken.
      window: "random": not the middle but `size` x `size` pixels anywhere are taken.
      flip: left and right swapped in half of the images.
      shift: moved by at most this share of the side.
      light: brightness and contrast, times 1 ± this at most.
      color: saturation, times 1 ± this at most.
      hue: colours turned by at most this share of the circle.
      randaugment: strength of RandAugment, of 10; 0: none.
      operations: of RandAugment, one upon the other.
      erase: what is taken away after all that.
    """

    size: int | None = None
    crop: float = 1.0
    window: Literal["center", "random", "anywhere"] = "center"
    flip: bool = True
    shift: float = 0.0
    light: float = 0.0
    color: float = 0.0
    hue: float = 0.0
    randaugment: float = 0.0
    operations: int = 2
    erase: Erasing = Erasing()

    def __call__(self, key: Key[Array, ""], images: Images) -> Float[Array, "n H W c"]:
        """Return the changed images, `size` x `size`; a function of the key."""
        keys = jax.random.split(key, 5)
        if self.crop < 1:
            images = random_crop(keys[0], images, self.size or images.shape[1], self.crop)
        elif self.size and self.window == "random":
            images = random_window(keys[0], images, self.size)
        elif self.size:
            images = center_crop(images, self.size)
        if self.flip:
            images = random_flip(keys[1], images)
        if self.shift:
            images = random_shift(keys[2], images, self.shift)
        if self.light:
            images = random_light(keys[3], images, self.light)
        if self.color:
            images = random_saturation(keys[4], images, self.color)
        if self.hue:
            images = random_hue(jax.random.fold_in(key, 102), images, self.hue)
        if self.randaugment:
            own = jax.random.fold_in(key, 103)
            images = randaugment(own, images, self.randaugment, self.operations)
        return self.erase(jax.random.fold_in(key, 100), images)
