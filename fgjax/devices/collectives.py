"""What connected processes ask of each other; a process that is alone asks itself.

See `fgjax.processes.connection` for how they are connected, `fgjax.devices.mesh` for their devices.
"""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float, Shaped

from fgjax.devices.mesh import make_mesh, shard


def own_number() -> int:
    """Return which of the connected processes this is, from 0; alone, 0."""
    return jax.process_index()


def leads() -> bool:
    """Return whether this is the one process, or the first of those connected: it writes the
    files."""
    return own_number() == 0


def own_part(values: Shaped[np.ndarray, "n"]) -> Shaped[np.ndarray, "m"]:
    """Of values that connected processes share, this one's: every so many-th; alone, all."""
    return values[own_number() :: jax.process_count()]


def meet() -> None:
    """Return the connected processes' first work together, which lays the ways between their
    devices: for that they must be here at the same time; later they may wait for each other for
    long."""
    mesh = make_mesh(everywhere=True)
    ones = shard(mesh, np.ones(jax.local_device_count(), np.float32))
    sharding = NamedSharding(mesh, PartitionSpec())
    jax.block_until_ready(jax.jit(jnp.sum, out_shardings=sharding)(ones))
    of_first(0)


def of_first(value: int) -> int:
    """Return what process 0 says, in every connected process; alone, the value itself."""
    if jax.process_count() == 1:
        return int(value)
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def same_everywhere(text: str) -> bool:
    """Return whether every connected process says the same."""
    if jax.process_count() == 1:
        return True
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], np.int32)
    return bool((multihost_utils.process_allgather(digest).reshape(-1, 4) == digest[None]).all())


def over_processes(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Return the sum of every connected process's values, float32; alone, the values."""
    if jax.process_count() == 1:
        return values
    values = np.asarray(values, np.float32)
    return np.asarray(multihost_utils.process_allgather(values)).reshape(-1, len(values)).sum(0)


def wait_for_all(what: str) -> None:
    """Wait until every connected process is here; alone, at once."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
