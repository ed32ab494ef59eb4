"""The only file that knows devices: one mesh, images sharded over it, models replicated.

A step compiled by `jit` over sharded arrays is the single-device program with its batch
split: sums and batch statistics are those of the whole batch.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(parallel: Literal["auto", "none", "jit"] = "auto") -> Mesh:
    """A mesh with the one axis "batch": over one device ("none") or all there are."""
    devices = jax.devices()[:1] if parallel == "none" else jax.devices()
    return Mesh(np.asarray(devices), ("batch",), axis_types=(AxisType.Auto,))


def shard(mesh: Mesh, tree: Any) -> Any:
    """Every array split along its first axis, which must be a multiple of the mesh's size."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("batch")))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Every array whole on each device, in buffers of its own: a donated copy leaves `tree` be."""
    # `device_put(..., may_alias=False)` does not keep its word for the first of many devices.
    return jax.device_put(jax.tree.map(jnp.array, tree), NamedSharding(mesh, PartitionSpec()))


def awaited(tree: Any) -> Any:
    """The tree, once it is computed when several CPU devices computed it together.

    Before jax 0.12, programs queued on forced CPU devices can wait for each other for ever.
    """
    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        jax.block_until_ready(tree)
    return tree
