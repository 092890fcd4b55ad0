"""Shards of a state: which part of an array lies on which device, and how parts that some hosts lack come to them."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxalign.storage import pytree

Bounds = tuple[tuple[int, int], ...]
"""Which part of an array: first and behind the last of each axis."""


class _Shard(NamedTuple):
    """Part `bounds` of the array `name`, which the `devices` of this process hold."""

    name: str
    bounds: Bounds
    devices: tuple[jax.Device, ...]

    @property
    def key(self) -> str:
        return f"{self.name}@{'_'.join(f'{start}-{stop}' for start, stop in self.bounds)}"


def own(tree: Any) -> dict[str, jax.Array]:
    """The shards on this process's devices, each once, by array and place."""
    found: dict[str, jax.Array] = {}
    for name, leaf in pytree.named(tree).items():
        for shard in leaf.addressable_shards:
            key = _Shard(name, _bounds(shard.index, leaf.shape), ()).key
            found.setdefault(key, shard.data)
    return found


def _shards(name: str, leaf: Any) -> list[_Shard]:
    """Those of an array that this process's devices hold."""
    here = leaf.sharding.addressable_devices
    return [
        _Shard(name, index, own)
        for index, devices in holders_of(leaf).items()
        if (own := tuple(device for device in devices if device in here))
    ]


def abstract_shards(abstract: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and devices of what `own` gives of such a state."""
    return {
        shard.key: jax.ShapeDtypeStruct(
            tuple(stop - start for start, stop in shard.bounds),
            leaf.dtype,
            sharding=SingleDeviceSharding(shard.devices[0], memory_kind=leaf.sharding.memory_kind),
        )
        for name, leaf in pytree.named(abstract).items()
        for shard in _shards(name, leaf)
    }


def holders_of(leaf: Any) -> dict[Bounds, list[jax.Device]]:
    """The devices, of all processes, that hold each part of an array."""
    found: dict[Bounds, list[jax.Device]] = {}
    for device, index in leaf.sharding.devices_indices_map(tuple(leaf.shape)).items():
        found.setdefault(_bounds(index, leaf.shape), []).append(device)
    return found


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> Bounds:
    return tuple(each.indices(size)[:2] for each, size in zip(index, shape, strict=True))


def whole(abstract: Any, holders: set[int]) -> bool:
    """Whether the processes `holders` have every part of every array among them."""
    return all(
        any(device.process_index in holders for device in devices)
        for leaf in jax.tree.leaves(abstract)
        for devices in holders_of(leaf).values()
    )


def assembled(abstract: Any, shards: Mapping[str, jax.Array], holders: set[int]) -> Any:
    """The arrays of `abstract` from the `shards` of each process of `holders`; all processes call it."""
    processes = {device.process_index for leaf in jax.tree.leaves(abstract) for device in leaf.sharding.device_set}
    leaves: list[Any] = []
    for name, leaf in pytree.named(abstract).items():
        found = {
            device: jax.device_put(
                shards[shard.key], SingleDeviceSharding(device, memory_kind=leaf.sharding.memory_kind)
            )
            for shard in _shards(name, leaf)
            if shard.key in shards
            for device in shard.devices
        }
        if processes <= holders:
            leaves.append(jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, list(found.values())))
        else:
            givers = {
                min((device for device in devices if device.process_index in holders), key=lambda device: device.id)
                for devices in holders_of(leaf).values()
            }
            leaves.append(spread(leaf, {device: found[device] for device in givers & found.keys()}))
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def spread(leaf: Any, given: Mapping[jax.Device, jax.Array]) -> jax.Array:
    """The array `leaf` where of each part one device, of any process, has it in `given` and the others get it.

    Copies lie along the mesh axes that the array is not split over. Summed over them, as bits, one value and zeros are
    that value, whatever it is: every device receives its own part and no other.
    """
    mesh, spec = leaf.sharding.mesh, leaf.sharding.spec
    split = {axis for entry in spec if entry for axis in ((entry,) if isinstance(entry, str) else entry)}
    copies = tuple(axis for axis in mesh.axis_names if axis not in split)
    stacked = NamedSharding(mesh, PartitionSpec(copies, *spec))
    shape = (math.prod(mesh.shape[axis] for axis in copies), *leaf.shape)
    buffers: list[Any] = []
    for device in stacked.addressable_devices:
        empty = np.zeros((1, *stacked.shard_shape(shape)[1:]), leaf.dtype)
        part = (
            jnp.expand_dims(jax.device_put(given[device], SingleDeviceSharding(device)), 0)
            if device in given
            else empty
        )
        buffers.append(jax.device_put(part, SingleDeviceSharding(device)))
    array = jax.make_array_from_single_device_arrays(shape, stacked, buffers)
    summed = jax.jit(_the_only, out_shardings=NamedSharding(mesh, spec))(array)
    return jax.block_until_ready(jax.device_put(summed, leaf.sharding))


def _the_only(copies: jax.Array) -> jax.Array:
    """Of copies of which all but one are zeros the one, by its bits: -0.0 and NaNs stay what they are."""
    if copies.dtype == bool:
        return copies.any(axis=0)
    width = jnp.dtype(f"uint{8 * copies.dtype.itemsize}")
    # as 32 bits: not every backend's collectives add smaller numbers
    bits = jax.lax.bitcast_convert_type(copies, width).astype(jnp.uint32).sum(axis=0, dtype=jnp.uint32)
    return jax.lax.bitcast_convert_type(bits.astype(width), copies.dtype)
