"""The only file that knows devices: one mesh, images sharded over it, models replicated.

A step compiled by `jit` over sharded arrays is the single-device program with its batch
split: sums and batch statistics are those of the whole batch.

`spread` does the same for whatever calls a model: each batch of images that reaches the model is
split over the devices there, by the compiler ("jit") or by `jax.pmap` ("pmap"). So a method that
asks a model many questions about one image keeps all devices busy, and need not know of them.
"""

import inspect
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Parallel = Literal["auto", "none", "jit", "pmap"]


def make_mesh(parallel: Parallel = "auto", everywhere: bool = False) -> Mesh:
    """Return a mesh with the one axis "batch": over one device ("none") or all that this process
    has.

    Args:
      everywhere: over those of every connected process, process after process.
    """
    devices = jax.local_devices()
    if everywhere:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if parallel == "none":
        owners = [device.process_index for device in devices]
        devices = [d for i, d in enumerate(devices) if d.process_index not in owners[:i]]
    return Mesh(np.asarray(devices), ("batch",), axis_types=(AxisType.Auto,))


def shard(mesh: Mesh, tree: Any) -> Any:
    """Return every array split along its first axis, which must be a multiple of the mesh's size.

    Over several processes each gives its own rows alone; see `own_rows`.
    """
    sharding = NamedSharding(mesh, PartitionSpec("batch"))
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    times = mesh.devices.size // len(sharding.addressable_devices)

    def put(rows):
        whole = (len(rows) * times, *rows.shape[1:])
        if not isinstance(rows, jax.Array):
            return jax.make_array_from_process_local_data(sharding, np.asarray(rows), whole)
        # What lies on a device goes from there, not by way of the host.
        first = own_rows(mesh, len(rows) * times).start
        places = sharding.addressable_devices_indices_map(whole)
        held = {device: place[0].indices(whole[0]) for device, place in places.items() if place}
        parts = [jax.device_put(rows[a - first : b - first], d) for d, (a, b, _) in held.items()]
        return jax.make_array_from_single_device_arrays(whole, sharding, parts)

    return jax.tree.map(put, tree)


def own_rows(mesh: Mesh, rows: int) -> slice:
    """Return which of a batch of so many rows, a multiple of the mesh's size, this process's
    devices hold: all of them, where the mesh is over no other's."""
    sharding = NamedSharding(mesh, PartitionSpec("batch"))
    places = sharding.addressable_devices_indices_map((rows,)).values()
    held = [place[0].indices(rows) for place in places if place is not None]
    return slice(min(first for first, _, _ in held), max(end for _, end, _ in held))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Return every array whole on each device, in buffers of its own: a donated copy leaves `tree`
    be.

    Over several processes each gives the same whole arrays.
    """
    sharding = NamedSharding(mesh, PartitionSpec())
    if not sharding.is_fully_addressable:
        put = lambda a: jax.make_array_from_process_local_data(sharding, np.array(a), a.shape)
        return jax.tree.map(put, tree)
    # `device_put(..., may_alias=False)` does not keep its word for the first of many devices.
    return jax.device_put(jax.tree.map(jnp.array, tree), sharding)


def own_copy(tree: Any) -> Any:
    """Arrays that are whole on devices of several processes, as they are on this one's; others as
    they are. Nothing is copied, so what donates the arrays takes these, too."""

    def own(array):
        if not isinstance(array, jax.Array) or array.is_fully_addressable:
            return array
        assert isinstance(array.sharding, NamedSharding)
        # The compiler may have split a result; then it is made whole first.
        array = jax.device_put(array, NamedSharding(array.sharding.mesh, PartitionSpec()))
        parts = [part.data for part in array.addressable_shards]
        mesh = Mesh(
            np.asarray([part.device for part in parts]), ("batch",), axis_types=(AxisType.Auto,)
        )
        sharding = NamedSharding(mesh, PartitionSpec())
        return jax.make_array_from_single_device_arrays(array.shape, sharding, parts)

    return jax.tree.map(own, tree)


@struct.dataclass
class Spread:
    """A model whose every call is split over the devices of a mesh; see `spread`.

    Attributes:
      model: its arrays on every device of the mesh.
      mesh: with the one axis "batch".
      pmap: whether the split is made by `jax.pmap`, not by the compiler.
    """

    model: Any
    mesh: Mesh = struct.field(pytree_node=False)
    pmap: bool = struct.field(pytree_node=False, default=False)

    @property
    def spread_over(self) -> int:
        """How many images are computed at a time."""
        return self.mesh.devices.size

    def __call__(self, images: Any) -> Any:
        """Return what the model returns for the images."""
        return self._split("__call__", (images,))

    def __getattr__(self, name: str) -> Any:
        # `features` and the like, where the model has them: they take a batch, too.
        model = object.__getattribute__(self, "model")
        found = getattr(model, name)
        method = inspect.ismethod(found) or callable(getattr(type(model), name, None))
        return partial(self._ask, name) if method else found

    def _ask(self, method: str, *batch: Any, **options: Any) -> Any:
        """Return what a method makes of a batch; of no batch it makes another model (`with_rules`),
        whose calls are split as well."""
        if batch:
            return self._split(method, batch)
        return self.replace(model=getattr(self.model, method)(**options))

    def _split(self, method: str, batch: tuple[Any, ...]) -> Any:
        """Return what a method makes of arrays with a row per image. The rows that are missing for
        equally long parts are zeros, and cut off again."""
        count, parts = len(jax.tree.leaves(batch)[0]), self.spread_over
        missing = -count % parts
        batch = jax.tree.map(lambda a: jnp.pad(a, ((0, missing), *((0, 0),) * (a.ndim - 1))), batch)
        call = lambda model, rows: getattr(model, method)(*rows)
        if self.pmap:
            rows = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), batch)
            each = jax.pmap(call, in_axes=(None, 0), devices=list(self.mesh.devices))
            out = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), each(self.model, rows))
        else:
            sharding = NamedSharding(self.mesh, PartitionSpec("batch"))
            out = call(self.model, jax.lax.with_sharding_constraint(batch, sharding))
        return jax.tree.map(lambda a: a[:count], out)


def spread(model: Any, mesh: Mesh, parallel: Parallel = "auto") -> Any:
    """Return the model, each of its calls split over the mesh: any number of images on any number
    of devices. On one device, the model as it is.

    Args:
      model: any callable pytree, images -> outputs with a row per image.
      parallel: "pmap" splits by `jax.pmap`, everything else by the compiler.
    """
    if mesh.devices.size == 1:
        return model
    return Spread(replicate(mesh, model), mesh, parallel == "pmap")


def awaited(tree: Any) -> Any:
    """Return the tree, once it is computed when several CPU devices computed it together.

    Before jax 0.12, programs queued on forced CPU devices can wait for each other for ever.
    """
    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        jax.block_until_ready(tree)
    return tree
