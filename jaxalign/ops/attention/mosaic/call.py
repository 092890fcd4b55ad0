"""A call of a TPU kernel over a list of visits: operands and results by name, each with the block that a visit has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Int

from jaxalign.ops.attention.mosaic.blocks import Blocks, Shape
from jaxalign.ops.attention.mosaic.tile import Refs
from jaxalign.ops.attention.mosaic.visits import Visits

Spec = tuple[Any, pl.BlockSpec]


@dataclass(frozen=True)
class Grid:
    """Visits of each KV head, and the blocks that a visit has of the arrays: queries [n q k·g·h], keys [n c k·h]."""

    visits: Visits
    window: Int[Array, ""] | None
    blocks: Blocks
    shape: Shape
    vmem: int
    interpret: Any

    def queries(self, array: Any) -> Spec:
        """Of all query heads of a KV head."""
        block = (1, self.blocks.queries, self.shape.g * self.shape.h)
        return array, pl.BlockSpec(block, lambda k, t, row, query, *_: (row[t], query[t], k))

    def keys(self, array: Any) -> Spec:
        """Of one KV head."""
        block = (1, self.blocks.keys, self.shape.h)
        return array, pl.BlockSpec(block, lambda k, t, row, query, key, *_: (row[t], key[t], k))

    def row(self, array: Any) -> Spec:
        """All keys of a row, of one KV head; written when the row is left."""
        return array, pl.BlockSpec((1, array.shape[1], self.shape.h), lambda k, t, row, *_: (row[t], 0, k))

    def number(self, array: Any) -> Spec:
        """A number a query and head, [n k g q]."""
        block = (1, 1, self.shape.g, self.blocks.queries)
        return array, pl.BlockSpec(block, lambda k, t, row, query, *_: (row[t], k, 0, query[t]))

    def mine(self, array: Any) -> Spec:
        """Codes of queries, [n 3 q]."""
        return array, pl.BlockSpec((1, 3, self.blocks.queries), lambda k, t, row, query, *_: (row[t], 0, query[t]))

    def theirs(self, array: Any) -> Spec:
        """Codes of keys, [n 3 c]."""
        return array, pl.BlockSpec((1, 3, self.blocks.keys), lambda k, t, row, query, key, *_: (row[t], 0, key[t]))

    def scratch(self, *shape: int, dtype: Any = jnp.float32) -> Any:
        """VMEM that is kept from visit to visit."""
        return pltpu.VMEM(shape, dtype)

    def call(
        self,
        name: str,
        body: Callable[[Refs], None],
        operands: dict[str, Spec],
        results: dict[str, Spec],
        scratch: dict[str, Any],
    ) -> dict[str, Array]:
        """Runs `body` on each visit, given all refs by name. As many visits are made as there are: the grid's length
        is known on the device only."""
        visits = self.visits
        lists = {"row": visits.row, "query": visits.query, "key": visits.key, "flags": visits.flags}
        if self.window is not None:
            lists["window"] = self.window[None].astype(jnp.int32)
        names = [*lists, *operands, *results, *scratch]
        made = pl.pallas_call(
            lambda *refs: body(dict(zip(names, refs, strict=True))),
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=len(lists),
                grid=(self.shape.k, visits.count),
                in_specs=[spec for _, spec in operands.values()],
                out_specs=[spec for _, spec in results.values()],
                scratch_shapes=list(scratch.values()),
            ),
            out_shape=[shape for shape, _ in results.values()],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=self.vmem
            ),
            interpret=self.interpret,
            name=name,
        )(*lists.values(), *(array for array, _ in operands.values()))
        return dict(zip(results, made, strict=True))


def like(array: Array, dtype: Any = None) -> jax.ShapeDtypeStruct:
    """A result of an array's shape, and its dtype if none is named."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype if dtype is None else dtype)
