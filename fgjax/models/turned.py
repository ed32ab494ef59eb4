"""Kernels that are turned once for many gradients by the image."""

from typing import Any

import jax
from flax import traverse_util

from fgjax.models.networks.cpu_convolution import turn
from fgjax.models.networks.layers import TURNED


def with_turned_kernels(variables: Any) -> Any:
    """Return the variables of a network with every convolution's kernel turned beside it; as they
    are where there is no CPU.

    A convolution's gradient by the image is one with the turned kernel. Turned anew it takes a
    tenth of each step of FIDO with a ResNet-18 on 96²; the kernels stay the same for all steps.
    They must: whoever changes the weights turns them again.
    """
    if jax.default_backend() != "cpu":
        return variables
    found = {
        path: kernel
        for path, kernel in traverse_util.flatten_dict(variables.get("params", {})).items()
        if path[-1] == "kernel" and kernel.ndim == 4 and kernel.shape[:2] != (1, 1)
        and kernel.shape[2] > 1  # a depthwise kernel is computed in another way
    }  # fmt: skip
    return {**variables, TURNED: traverse_util.unflatten_dict(_turn(found))} if found else variables


@jax.jit
def _turn(kernels):
    return {path: turn(kernel) for path, kernel in kernels.items()}
