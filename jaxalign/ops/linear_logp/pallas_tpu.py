"""The passes as Mosaic kernels for TPU: what the matrix units make of a block stays in VMEM, no logits are written.

    forward           grid (tokens, vocabulary), logits transposed [v n]: the vocabulary runs over sublanes, so sums
                      over it are additions of registers, and a token's sums are rows of lanes
    forward with row  grid (tokens, vocabulary), logits [n v]: they enter the second product, p W, without a transpose;
                      sums over lanes are kept a lane apart until the end
    dW                grid (vocabulary, tokens), logits transposed [v n]: they enter the product s h without a transpose

The block sizes come from `tuning.json` by TPU generation, halved until the arithmetic of `blocks.vmem_bytes` fits.
The rows that do not fill a block of the vocabulary go through the portable pass; tokens are padded to a block. The
entropy and log Σ p² are sums of the first kernel; their gradients are left to the portable pass, XLA's chunks.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from jaxalign.ops.linear_logp import portable
from jaxalign.ops.linear_logp.blocks import LANES, Blocks, Chip, chip, fit, generation_of
from jaxalign.ops.linear_logp.logits import Logits
from jaxalign.ops.linear_logp.mosaic import Plan, Refs, Spec
from jaxalign.ops.linear_logp.problem import Engine, Gradients, Pull, Shard, Wants
from jaxalign.ops.linear_logp.stats import MASKED, NEGATIVE, Partial, Want, merge

ROWS = 64
"""Rows at a time of what passes over a whole block once a sweep: unrolled it would only grow the program."""

TAIL_CHUNK = 256
"""Rows of the head at a time for those that do not fill a block."""

NT = (((1,), (1,)), ((), ()))  # x yᵀ
NN = (((1,), (0,)), ((), ()))  # x y


def _dot(left: Array, right: Array, contract: Any) -> Array:
    # the matrix units multiply bf16: fp32 takes several passes of them, and gets one unless it asks for more
    precision = jax.lax.Precision.HIGHEST if left.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(left, right, contract, precision=precision, preferred_element_type=jnp.float32)


def _parts(whole: int, part: int) -> Iterator[Any]:
    for start in range(0, whole, part):
        yield pl.ds(start, min(part, whole - start))


def _across(values: Array, width: int) -> Array:
    """[n 128] with equal lanes, repeated to [n width]."""
    # a register is 8 sublanes of 128 lanes, so these are whole registers once more and nothing moves
    whole = jnp.concatenate([values] * -(-width // LANES), axis=1)
    return whole if whole.shape[1] == width else whole[:, :width]


def _by_rows(count: int, body: Callable[[Any], None]) -> None:
    """body on a few rows at a time, in a loop that is not unrolled."""
    # a divisor: there is no remainder, whose slice would need another shape
    rows = next(r for r in range(min(ROWS, count), 0, -1) if count % r == 0)

    @pl.loop(0, count // rows)
    def _(i: Any) -> None:
        body(pl.ds(pl.multiple_of(i * rows, rows), rows))


def _column(bias: Array, width: int) -> Array:
    """A row [1 v] as [v width]: the bias of logits that are kept transposed."""
    # Mosaic transposes whole tiles, so the row is first repeated over 128 sublanes
    return _across(jnp.broadcast_to(bias, (LANES, bias.shape[1])).T, width)


def _logits(refs: Refs, tokens: Any, logits: Logits, transposed: bool) -> tuple[Array, Array]:
    """Logits of some tokens of the block and its rows of the head, MASKED beyond the limit; and where the target is."""
    head, hidden = refs["head"], refs["hidden"]
    # of all kernels only dW keeps `s`, and only its outer loop is over the vocabulary
    rows, block = head.shape[0], pl.program_id(0 if "s" in refs else 1)
    scores = _dot(head[...], hidden[tokens, :], NT) if transposed else _dot(hidden[tokens, :], head[...], NT)
    if "bias" in refs:
        bias = refs["bias"][...]
        scores = scores + (_column(bias, scores.shape[1]) if transposed else jnp.broadcast_to(bias, scores.shape))
    z = logits(scores)
    row = jax.lax.broadcasted_iota(jnp.int32, z.shape, 0 if transposed else 1)
    if "limit" in refs:
        z = jnp.where(row < refs["limit"][0] - block * rows, z, MASKED)
    # ignored targets and padded tokens are -1, which is the row of no block
    own = refs["target"][:, tokens] if transposed else _across(refs["target"][tokens, :], rows)
    return z, row == own - block * rows


def _forward(refs: Refs, logits: Logits, sub: int) -> None:
    """Sums over v ≠ y, online over the blocks of the vocabulary."""
    names = [name for name in ("m", "mass", "first", "second") if name in refs]

    # the results' blocks do not move with the inner loop, so they stay in VMEM and are what is summed into
    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for name in names:
            refs[name][...] = jnp.full(refs[name].shape, NEGATIVE if name == "m" else 0.0, jnp.float32)

    for s in _parts(refs["hidden"].shape[0], sub):
        z, hit = _logits(refs, s, logits, transposed=True)
        z = jnp.where(hit, MASKED, z)
        old = refs["m"][:, s]
        # while all entries so far are masked m stays NEGATIVE, above MASKED: p is 0 then, not exp(0)
        m = jnp.maximum(old, jnp.max(z, 0, keepdims=True))
        gap, p, f = z - m, jnp.exp(z - m), jnp.exp(old - m)
        mass = refs["mass"][:, s]
        if "first" in refs:
            # a new maximum scales each e^(z−m) and moves each (z − m): Σ e^(z−m)(z−m) takes the old mass with it
            refs["first"][:, s] = f * (refs["first"][:, s] + (old - m) * mass) + jnp.sum(p * gap, 0, keepdims=True)
        if "second" in refs:
            refs["second"][:, s] = f * f * refs["second"][:, s] + jnp.sum(p * p, 0, keepdims=True)
        refs["mass"][:, s] = f * mass + jnp.sum(p, 0, keepdims=True)
        refs["m"][:, s] = m


def _forward_row(refs: Refs, logits: Logits, blocks: Blocks, steps: int) -> None:
    """m, Σ e^(z−m) and the mean row over v ≠ y. A token's m has equal lanes, its mass is the sum of its lanes."""
    hidden, head, row = refs["hidden"], refs["head"], refs["accumulator"]
    (n, d), rows = hidden.shape, head.shape[0]

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        refs["m"][...] = jnp.full(refs["m"].shape, NEGATIVE, jnp.float32)
        refs["mass"][...] = jnp.zeros(refs["mass"].shape, jnp.float32)

        def clear(r: Any) -> None:
            row[r, :] = jnp.zeros((r.size, d), jnp.float32)

        _by_rows(n, clear)

    for s in _parts(n, blocks.sub):
        z, hit = _logits(refs, s, logits, transposed=False)
        others = jnp.where(hit, MASKED, z)
        old = refs["m"][s, :]
        m = jnp.maximum(old, jnp.max(others, 1, keepdims=True))
        p, f = jnp.exp(others - _across(m, rows)), jnp.exp(old - m)
        # registers are added lane by lane here; the sum over lanes, a shuffle, is taken once, at the end
        refs["mass"][s, :] = f * refs["mass"][s, :] + sum(p[:, c : c + LANES] for c in range(0, rows, LANES))
        refs["m"][s, :] = m
        pull = logits.times_slope(z, p).astype(head.dtype)
        # a few columns at a time: the product with all of d, [sub d] in fp32, would take VMEM of its own
        for c in _parts(d, blocks.columns):
            row[s, c] = row[s, c] * _across(f, c.size) + _dot(pull, head[:, c], NN)

    @pl.when(pl.program_id(1) == steps - 1)
    def _() -> None:
        def finish(r: Any) -> None:
            # 0 where the shard has no other token than the target: then the row is 0 too
            mass = jnp.maximum(jnp.sum(refs["mass"][r, :], 1, keepdims=True), jnp.finfo(jnp.float32).tiny)
            refs["row"][r, :] = (row[r, :] / mass).astype(refs["row"].dtype)

        _by_rows(n, finish)


def _head(refs: Refs, logits: Logits, blocks: Blocks, steps: int) -> None:
    """dW, and of the bias a sum for each lane of the tokens."""
    hidden, head, s_ref, made = refs["hidden"], refs["head"], refs["s"], refs["accumulator"]
    (n, d), rows = hidden.shape, head.shape[0]

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        def clear(r: Any) -> None:
            made[r, :] = jnp.zeros((r.size, d), jnp.float32)

        _by_rows(rows, clear)
        if "of_bias" in refs:
            refs["of_bias"][...] = jnp.zeros(refs["of_bias"].shape, jnp.float32)

    for t in _parts(n, blocks.sub):
        z, hit = _logits(refs, t, logits, transposed=True)
        # padded tokens have `others` and `own` 0, and entries beyond the limit p 0: neither adds anything
        s = jnp.exp(z - refs["lse"][:, t]) * refs["others"][:, t]
        s = logits.times_slope(z, jnp.where(hit, refs["own"][:, t], s))
        # kept for all tokens of the block, so that the product below adds to [v d] once a step and not once a part
        s_ref[:, t] = s.astype(s_ref.dtype)
        if "of_bias" in refs:
            refs["of_bias"][...] += sum(s[:, c : c + LANES] for c in range(0, t.size, LANES))
    for c in _parts(d, blocks.columns):
        made[:, c] += _dot(s_ref[...], hidden[:, c], NN)

    @pl.when(pl.program_id(1) == steps - 1)
    def _() -> None:
        def finish(r: Any) -> None:
            refs["of_head"][r, :] = made[r, :].astype(refs["of_head"].dtype)

        _by_rows(rows, finish)


def _first(i: Any, j: Any) -> Any:
    return i


def _second(i: Any, j: Any) -> Any:
    return j


def _sums(plan: Plan, logits: Logits, want: Want) -> Partial:
    """Sums over the rows in whole blocks, without the mean row."""
    names = ["m", "mass"] + ["first"] * want.first + ["second"] * want.second
    shape = jax.ShapeDtypeStruct((1, plan.tokens), jnp.float32)
    made = plan.call(
        lambda refs: _forward(refs, logits, plan.blocks.sub),
        outer="tokens",
        operands=plan.operands(_first, _second, transposed=True),
        results={name: (shape, pl.BlockSpec((1, plan.blocks.n), lambda i, j: (0, i))) for name in names},
        scratch={},
    )
    n = plan.shard.hidden.shape[0]
    got = {name: value[0, :n] for name, value in made.items()}
    return Partial(got["m"], got["mass"], got.get("first"), got.get("second"), None)


def _sums_and_row(plan: Plan, logits: Logits) -> Partial:
    """Sums over the rows in whole blocks, and their mean row."""
    (n, d), blocks = plan.shard.hidden.shape, plan.blocks
    lanes = (
        jax.ShapeDtypeStruct((plan.tokens, LANES), jnp.float32),
        pl.BlockSpec((blocks.n, LANES), lambda i, j: (i, 0)),
    )
    row = jax.ShapeDtypeStruct((plan.tokens, d), plan.shard.hidden.dtype)
    # a number a token is a column here; VMEM holds none narrower than 128 lanes, so it takes as many
    made = plan.call(
        lambda refs: _forward_row(refs, logits, blocks, plan.steps[1]),
        outer="tokens",
        operands=plan.operands(_first, _second, transposed=False),
        results={"m": lanes, "mass": lanes, "row": (row, pl.BlockSpec((blocks.n, d), lambda i, j: (i, 0)))},
        scratch={"accumulator": pltpu.VMEM((blocks.n, d), jnp.float32)},
    )
    return Partial(made["m"][:n, 0], made["mass"][:n].sum(1), None, None, made["row"][:n])


def _head_gradients(plan: Plan, logits: Logits, pull: Pull, wants: Wants) -> tuple[Array, Array | None]:
    """dW, its rows in whole blocks, and dbias of those rows."""
    (v, d), blocks = plan.shard.head.shape, plan.blocks
    operands = plan.operands(_second, _first, transposed=True)
    for name, values in {"lse": pull.lse, "own": pull.target, "others": pull.others}.items():
        operands[name] = plan.lanes(values, _second)
    block = pl.BlockSpec((blocks.v, d), lambda i, j: (i, 0))
    # of all rows, for the gradient is one array; those that fill no block are left unwritten for the caller to fill
    results: dict[str, Spec] = {"of_head": (jax.ShapeDtypeStruct((v, d), plan.shard.head.dtype), block)}
    if wants.bias:
        partial_sums = jax.ShapeDtypeStruct((plan.covered, LANES), jnp.float32)
        results["of_bias"] = (partial_sums, pl.BlockSpec((blocks.v, LANES), lambda i, j: (i, 0)))
    made = plan.call(
        lambda refs: _head(refs, logits, blocks, plan.steps[0]),
        outer="vocabulary",
        operands=operands,
        results=results,
        scratch={
            "accumulator": pltpu.VMEM((blocks.v, d), jnp.float32),
            "s": pltpu.VMEM((blocks.v, blocks.n), plan.shard.hidden.dtype),
        },
    )
    return made["of_head"], made["of_bias"].sum(1) if wants.bias else None


def _plan(kernel: str, shard: Shard, device: Chip, interpret: Any) -> Plan:
    (n, d), size = shard.hidden.shape, shard.hidden.dtype.itemsize
    table: dict[str, Blocks] = {"forward": device.forward, "forward_row": device.forward_row, "head": device.head}
    return Plan(kernel, fit(kernel, table[kernel], device.vmem, n, d, size), shard, device.vmem, interpret)


def forward(shard: Shard, logits: Logits, want: Want, device: Chip, interpret: Any = False) -> Partial:
    """The sums over v ≠ y of one shard. With the mean row and other sums together, the portable pass."""
    if want.row and (want.first or want.second):
        return portable.forward(shard, logits, want, TAIL_CHUNK)
    plan = _plan("forward_row" if want.row else "forward", shard, device, interpret)
    if not plan.covered:
        return portable.forward(shard, logits, want, TAIL_CHUNK)
    made = _sums_and_row(plan, logits) if want.row else _sums(plan, logits, want)
    if plan.covered == shard.head.shape[0]:
        return made
    return merge(made, portable.forward(shard.rest(plan.covered), logits, want, TAIL_CHUNK))


def backward(shard: Shard, logits: Logits, pull: Pull, wants: Wants, device: Chip, interpret: Any = False) -> Gradients:
    """Gradients of head and bias. With those of hidden, which the mean row did not give, the portable pass."""
    plan = _plan("head", shard, device, interpret)
    # the kernel is of the log-prob's gradient alone: it has no terms in log p and p², and no use without dW
    whole = pull.log_p is not None or pull.p is not None or wants.hidden or not wants.head
    if whole or not plan.covered:
        return portable.backward(shard, logits, pull, wants, TAIL_CHUNK)
    of_head, of_bias = _head_gradients(plan, logits, pull, wants)
    if plan.covered < shard.head.shape[0]:
        _, rows, entries = portable.backward(shard.rest(plan.covered), logits, pull, wants, TAIL_CHUNK)
        assert rows is not None
        # over rows that the kernel has not written: they hold whatever was in that memory
        of_head = jax.lax.dynamic_update_slice_in_dim(of_head, rows, plan.covered, axis=0)
        if of_bias is not None and entries is not None:
            of_bias = jnp.concatenate([of_bias, entries.astype(jnp.float32)])
    if of_bias is not None and shard.bias is not None:
        of_bias = of_bias.astype(shard.bias.dtype)
    return None, of_head, of_bias


@lru_cache
def engine(generation: str | None = None, interpret: Any = False) -> Engine:
    """The kernels for a TPU generation, that of the first device where none is named.

    Raises ValueError for a generation that `tuning.json` has no blocks for.
    """
    device = chip(generation or generation_of(jax.devices()[0]))
    return Engine(
        "pallas_tpu",
        partial(forward, device=device, interpret=interpret),
        partial(backward, device=device, interpret=interpret),
    )
