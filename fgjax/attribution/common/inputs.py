"""What every attribution method asks of images, targets and model, said in the user's words."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fgjax.core.functional import Static
from fgjax.devices.forward import output_shape


def check_inputs(
    arrays: tuple, static: Static, images: Float[Array, "n h w c"], targets: Int[Array, "n"]
) -> None:
    """Raise ValueError, in the user's words, when images, targets and model do not fit."""
    check_images(images)
    check_classes(arrays, static, images, targets)


def for_gradients(model: Any) -> Any:
    """Return the model as it makes itself ready for many gradients by the image, where it can:
    the same logits and gradients, sooner."""
    make = getattr(model, "for_gradients", None)
    return model if make is None else make()


def is_traced(values: Any) -> bool:
    """Return whether a program is being made, see `fgjax.export`: shapes are known and checked,
    values are not yet."""
    return isinstance(values, jax.core.Tracer)


def class_targets(targets: Any) -> Int[Array, "n"]:
    """Return targets as class indices.

    Raises:
      ValueError: they are not whole numbers: probabilities or a one-hot row, say, which would be
        cut to other classes without a word.
    """
    found = targets if is_traced(targets) else np.asarray(targets)
    if not np.issubdtype(found.dtype, np.integer):
        raise ValueError(
            f"targets must be class indices, whole numbers; these are {found.dtype}"
            + (f", such as {found.ravel()[0]}" if found.size and not is_traced(found) else "")
        )
    return jnp.asarray(found, jnp.int32)


def check_images(images: Float[Array, "n h w c"]) -> None:
    """Raise ValueError when these are no images in [0, 1]."""
    if images.ndim == 3:
        raise ValueError(
            f"images must be n h w c; got shape {images.shape}. Of one image: images[None]"
        )
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"images must be n h w c with n > 0; got shape {images.shape}")
    if images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        raise ValueError(
            f"images must be n h w c; got shape {images.shape}, which is n c h w, as PyTorch has "
            "it: jnp.transpose(images, (0, 2, 3, 1))"
        )
    if is_traced(images):
        return
    low, high = float(images.min()), float(images.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(
            f"images must be RGB in [0, 1]; these span {low:.3g} to {high:.3g}. "
            "Normalisation belongs to the model"
            + (". Divide them by 255" if low >= 0 and 2 < high <= 255 else "")
        )


def check_classes(
    arrays: tuple,
    static: Static,
    images: Float[Array, "n ... c"],
    targets: Int[Array, "n"],
    what: Literal["image", "volume"] = "image",
) -> None:
    """Raise ValueError when the model gives no logits, or a target is none of its classes."""
    if targets.shape != images.shape[:1]:
        raise ValueError(f"one target per {what}: {len(images)} {what}s, targets {targets.shape}")
    outputs = output_shape(arrays, static, images)
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != len(images):
        raise ValueError(f"the model must return logits n k; it returned {shape or outputs}")
    if is_traced(targets):
        return
    bad = np.flatnonzero((np.asarray(targets) < 0) | (np.asarray(targets) >= shape[1]))
    if bad.size:
        raise ValueError(
            f"target {int(targets[bad[0]])} of {what} {bad[0]} is outside the model's "
            f"{shape[1]} classes (0 to {shape[1] - 1})"
        )
