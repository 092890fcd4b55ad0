"""The forward pass as a Triton kernel for Hopper: a tile of logits lives in registers, none is written.

    grid (tokens, parts of the vocabulary): a program passes over its part for its tokens, and writes one maximum and
    its sums a token; XLA combines the parts as it combines the shards of a mesh

**It has not run on a device.** It is compiled for sm_90a, and its values are tested in the interpreter. Until it is
measured the dispatcher uses XLA's chunked pass on GPUs, with products of 4,096 rows of the head for cuBLAS; this one is
there by name, `LogpOptions(implementation="pallas_gpu")`. JAX 0.12 warns when compiling it: Pallas will drop Triton for
Mosaic.
Published for an H100, n 4,096, d 4,096, v 128,256, bf16: forward 69 % of peak with full logits, 30 % with chunked XLA
(autotuning database of tokamax 0.0.17).

The backward pass is the portable one. A mean row [n d] fits no program's registers or shared memory, so the gradient of
the hidden states makes the logits again: 2·n·d·v operations forward and 6 backward, as many as the kernels for TPU need
in all, but 6 and not 4 where the head is frozen. fp32 goes through the portable pass both ways: the tensor cores have
no product of its precision, and the kernel would spill.

Shared memory of a program, with the tiles of `tuning.json`: stages · (n + v) · columns · 2 bytes = 3 · 384 · 64 · 2 =
144 KiB of the 227 KiB that an SM gives one, so one program an SM. Registers: a tile of 128 x 256 fp32 logits over 8
warps is 128 a thread. The compiler (jax 0.12.0.1, ptxas 13.5) uses 147,456 bytes, 255 registers a thread, no spills,
and wgmma m64n256k16. A tile moves 2·d·(128 + 256) bytes from L2 for 2·d·128·256 operations, 85 operations a byte: the
peak of 989 TFLOP/s would take 11.6 TB/s, about twice what L2 gives; programs that share loads would be the next step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array

from jaxalign.ops.linear_logp import portable
from jaxalign.ops.linear_logp.logits import Logits
from jaxalign.ops.linear_logp.problem import Engine, Shard
from jaxalign.ops.linear_logp.stats import MASKED, NEGATIVE, Partial, Want, combine, merge
from jaxalign.ops.linear_logp.tuning import tuning

Refs = dict[str, Any]
Sums = tuple[Array, ...]

SUMS = ("m", "mass", "first", "second")


@dataclass(frozen=True)
class Tiles:
    """A tile is `n` tokens by `v` rows of the head, powers of 2; its product takes `columns` of d at a time."""

    n: int
    v: int
    columns: int
    warps: int
    stages: int
    """loads of columns under way at a time"""
    programs: int
    """to split the vocabulary for: a multiple of the device's SMs"""


def _scores(refs: Refs, row: Any, tiles: Tiles) -> Array:
    """Tile [n v] of <h, W_v>, fp32, in products of `columns`."""
    hidden, head = refs["hidden"], refs["head"]

    def add(k: Any, scores: Array) -> Array:
        part = pl.ds(k * tiles.columns, tiles.columns)
        h, w = hidden[:, part], head[pl.ds(row, tiles.v), part]
        return scores + jax.lax.dot_general(h, w, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)

    zeros = jnp.zeros((tiles.n, tiles.v), jnp.float32)
    return jax.lax.fori_loop(0, hidden.shape[1] // tiles.columns, add, zeros)


def _forward(refs: Refs, logits: Logits, want: Want, tiles: Tiles, blocks: int, parts: int) -> None:
    """Sums over v ≠ y of one part of the vocabulary, online over its blocks."""
    each = -(-blocks // parts)
    target = refs["target"][...]

    def step(block: Any, carry: Sums) -> Sums:
        m, mass, first, second = carry
        row = block * tiles.v
        scores = _scores(refs, row, tiles)
        if "bias" in refs:
            scores = scores + refs["bias"][pl.ds(row, tiles.v)][None, :]
        z = logits(scores)
        v = row + jax.lax.broadcasted_iota(jnp.int32, z.shape, 1)
        counts = v != target[:, None]
        if "limit" in refs:
            counts &= v < refs["limit"][0]
        z = jnp.where(counts, z, MASKED)
        top = jnp.maximum(m, jnp.max(z, 1))
        gap = z - top[:, None]
        p, f = jnp.exp(gap), jnp.exp(m - top)
        if want.first:
            first = f * (first + (m - top) * mass) + jnp.sum(p * gap, 1)
        if want.second:
            second = f * f * second + jnp.sum(p * p, 1)
        return top, f * mass + jnp.sum(p, 1), first, second

    zeros = jnp.zeros(tiles.n, jnp.float32)
    begin = pl.program_id(1) * each
    start = (jnp.full(tiles.n, NEGATIVE, jnp.float32), zeros, zeros, zeros)
    made = jax.lax.fori_loop(begin, jnp.minimum(begin + each, blocks), step, start)
    for name, value in zip(SUMS, made, strict=True):
        if name in refs:
            refs[name][...] = value


def _call(shard: Shard, logits: Logits, want: Want, tiles: Tiles, interpret: Any) -> dict[str, Array]:
    """Sums over the rows in whole blocks, [parts n]; the tokens are padded to a block."""
    (n, d), blocks = shard.hidden.shape, shard.head.shape[0] // tiles.v
    groups = -(-n // tiles.n)
    parts = min(blocks, -(-tiles.programs // groups))
    fill = ((0, groups * tiles.n - n),)
    token = pl.BlockSpec((tiles.n,), lambda i, part: (i,))
    operands: dict[str, tuple[Array, pl.BlockSpec | None]] = {
        "target": (jnp.pad(shard.targets, fill, constant_values=-1), token),
        "hidden": (jnp.pad(shard.hidden, (*fill, (0, 0))), pl.BlockSpec((tiles.n, d), lambda i, part: (i, 0))),
        "head": (shard.head, None),
    }
    if shard.bias is not None:
        operands["bias"] = (shard.bias.astype(jnp.float32), None)
    if shard.limit is not None:
        operands["limit"] = (shard.limit[None], None)
    results = ["m", "mass"] + ["first"] * want.first + ["second"] * want.second
    names = [*operands, *results]
    made = pl.pallas_call(
        lambda *refs: _forward(dict(zip(names, refs, strict=True)), logits, want, tiles, blocks, parts),
        grid=(groups, parts),
        in_specs=[spec or pl.BlockSpec(array.shape, _whole(array.ndim)) for array, spec in operands.values()],
        out_specs=[pl.BlockSpec((None, tiles.n), lambda i, part: (part, i))] * len(results),
        out_shape=[jax.ShapeDtypeStruct((parts, groups * tiles.n), jnp.float32)] * len(results),
        compiler_params=plgpu.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
        interpret=interpret,
        name="logp_forward",
    )(*(array for array, _ in operands.values()))
    return {name: value[:, :n] for name, value in zip(results, made, strict=True)}


def _combined(of_parts: dict[str, Array]) -> Partial:
    """Sums over all parts, as over the shards of a mesh."""

    def over_parts(sums: dict[str, Array]) -> Partial:
        return combine(Partial(sums["m"], sums["mass"], sums.get("first"), sums.get("second"), None), "parts")

    return jax.tree.map(lambda values: values[0], jax.vmap(over_parts, axis_name="parts")(of_parts))


def _whole(axes: int) -> Callable[..., tuple[int, ...]]:
    return lambda i, part: (0,) * axes


def forward(shard: Shard, logits: Logits, want: Want, tiles: Tiles, chunk: int, interpret: Any = False) -> Partial:
    """The sums over v ≠ y of one shard. The mean row, fp32, and what does not fill a tile: by the portable pass."""
    covered, d = shard.head.shape[0] // tiles.v * tiles.v, shard.hidden.shape[1]
    if want.row or shard.hidden.dtype != jnp.bfloat16 or not covered or d % tiles.columns:
        return portable.forward(shard, logits, want, chunk)
    made = _combined(_call(shard, logits, want, tiles, interpret))
    if covered == shard.head.shape[0]:
        return made
    return merge(made, portable.forward(shard.rest(covered), logits, want, chunk))


@lru_cache
def engine(chunk: int, interpret: Any = False) -> Engine:
    """The kernel, and the portable backward pass over `chunk` rows of the head at a time."""
    tiles = Tiles(**tuning()["pallas_gpu"])
    return Engine(
        "pallas_gpu",
        partial(forward, tiles=tiles, chunk=chunk, interpret=interpret),
        partial(portable.backward, chunk=chunk),
        keeps_row=False,
    )
