"""A tree of parameters on any mesh, for tests of checkpoints."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxalign.types import Params

DATA = {"next_index": 12, "nested": {"list": [1, 2.5, None]}}
META = {"iteration": 0, "anchor": 0}


def params(seed: int = 0) -> Params:
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "embed": jax.random.normal(keys[0], (64, 32)),
        "layers": {
            "query": jax.random.normal(keys[1], (2, 8, 16), jnp.bfloat16),
            "mask": jax.random.bernoulli(keys[2], 0.5, (8, 8)),
        },
        "step": jnp.int32(seed),
    }


def placed(tree: Params, shape: tuple[int, int], kind: AxisType = AxisType.Auto) -> Params:
    """The tree with its last two axes laid over a mesh of that shape."""
    mesh = jax.make_mesh(shape, ("x", "y"), axis_types=(kind, kind), devices=jax.devices()[: shape[0] * shape[1]])

    def place(leaf: jax.Array) -> jax.Array:
        axes = (*[None] * (leaf.ndim - 2), "x", "y") if leaf.ndim >= 2 else ()
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*axes)))

    return jax.tree.map(place, tree)


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def assert_same(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def files_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)


def grow(tree: Params) -> Params:
    return {**tree, "embed": jnp.zeros((65, 32))}


def tiny(k: int) -> Params:
    return {"table": jnp.full((3, 1), float(k))}
