"""Meshes and placement on eight fake devices."""

import math

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxalign.errors import ConfigError
from jaxalign.mesh.sharding import ROWS, RULES, MeshShape, param_shardings, replicated, row_sharding, row_shards


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        (MeshShape(), {"fsdp": 8}),
        (MeshShape(data=2, fsdp=2, tensor=2), {"data": 2, "fsdp": 2, "tensor": 2}),
        (MeshShape(data=-1, fsdp=1, tensor=4), {"data": 2, "tensor": 4}),
        (MeshShape(data=1, fsdp=1, tensor=-1), {"tensor": 8}),
        (MeshShape(fsdp=-1, context=2, expert=2), {"fsdp": 2, "context": 2, "expert": 2}),
        (MeshShape(slices=2), {"slice": 2, "fsdp": 4}),
    ],
)
def test_minus_one_takes_the_devices_that_are_left(shape, sizes):
    mesh = shape.build()
    assert {axis: size for axis, size in mesh.shape.items() if size > 1} == sizes
    assert row_shards(mesh) == math.prod(size for axis, size in sizes.items() if axis in ROWS)


def test_fixed_sizes_may_take_fewer_devices_than_there_are():
    assert MeshShape(data=3, fsdp=1).build().size == 3
    assert list(MeshShape(data=1, fsdp=1).build().devices.flat) == jax.devices()[:1]


@pytest.mark.parametrize("shape", [MeshShape(data=3), MeshShape(data=16), MeshShape(data=16, fsdp=1)])
def test_sizes_that_do_not_fit_are_refused_with_the_device_count(shape):
    with pytest.raises(ConfigError, match="8"):
        shape.build()


def test_one_device_can_be_chosen():
    assert MeshShape().build(jax.devices()[:1]).size == 1


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (MeshShape(data=0), "positive"),
        (MeshShape(data=-1), "only one"),
        (MeshShape(rules=(*RULES[:4], ("embed", "model"), *RULES[5:])), "model"),
        (MeshShape(rules=(("vocab", "fsdp"), *RULES[1:])), "'vocab' cannot be split over 'fsdp'; it can over tensor"),
        (MeshShape(rules=(("width", None), *RULES)), "no array has an axis called 'width'"),
        (MeshShape(rules=RULES[1:]), "nothing is said of vocab"),
    ],
)
def test_impossible_shapes_are_named(bad, word):
    assert any(word in problem for problem in bad.problems())


def test_logical_axes_become_mesh_axes_where_sizes_divide():
    mesh = MeshShape(data=1, fsdp=4, tensor=2).build()
    abstract = {
        "even": jax.ShapeDtypeStruct((16, 8), np.float32),
        "odd": jax.ShapeDtypeStruct((15, 8), np.float32),
        "plain": jax.ShapeDtypeStruct((8,), np.float32),
        "twice": jax.ShapeDtypeStruct((8, 8), np.float32),
    }
    axes = {"even": ("vocab", "embed"), "odd": ("vocab", "embed"), "plain": (None,), "twice": ("heads", "mlp")}
    specs = {name: s.spec for name, s in param_shardings(mesh, MeshShape().rules, abstract, axes).items()}
    assert specs == {
        "even": PartitionSpec("tensor", "fsdp"),
        "odd": PartitionSpec(None, "fsdp"),  # 15 does not divide by 2: replicated
        "plain": PartitionSpec(None),
        "twice": PartitionSpec("tensor", None),  # a mesh axis splits one dimension only
    }


def test_rows_are_split_over_data_and_fsdp_together():
    mesh = MeshShape(data=2, fsdp=2, tensor=2).build()
    rows = jax.device_put(np.arange(8).reshape(4, 2), row_sharding(mesh))
    assert {shard.data.shape for shard in rows.addressable_shards} == {(1, 2)}
    micro = jax.device_put(np.zeros((3, 4, 2)), row_sharding(mesh, leading=1))
    assert {shard.data.shape for shard in micro.addressable_shards} == {(3, 1, 2)}
    assert jax.device_put(np.zeros(3), replicated(mesh)).sharding.is_fully_replicated
