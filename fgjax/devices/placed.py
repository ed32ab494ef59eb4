"""Where arrays lie."""

from typing import Any

import jax


def device_of(*trees: Any) -> Any:
    """Return the device that computes with these arrays: one that an array was put on, else one
    where an array lies, else JAX's own choice.

    Of several devices of this process it is the first. What is being traced lies nowhere yet.
    """
    leaves = jax.tree.leaves(trees)
    arrays = [a for a in leaves if isinstance(a, jax.Array) and not isinstance(a, jax.core.Tracer)]
    # An array that was put on a device draws the others there.
    for array in sorted(arrays, key=lambda array: not array.committed):
        devices: list[Any] = [*array.sharding.addressable_devices]
        return min(devices, key=lambda device: device.id)
    config: Any = jax.config
    chosen = config.jax_default_device
    if isinstance(chosen, str):
        return jax.local_devices(backend=chosen)[0]
    return chosen or jax.local_devices()[0]


def on_cpu(*trees: Any) -> bool:
    """Return whether a CPU computes with these arrays; see `device_of`."""
    return device_of(*trees).platform == "cpu"
