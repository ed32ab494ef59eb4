"""A model computed in bfloat16, where float32 is more than an explanation needs."""

import inspect
from types import MethodType
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from fgjax.models.classifier import Classifier

Precision = Literal["f32", "bf16"]


def in_precision(model: Any, precision: Precision) -> Any:
    """Return the model with its layers in bfloat16; images, outputs and their gradients stay
    float32.

    A `Classifier` is told by the `dtype` of its network: convolutions and what lies between them
    are in bfloat16; normalising the image, softmaxes, the grouping of pixels, a recurrence and the
    last linear layer stay in float32, as in a training in bf16. Fold its batch normalisation
    before, in float32. Of another model the arrays are rounded, and the images on their way in;
    layers of its own that ask for float32 get it.

    Args:
      model: any callable pytree, images -> outputs.
      precision: "f32": the model as it is.
    """
    if precision == "f32":
        return model
    if isinstance(model, Classifier) and hasattr(model.network, "dtype"):
        network = model.network.clone(dtype=jnp.bfloat16)
        # Kernels of convolutions would be rounded in every call; other weights may be wanted whole.
        variables = jax.tree.map(lambda a: _to(jnp.bfloat16, a) if a.ndim == 4 else a,
                                 model.variables)  # fmt: skip
        return model.replace(network=network, variables=variables)
    return Rounded(_cast(jnp.bfloat16, model))


@struct.dataclass
class Rounded:
    """A model with arrays in bfloat16, whose calls take and give float32; see `in_precision`.

    `features` and other methods are there, too, where the model has them.
    """

    model: Any

    def __call__(self, images: Any) -> Any:
        """Return what the model returns for the images."""
        return self._call("__call__", images)

    def __getattr__(self, name: str) -> Any:
        model = object.__getattribute__(self, "model")
        found = getattr(model, name)
        if inspect.ismethod(found) or callable(getattr(type(model), name, None)):
            return MethodType(lambda own, *given: own._call(name, *given), self)
        return found

    def _call(self, method: str, *given: Array) -> Any:
        return _cast(jnp.float32, getattr(self.model, method)(*_cast(jnp.bfloat16, given)))


def _cast(dtype: Any, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: _to(dtype, leaf) if hasattr(leaf, "dtype") else leaf, tree)


def _to(dtype: Any, array: Any) -> Any:
    return jnp.asarray(array, dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array
