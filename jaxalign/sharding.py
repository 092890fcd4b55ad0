"""Meshes and placement: logical axis names of parameters and batches → mesh axes, by one table.

Every array names its axes logically ("vocab", "embed", …); the table says which mesh axis each name is split over. An
axis whose size does not divide by its mesh axis is replicated, so one config runs from one device to many.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxalign.errors import ConfigError

MESH_AXES = ("data", "fsdp", "tensor")

Rules = tuple[tuple[str, str | None], ...]

RULES: Rules = (
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
    ("expert", None),
    ("head", None),
    ("layers", None),
    ("rank", None),
)
"""Megatron-style tensor parallelism over heads, feed-forward and vocabulary; parameters split over fsdp by width."""


@dataclass(frozen=True)
class MeshShape:
    """How many devices along each mesh axis; -1 (at most one) takes the devices that are left."""

    data: int = 1
    """replicas of the parameters; rows are split over them"""
    fsdp: int = -1
    """shards of parameters and optimizer state; rows are split over them too"""
    tensor: int = 1
    """shards of heads, feed-forward and vocabulary"""
    rules: Rules = RULES
    """logical axis → mesh axis (or None: replicated)"""

    def problems(self) -> Iterable[str]:
        sizes = (self.data, self.fsdp, self.tensor)
        if any(size < 1 and size != -1 for size in sizes):
            yield f"axis sizes must be positive or -1, got {self._named()}"
        if sizes.count(-1) > 1:
            yield "only one axis may be -1"
        for name, axis in self.rules:
            if axis not in (None, *MESH_AXES):
                yield f"rules: {name!r} maps to {axis!r}, which is no mesh axis; there are {', '.join(MESH_AXES)}"

    def build(self, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
        """The mesh over `devices` (default: all), or over the first of them if the sizes are given and need fewer.

        ConfigError if there are too few, or if -1 leaves a remainder.
        """
        found = list(jax.devices() if devices is None else devices)
        sizes = [self.data, self.fsdp, self.tensor]
        if -1 in sizes:
            rest, remainder = divmod(len(found), -math.prod(sizes))
            sizes[sizes.index(-1)] = rest
            if remainder:
                raise ConfigError(f"mesh: {self._named()} does not divide {len(found)} devices")
        needed = math.prod(sizes)
        if needed > len(found):
            raise ConfigError(f"mesh: {self._named()} needs {needed} devices, there are {len(found)}")
        return jax.sharding.Mesh(
            np.array(found[:needed]).reshape(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES)
        )

    def _named(self) -> dict[str, int]:
        return dict(zip(MESH_AXES, (self.data, self.fsdp, self.tensor), strict=True))


def param_shardings(mesh: jax.sharding.Mesh, rules: Rules, abstract: Any, axes: Any) -> Any:
    """Tree of shardings for parameters of shapes `abstract` whose logical axes are the tuples in `axes`."""
    table = dict(rules)

    def place(leaf: jax.ShapeDtypeStruct, names: tuple[str | None, ...]) -> NamedSharding:
        return NamedSharding(mesh, _spec(mesh, table, leaf.shape, names))

    return jax.tree.map(place, abstract, axes, is_leaf=lambda node: isinstance(node, tuple))


def row_sharding(mesh: jax.sharding.Mesh, leading: int = 0) -> NamedSharding:
    """Rows (or groups, prompts) split over data and fsdp; `leading` axes before them are replicated."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, ("data", "fsdp")))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def row_shards(mesh: jax.sharding.Mesh) -> int:
    """Number of pieces rows are split into: batch sizes must be multiples of it."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def _spec(
    mesh: jax.sharding.Mesh, table: dict[str, str | None], shape: tuple[int, ...], names: tuple[str | None, ...]
) -> PartitionSpec:
    entries: list[str | None] = []
    for size, name in zip(shape, names, strict=True):
        axis = table[name] if name is not None else None
        usable = axis is not None and axis not in entries and size % mesh.shape[axis] == 0
        entries.append(axis if usable else None)
    return PartitionSpec(*entries)
