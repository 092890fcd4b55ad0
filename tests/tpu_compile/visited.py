"""Attention compiled for TPUs that are not here, and the cycles of its kernels, by what runs how often.

A kernel's schedule holds the code of a visit twice, for blocks that are seen whole and for those that are masked, what
begins and ends a block of queries, and the scalar code that fetches blocks. The first two are told by the matrix units,
of which each has half of the work; straight-line code without them is once a block of queries, the rest once a visit,
as if nothing of it ran beside anything else. HBM stalls are not in it.
"""

from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from programs import TOPOLOGIES
from schedule import MULTIPLY_ADDS, SCHEDULES, cycles_of

from jaxalign.ops.attention.costs import PRODUCTS
from jaxalign.ops.attention.engine import attended
from jaxalign.ops.attention.mosaic import pallas_tpu
from jaxalign.ops.attention.mosaic.blocks import Blocks, chip, fit
from jaxalign.ops.attention.mosaic.visits import Count, counted
from jaxalign.ops.attention.problem import Problem, Scores
from jaxalign.ops.attention.sight import Tree

STRAIGHT = 64
"""Lines without scalar code that are what begins or ends a block and no gap between address computations."""


@dataclass(frozen=True)
class Row:
    """A causal row of `s` tokens, bf16, on one core: k KV heads with g queries each, of size h."""

    generation: str
    s: int
    k: int
    g: int
    h: int
    cap: float | None = None
    window: int | None = None
    dtype: str = "bfloat16"


@dataclass(frozen=True)
class Cycles:
    """Cycles of the parts of a kernel."""

    whole: int
    masked: int
    """of one of the parts in which something is seen"""
    block: int
    visit: int


@dataclass(frozen=True)
class Kernels:
    """Facts of a program: shapes of its buffers as text, bytes of workspace, parts of its kernels, their blocks."""

    text: str
    temporary: int
    cycles: dict[str, Cycles]
    blocks: dict[str, Blocks]


def parts(lines: list[dict[str, int]], blocks: Blocks) -> Cycles:
    """The parts of a kernel's schedule."""
    matrix, scalar = np.array([line["MXU"] for line in lines]), np.array([line["SALU"] > 0 for line in lines])
    made = np.array(list(accumulate(matrix)))
    busy = np.flatnonzero(matrix)
    half = int(np.searchsorted(made, made[-1] / 2))
    # the branch for whole blocks is first, and ends where scalar code decides what is next
    end = half + int(np.argmax(scalar[half:]))
    whole, masked = end - int(busy[0]), int(busy[-1]) - end
    outside = scalar.copy()
    outside[: busy[0]], outside[end:], outside[busy[0] : busy[-1]] = scalar[: busy[0]], scalar[end:], True
    edges = np.flatnonzero(np.diff(np.concatenate([[True], outside, [True]])))
    stretches = [int(stop - start) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
    block = sum(length for length in stretches if length >= STRAIGHT)
    count = blocks.queries * blocks.keys // blocks.part**2
    return Cycles(whole, masked // count, block, len(lines) - whole - masked - block)


def row_cycles(row: Row, kernel: str, found: Kernels) -> int:
    """Of one KV head and its queries."""
    blocks, part = found.blocks[kernel], found.cycles[kernel]
    count = visits_of(row, blocks)
    every = count.every * part.visit + count.whole * part.whole + count.parts * part.masked
    return every + -(-row.s // blocks.queries) * part.block


def visits_of(row: Row, blocks: Blocks) -> Count:
    """Of a causal row."""
    ids = Tree(*(jnp.asarray(each, jnp.int32)[None] for each in ([0] * row.s, [0] * row.s, range(row.s))))
    window = None if row.window is None else jnp.int32(row.window)
    return counted(ids, window, (blocks.queries, blocks.keys), blocks.part)


def share_of_peak(row: Row, found: Kernels, kernels: tuple[str, ...]) -> tuple[float, float]:
    """Multiply-adds over what the matrix units could make in the kernels' cycles: those of the pairs of tokens that see
    each other, and those of all blocks that are visited."""
    seen, visited, cycles = 0, 0, 0
    for kernel in kernels:
        b = found.blocks[kernel]
        depth = PRODUCTS[kernel] * row.g * row.h
        seen += depth * row.s * (row.s + 1) // 2
        visited += depth * visits_of(row, b).computed((b.queries, b.keys), b.part)
        cycles += row_cycles(row, kernel, found)
    return tuple(made / (MULTIPLY_ADDS[row.generation] * cycles) for made in (seen, visited))


@cache
def compiled(row: Row) -> Kernels:
    """Forward and backward of a row, with gradients of queries, keys and values; once a session."""
    device, scores, before = chip(row.generation), Scores(float(row.h), row.cap), set(SCHEDULES.iterdir())
    kernels = pallas_tpu.of_chip(device)
    window = None if row.window is None else jnp.int32(row.window)

    def loss(operands: Any, columns: Any) -> jax.Array:
        ids = Tree(*columns)
        return attended(kernels, scores, Problem(*operands, ids, ids, window)).astype(jnp.float32).sum()

    place = place_on(row.generation)

    def given(*shape: int, dtype: Any = row.dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    s, k, g, h = row.s, row.k, row.g, row.h
    ids = (given(1, s, dtype="int32"),) * 3
    operands = given(1, s, k, g, h), given(1, k, h, s), given(1, k, s, h)
    made = jax.jit(jax.value_and_grad(loss)).trace(operands, ids).lower(lowering_platforms=("tpu",)).compile()
    size = jnp.dtype(row.dtype).itemsize
    shape = pallas_tpu.Shape(1, s, s, k, g, -(-h // 128) * 128, size, True)
    blocks = {kernel: fit(kernel, device, shape) for kernel in PRODUCTS}
    cycles = {kernel: parts(cycles_of(rf"attention_{kernel}_", before), blocks[kernel]) for kernel in PRODUCTS}
    return Kernels(made.as_text(), made.memory_analysis().temp_size_in_bytes, cycles, blocks)


def product_share(generation: str, m: int, depth: int, n: int) -> float:
    """Of the peak, what a kernel that only multiplies [m depth] by [depth n] in bf16 reaches."""

    def body(left: Any, right: Any, made: Any) -> None:
        made[...] = jnp.dot(left[...], right[...], preferred_element_type=jnp.float32).astype(made.dtype)

    def run(left: jax.Array, right: jax.Array) -> jax.Array:
        return pl.pallas_call(body, out_shape=jax.ShapeDtypeStruct((m, n), jnp.bfloat16), name="product")(left, right)

    before, place = set(SCHEDULES.iterdir()), place_on(generation)
    given = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place) for shape in ((m, depth), (depth, n))]
    jax.jit(run).trace(*given).lower(lowering_platforms=("tpu",)).compile()
    return m * depth * n / (MULTIPLY_ADDS[generation] * len(cycles_of(r"-product\.", before)))


def place_on(generation: str) -> NamedSharding:
    """One device of a generation."""
    devices = list(topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[generation]).devices)
    return NamedSharding(Mesh([devices[:1]], ("data", "tensor")), P())
