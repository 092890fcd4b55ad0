"""Which rows of a sharded array belong to whom, and how host data and rows travel between a host and its devices.

A process feeds its own devices and reads its own rows; no row crosses from host to host. Where rows are replicated
over other mesh axes, the device that JAX numbers as replica 0 of a row decides who reads it: each row has one reader.
"""

from collections.abc import Collection
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int


def on_mesh(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Host arrays (every process has the same, or the same where its devices look) as global arrays."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def place(leaf: np.ndarray) -> jax.Array:
        # Not by make_array_from_callback: a transfer guard takes that for an accident.
        indices = sharding.addressable_devices_indices_map(leaf.shape)
        pieces = [jax.device_put(leaf[index], device) for device, index in indices.items()]
        return jax.make_array_from_single_device_arrays(leaf.shape, sharding, pieces)

    return jax.tree.map(place, tree)


def rows_on(devices: Collection[jax.Device], sharding: jax.sharding.Sharding, count: int) -> Bool[np.ndarray, " b"]:
    """Which of `count` rows any of `devices` holds under the row sharding."""
    held = np.zeros(count, bool)
    for device, index in sharding.devices_indices_map((count,)).items():
        if device in devices:
            held[index] = True
    return held


def rows_here(sharding: jax.sharding.Sharding, count: int) -> Bool[np.ndarray, " b"]:
    """Which of `count` rows this process's devices hold."""
    return rows_on(sharding.addressable_devices, sharding, count)


def own_rows(arrays: tuple[jax.Array, ...]) -> tuple[Int[np.ndarray, " k"], tuple[np.ndarray, ...]]:
    """Numbers and values of the rows that this process reads of equally sharded arrays; the values are on the host."""
    pieces = [sorted(map(_piece, _first_replicas(array)), key=lambda piece: piece[0].start) for array in arrays]
    numbers = [np.arange(rows.start, rows.stop) for rows, _ in pieces[0]]
    values = tuple(
        np.concatenate([np.zeros((0, *array.shape[1:]), array.dtype), *(np.asarray(value) for _, value in piece)])
        for array, piece in zip(arrays, pieces, strict=True)
    )
    return np.concatenate([np.zeros(0, np.int64), *numbers]), values


def _first_replicas(array: jax.Array) -> list[Any]:
    return [shard for shard in array.addressable_shards if shard.replica_id == 0]


def _piece(shard: Any) -> tuple[range, jax.Array]:
    """The rows of a shard that is whole along all other axes, and its values."""
    rows = shard.index[0]
    start = rows.start or 0
    return range(start, start + shard.data.shape[0]), shard.data
