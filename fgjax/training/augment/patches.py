"""Training inputs of two streams: the changed image, and changed patches of the unchanged one."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from fgjax.models.composed.patches import crop_patches
from fgjax.training.augment.geometry_and_light import Augmentation


@dataclass(frozen=True)
class PatchAugmentation:
    """What is changed at random in an image and, apart from it, in its patches.

    Attributes:
      images: see `Augmentation`. Patches are flipped, shifted and lit alike, not cropped again.
      size: pixels; patches are resized to this.
      random_patch: one patch of each image, drawn at random, as the paper has it (section
        3.1.3); False: all of them.
    """

    images: Augmentation
    size: int = 224
    random_patch: bool = True

    def __call__(
        self,
        key: Key[Array, ""],
        inputs: tuple[Float[Array, "n h w c"], Float[Array, "n p 4"]],
    ) -> tuple[Float[Array, "n H W c"], Float[Array, "n q s s c"]]:
        """Return images, and boxes in their pixels -> the changed images, and patches."""
        images, boxes = inputs
        keys = jax.random.split(key, 3)
        if self.random_patch:
            chosen = jax.random.randint(keys[0], (len(boxes), 1, 1), 0, boxes.shape[1])
            boxes = jnp.take_along_axis(boxes, chosen, axis=1)
        patches = crop_patches(images, boxes, self.size)
        flat = patches.reshape(-1, *patches.shape[2:])
        flat = replace(self.images, size=None, crop=1.0)(keys[1], flat)
        return self.images(keys[2], images), flat.reshape(patches.shape)
