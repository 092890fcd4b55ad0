"""A call of a TPU kernel: operands and results by name with their blocks, and the tokens padded to whole blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from jaxalign.ops.linear_logp import costs
from jaxalign.ops.linear_logp.blocks import LANES, Blocks
from jaxalign.ops.linear_logp.problem import Shard

Refs = dict[str, Any]
Spec = tuple[Any, pl.BlockSpec]


@dataclass(frozen=True)
class Kernel:
    """A kernel's operands (arrays and blocks) and results (shapes and blocks) by name, and how it is compiled."""

    name: str
    grid: tuple[int, int]
    operands: dict[str, Spec]
    results: dict[str, Spec]
    scratch: dict[str, Any]
    vmem: int
    flops: int
    interpret: Any

    def __call__(self, body: Callable[[Refs], None]) -> dict[str, Array]:
        """Runs `body` on each grid step, given all refs by name."""
        names = [*self.operands, *self.results, *self.scratch]
        made = pl.pallas_call(
            lambda *refs: body(dict(zip(names, refs, strict=True))),
            grid=self.grid,
            in_specs=[spec for _, spec in self.operands.values()],
            out_specs=[spec for _, spec in self.results.values()],
            out_shape=[shape for shape, _ in self.results.values()],
            scratch_shapes=list(self.scratch.values()),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=self.vmem
            ),
            cost_estimate=pl.CostEstimate(flops=self.flops, transcendentals=0, bytes_accessed=0),
            interpret=self.interpret,
            name=self.name,
        )(*(array for array, _ in self.operands.values()))
        return dict(zip(self.results, made, strict=True))


@dataclass(frozen=True)
class Plan:
    """One kernel call: its blocks, how many of them, and the tokens padded to whole blocks."""

    kernel: str
    blocks: Blocks
    shard: Shard
    vmem: int
    interpret: Any

    @property
    def steps(self) -> tuple[int, int]:
        """Blocks of tokens, and whole blocks of the vocabulary."""
        return -(-self.shard.hidden.shape[0] // self.blocks.n), self.shard.head.shape[0] // self.blocks.v

    @property
    def tokens(self) -> int:
        """With the padding that fills the last block."""
        return self.steps[0] * self.blocks.n

    @property
    def covered(self) -> int:
        """Rows of the head in whole blocks."""
        return self.steps[1] * self.blocks.v

    def padded(self, values: Array, fill: int = 0) -> Array:
        """Tokens on the leading axis, up to a whole block; what is added is ignored or 0."""
        missing = self.tokens - values.shape[0]
        return (
            jnp.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1), constant_values=fill) if missing else values
        )

    def lanes(self, values: Array, at: Callable, fill: int = 0) -> Spec:
        """A value a token as a row of lanes."""
        return self.padded(values, fill)[None, :], pl.BlockSpec((1, self.blocks.n), lambda i, j: (0, at(i, j)))

    def operands(self, token: Callable, row: Callable, transposed: bool) -> dict[str, Spec]:
        """What every kernel reads; `token` and `row` map a grid step to its blocks."""
        shard, (n, v), d = self.shard, (self.blocks.n, self.blocks.v), self.shard.hidden.shape[1]
        made: dict[str, Spec] = {}
        if shard.limit is not None:
            made["limit"] = (shard.limit[None], pl.BlockSpec(memory_space=pltpu.SMEM))
        if transposed:
            made["target"] = self.lanes(shard.targets, token, fill=-1)
        else:
            wide = jnp.broadcast_to(self.padded(shard.targets, -1)[:, None], (self.tokens, LANES))
            made["target"] = (wide, pl.BlockSpec((n, LANES), lambda i, j: (token(i, j), 0)))
        made["hidden"] = (self.padded(shard.hidden), pl.BlockSpec((n, d), lambda i, j: (token(i, j), 0)))
        made["head"] = (shard.head, pl.BlockSpec((v, d), lambda i, j: (row(i, j), 0)))
        if shard.bias is not None:
            bias = shard.bias.astype(jnp.float32)[None, :]
            made["bias"] = (bias, pl.BlockSpec((1, v), lambda i, j: (0, row(i, j))))
        return made

    def call(
        self,
        body: Callable[[Refs], None],
        outer: str,
        operands: dict[str, Spec],
        results: dict[str, Spec],
        scratch: dict[str, Any],
    ) -> dict[str, Array]:
        """Runs the kernel; the grid's `outer` loop is over "tokens" or "vocabulary"."""
        kernel = Kernel(
            costs.kernel_name(self.kernel),
            self.steps if outer == "tokens" else self.steps[::-1],
            operands,
            results,
            scratch,
            vmem=self.vmem,
            flops=int(costs.flops(self.kernel, self.tokens, self.shard.hidden.shape[1], self.covered)),
            interpret=self.interpret,
        )
        return kernel(body)
