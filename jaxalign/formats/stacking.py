"""Parameters built part by part on the devices that keep them.

A stacked parameter of a large model is larger than the memory of a host that feeds several devices. So no host ever
holds one: each device's shard is filled layer by layer, and only the slice of a layer that some local device keeps is
asked for. Nothing is sent between devices, and on a pod every process does this for its own.
"""

import functools
import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

Index = tuple[slice, ...]
"""One slice for each axis, with both ends given."""
Fetch = Callable[[Index], np.ndarray]
"""The values of one part of a parameter inside a slice of it."""

SMALL = 64 * 2**20
"""Bytes of all local shards that are put together on the host and sent at once: fewer programs to compile."""


@runtime_checkable
class Shard(Protocol):
    """What one device keeps of a parameter, being filled."""

    def put(self, at: tuple[int, ...], values: np.ndarray) -> None:
        """Writes the part at the leading indices `at`."""

    def array(self) -> jax.Array:
        """The shard on its device."""


class OnHost:
    """A shard filled in the host's memory."""

    def __init__(self, shape: tuple[int, ...], device: jax.Device | None):
        self.values = np.empty(shape, np.float32)
        self.device = device

    def put(self, at: tuple[int, ...], values: np.ndarray) -> None:
        self.values[at] = values

    def array(self) -> jax.Array:
        return jax.device_put(self.values, self.device)


class OnDevice:
    """A shard filled in the device's memory."""

    def __init__(self, shape: tuple[int, ...], device: jax.Device | None):
        self.values = jnp.zeros(shape, jnp.float32, device=device)
        self.device = device

    def put(self, at: tuple[int, ...], values: np.ndarray) -> None:
        start = (*at, *(0,) * values.ndim)
        part = jax.device_put(np.asarray(values, np.float32), self.device)
        self.values = overwrite(self.values, part, np.asarray(start, np.int32))
        self.values.block_until_ready()  # or layers would queue up on the host

    def array(self) -> jax.Array:
        return self.values


@functools.partial(jax.jit, donate_argnums=0)
def overwrite(whole: jax.Array, part: jax.Array, start: jax.Array) -> jax.Array:
    """The stack with one part written at `start`; donated, so that no second stack is made."""
    part = part.reshape((1,) * (whole.ndim - part.ndim) + part.shape)
    return jax.lax.dynamic_update_slice(whole, part, tuple(start))


def stack(
    shape: tuple[int, ...],
    leading: int,
    part: Callable[[tuple[int, ...]], Fetch],
    sharding: jax.sharding.Sharding | None,
    small: int = SMALL,
) -> jax.Array:
    """The fp32 array of `shape` whose parts, one for each index of the `leading` axes, are fetched in their order.

    A part of which no device here keeps anything is never opened. With no sharding the array is on JAX's default
    device. `small` is in bytes.
    """
    whole = tuple(slice(0, size) for size in shape)
    kept: dict[jax.Device | None, Index] = {None: whole}
    if sharding is not None:
        places = sharding.addressable_devices_indices_map(shape)
        kept = {device: bounded(index or whole, shape) for device, index in places.items()}
    size = 4 * sum(math.prod(extent(index)) for index in kept.values())
    kind = OnHost if size <= small else OnDevice
    shards: dict[jax.Device | None, Shard] = {device: kind(extent(i), device) for device, i in kept.items()}
    for at in np.ndindex(*shape[:leading]):
        here = [device for device, index in kept.items() if inside(at, index)]
        fetch = part(at) if here else None
        read: dict[tuple[tuple[int, int], ...], np.ndarray] = {}
        for device in here:
            index = kept[device][leading:]
            key = tuple((s.start, s.stop) for s in index)
            if key not in read and fetch is not None:  # replicas share what was read
                read[key] = fetch(index)
            shards[device].put(tuple(i - s.start for i, s in zip(at, kept[device], strict=False)), read[key])
    arrays = [shard.array() for shard in shards.values()]
    return arrays[0] if sharding is None else jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def bounded(index: tuple[slice, ...], shape: tuple[int, ...]) -> Index:
    """The index with its ends as numbers: JAX says `slice(None)` for a whole axis."""
    return tuple(slice(*s.indices(size)[:2]) for s, size in zip(index, shape, strict=True))


def extent(index: Index) -> tuple[int, ...]:
    """The shape of what an index picks."""
    return tuple(s.stop - s.start for s in index)


def inside(at: tuple[int, ...], index: Index) -> bool:
    """Whether the layer at `at` is among those that an index picks."""
    return all(s.start <= i < s.stop for i, s in zip(at, index, strict=False))
