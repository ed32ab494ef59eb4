"""Batch normalisation moved into the convolutions before it, for networks that train no more."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from fgjax.models.classifier import Classifier
from fgjax.models.networks.layers import Conv, DepthwiseConv, Norm
from fgjax.models.precision import Precision, in_precision


def fold_batch_norm(model: Classifier) -> Classifier:
    """Return the same classifier with fewer operations: equal logits but for rounding.

    Where batch normalisation comes right after a convolution,

      γ (k * x − μ) / √(v + ε) + β  =  (s k) * x + (β − s μ),      s = γ / √(v + ε),

    the kernel becomes s k, and of the normalisation only a bias is left (`Norm` finds nothing
    else among its variables). It is the gradient by the image that gets faster.

    A normalisation that follows something else stays as it is. The result is for explaining:
    it cannot be trained, and its layers' values are not those of a checkpoint.
    """
    flat = traverse_util.flatten_dict(model.variables, sep="/")
    for conv, norm, epsilon in _pairs(model):
        kernel = flat[f"params/{conv}/kernel"]
        if kernel.ndim != 4:  # several networks stacked
            continue
        scale = flat.pop(f"params/{norm}/norm/scale")
        mean = flat.pop(f"batch_stats/{norm}/norm/mean")
        scale = scale * jax.lax.rsqrt(flat.pop(f"batch_stats/{norm}/norm/var") + epsilon)
        flat[f"params/{conv}/kernel"] = kernel * scale[None, None, None]
        if f"params/{conv}/bias" in flat:
            flat[f"params/{conv}/bias"] = flat[f"params/{conv}/bias"] * scale
        flat[f"params/{norm}/norm/bias"] = flat[f"params/{norm}/norm/bias"] - mean * scale
    return model.replace(variables=traverse_util.unflatten_dict(flat, sep="/"))


def explained_in(model: Any, precision: Precision) -> Any:
    """Return the model as it is explained in a precision: in "f32" as it is; in "bf16" see
    `in_precision`, a classifier's batch normalisation folded before, in float32."""
    if precision == "f32":
        return model
    return in_precision(
        fold_batch_norm(model) if isinstance(model, Classifier) else model, precision
    )


def _pairs(model: Classifier) -> list[tuple[str, str, float]]:
    """Return paths of every convolution and the normalisation that takes its output, and that one's
    ε.

    The forward pass is traced, not computed.
    """
    outputs: list[tuple[object, str]] = []  # holding them keeps their identities apart
    norms: dict[str, tuple[str, float]] = {}

    def note(call, args, kwargs, context):
        module, path = context.module, "/".join(context.module.path)
        if isinstance(module, Norm) and "scale" in module.variables["params"]["norm"]:
            before = next((name for out, name in outputs if out is args[0]), None)
            if before is not None:
                norms[path] = (before, module.epsilon)
        result = call(*args, **kwargs)
        if isinstance(module, Conv | DepthwiseConv):
            outputs.append((result, path))
        return result

    def forward(model, images):
        with nn.intercept_methods(note):
            return model(images)

    images = jax.ShapeDtypeStruct((1, model.size, model.size, 3), np.float32)
    jax.eval_shape(forward, model, images)
    return [(conv, norm, epsilon) for norm, (conv, epsilon) in norms.items()]
