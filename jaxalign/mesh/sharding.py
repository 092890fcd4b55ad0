"""Meshes and placement: logical axis names of parameters and activations → mesh axes, by one table.

    slice     copies of everything else, joined by the data-centre network: a pod slice each
    data      copies of the parameters
    fsdp      shards of parameters and optimizer state (ZeRO-3: Rajbhandari et al. 2019, arXiv 1910.02054)
    expert    shards of the experts of a mixture
    context   pieces of each row (sequence parallelism)
    tensor    shards of heads, feed-forward and vocabulary (Megatron: Shoeybi et al. 2019, arXiv 1909.08053)

Rows are split over slice, data, fsdp and expert. Every array names its axes logically ("vocab", "embed", …); the table
says which mesh axes each name is split over. What does not divide is replicated, so one config runs from one device to
many.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxalign.errors import ConfigError
from jaxalign.mesh.rounding import rounded

MESH_AXES = ("slice", "data", "fsdp", "expert", "context", "tensor")
"""From the slowest links to the fastest: neighbours along the last axis are neighbours in the torus."""

ROWS = ("slice", "data", "fsdp", "expert")
"""What rows, groups and prompts are split over."""

Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

RULES: Rules = (
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", ("fsdp", "context", "expert")),
    ("expert", "expert"),
    ("norm", None),
    ("head", None),
    ("layers", None),
    ("rank", None),
)
"""Megatron-style tensor parallelism over heads, feed-forward and vocabulary; parameters are stored split by width over
all axes whose devices see other tokens anyway, and gathered for the layer that needs them."""

ALLOWED = {
    **dict.fromkeys(("vocab", "heads", "kv_heads", "mlp"), ("tensor",)),
    "embed": ("data", "fsdp", "context", "expert"),
    "expert": ("expert",),
    **dict.fromkeys(("norm", "head", "layers", "rank"), ()),
}
"""Mesh axes that the programs can split each logical axis over."""


@dataclass(frozen=True)
class MeshShape:
    """How many devices along each mesh axis; -1 (at most one) takes the devices that are left."""

    data: int = 1
    """copies of the parameters within a slice; rows are split over them"""
    fsdp: int = -1
    """shards of parameters and optimizer state; rows are split over them too"""
    tensor: int = 1
    """shards of heads, feed-forward and vocabulary"""
    context: int = 1
    """pieces that each row is cut into: for rows too long for one device"""
    expert: int = 1
    """shards of a mixture's experts; rows are split over them too"""
    slices: int = 1
    """pod slices, joined by the data-centre network; each has the parameters, rows are split over them"""
    rules: Rules = RULES
    """logical axis → mesh axis or axes (or None: replicated)"""

    def problems(self) -> Iterable[str]:
        sizes = tuple(self.sizes.values())
        if any(size < 1 and size != -1 for size in sizes):
            yield f"axis sizes must be positive or -1, got {self.sizes}"
        if sizes.count(-1) > 1:
            yield "only one axis may be -1"
        names = [name for name, _ in self.rules]
        if missing := [name for name in ALLOWED if name not in names]:
            yield f"rules: nothing is said of {', '.join(missing)}"
        for name, value in self.rules:
            if name not in ALLOWED:
                yield f"rules: no array has an axis called {name!r}; there are {', '.join(ALLOWED)}"
                continue
            for axis in axes_of(value):
                if axis not in ALLOWED[name]:
                    choice = ", ".join(ALLOWED[name]) or "nothing: it is replicated"
                    yield f"rules: {name!r} cannot be split over {axis!r}; it can over {choice}"

    @property
    def sizes(self) -> dict[str, int]:
        """Devices along each mesh axis, as configured."""
        return dict(
            zip(MESH_AXES, (self.slices, self.data, self.fsdp, self.expert, self.context, self.tensor), strict=True)
        )

    def build(self, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
        """The mesh over `devices` (default: all), or over the first of them if the sizes are given and need fewer.

        Devices of TPUs are put so that neighbours in the mesh are neighbours in the torus. ConfigError if there are
        too few, if -1 leaves a remainder, or if `slices` is not the number of slices there are.
        """
        found = list(jax.devices() if devices is None else devices)
        sizes = list(self.sizes.values())
        if -1 in sizes:
            rest, remainder = divmod(len(found), -math.prod(sizes))
            sizes[sizes.index(-1)] = rest
            if remainder:
                raise ConfigError(f"mesh: {self.sizes} does not divide {len(found)} devices")
        needed = math.prod(sizes)
        if needed > len(found):
            raise ConfigError(f"mesh: {self.sizes} needs {needed} devices, there are {len(found)}")
        return jax.sharding.Mesh(
            _arranged(found[:needed], sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES)
        )


def _arranged(devices: list[jax.Device], sizes: list[int]) -> np.ndarray:
    """The devices as an array of `sizes`: in their order, but TPUs by their place in the torus and by slice."""
    if devices[0].platform != "tpu":
        return np.array(devices).reshape(sizes)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices != sizes[0]:
        raise ConfigError(f"mesh: slices is {sizes[0]}, but the devices are in {slices}")
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    within, across = [1, *sizes[1:]], [slices, *[1] * (len(sizes) - 1)]
    return mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)


def axes_of(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes of a rule, of an entry of a PartitionSpec."""
    return () if value is None else (value,) if isinstance(value, str) else value


def param_shardings(mesh: jax.sharding.Mesh, rules: Rules, abstract: Any, axes: Any) -> Any:
    """Tree of shardings for parameters of shapes `abstract` whose logical axes are the tuples in `axes`."""

    def place(leaf: jax.ShapeDtypeStruct, names: tuple[str | None, ...]) -> NamedSharding:
        return NamedSharding(mesh, spec(mesh, dict(rules), leaf.shape, names))

    return jax.tree.map(place, abstract, axes, is_leaf=lambda node: isinstance(node, tuple))


def bytes_per_device(abstract: Any) -> int:
    """Bytes that arrays, or shapes with shardings, take in one device's own memory, without what the host keeps."""
    there = [leaf for leaf in jax.tree.leaves(abstract) if leaf.sharding.memory_kind != "pinned_host"]
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in there)


def describe(mesh: jax.sharding.Mesh, abstract: Any) -> str:
    """A line for every parameter of `abstract`, shapes with shardings: its path, shape, what splits each axis, and MiB
    on a device."""
    rows = [("parameter", "shape", "split over", "MiB a device")]
    total = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(abstract)[0]:
        size = math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        total += size
        split = ", ".join("·".join(axes_of(entry)) or "-" for entry in leaf.sharding.spec)
        rows.append(
            (jax.tree_util.keystr(path, simple=True, separator="."), str(leaf.shape), split, f"{size / 2**20:.2f}")
        )
    rows.append(("all", "", "", f"{total / 2**20:.2f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"mesh {dict(mesh.shape)}", *lines])


def row_sharding(mesh: jax.sharding.Mesh, leading: int = 0) -> NamedSharding:
    """Rows (or groups, prompts) split over `ROWS`; `leading` axes before them are replicated."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, ROWS))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def row_shards(mesh: jax.sharding.Mesh) -> int:
    """Number of pieces rows are split into: batch sizes must be multiples of it."""
    return devices_along(mesh, ROWS)


def full_rows(mesh: jax.sharding.Mesh, count: int) -> int:
    """How many rows a batch of `count` is filled up to, so that every piece has as many."""
    return rounded(count, row_shards(mesh))


def devices_along(mesh: jax.sharding.Mesh, axes: Iterable[str]) -> int:
    """Devices along some axes together."""
    return math.prod(mesh.shape[axis] for axis in axes)


def spec(
    mesh: jax.sharding.Mesh,
    table: dict[str, str | tuple[str, ...] | None],
    shape: tuple[int, ...],
    names: tuple[str | None, ...],
) -> PartitionSpec:
    """How an array of `shape` with axes `names` is split. A mesh axis splits one dimension only, the first that names
    it; of several for one dimension the last are left out until the size divides."""
    used: set[str] = set()
    entries: list[str | tuple[str, ...] | None] = []
    for size, name in zip(shape, names, strict=True):
        wanted = axes_of(table[name]) if name is not None else ()
        axes = tuple(axis for axis in wanted if axis not in used and mesh.shape[axis] > 1)
        while axes and size % devices_along(mesh, axes):
            axes = axes[:-1]
        used.update(axes)
        entries.append(axes if len(axes) > 1 else axes[0] if axes else None)
    return PartitionSpec(*entries)


def on(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """The shape and dtype of `leaf`, in that place."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
