"""`attend`: which implementation runs where.

On TPUs the kernels, unless they refuse, or the process has several chips and the model lies on one of them without a
layout. Elsewhere few scores are held all at once, and rows longer than a block go
through blocks of queries. On a mesh each device attends for its own rows, heads and queries; where rows are cut into
pieces (axis "context"), keys and values go round (`ring`).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxalign.mesh.layout import Layout
from jaxalign.ops.attention import blockwise, ring
from jaxalign.ops.attention.behind import Behind, Progress, continued
from jaxalign.ops.attention.engine import Engine, attended
from jaxalign.ops.attention.problem import Problem, Scores
from jaxalign.ops.attention.reference import dense
from jaxalign.ops.attention.rounded import Rounded
from jaxalign.ops.attention.sight import Shown, Tree
from jaxalign.ops.attention.tuning import tuning

Memory = tuple[Array | Rounded, Array | Rounded, Array | Rounded, Array | Rounded]
"""Keys and values of rows, and those of their prompts: [n k …], [n k …], [b k …], [b k …]."""

Sight = Tree | Shown | Behind
"""What queries see: by rule, by a mask, or as tokens that go on behind prompts."""

BLOCK = tuning()["blockwise"]["queries"]
"""Queries of a block in XLA; the scores of rows no longer than that are held."""


def attend(
    query: Float[Array, "n q k g h"],
    key: Float[Array, "n k h c"] | Rounded,
    value: Float[Array, "n k c h"] | Rounded,
    sight: Sight,
    window: Int[Array, ""] | None,
    scalar: float,
    cap: float | None,
    layout: Layout | None,
) -> Float[Array, "n q k g h"]:
    """softmax(softcap(q·kᵀ / sqrt(scalar))) · v over what each query sees.

    Letters besides those of `jaxalign.types`: q queries of a row, c its keys, k KV heads, g queries a KV head, h head
    size. `window`: how many positions back a query sees, itself included; None: all. `cap`: of the scores; None: none.
    Rows of padding hold something finite that nothing reads. With a mask for a `sight`, all scores are held.
    """
    if isinstance(sight, Behind):
        one_token = partial(_one_token, scores=Scores(scalar, cap))
        return (one_token if layout is None else _by_heads(one_token, layout))(
            query[:, 0], (key, value, sight.key, sight.value), sight.progress, window
        )
    if isinstance(key, Rounded) or isinstance(value, Rounded):
        raise TypeError("keys and values in eight bits are read one new token a row: pass a sight Behind prompts")
    if isinstance(sight, Shown):
        return dense(query, key, value, sight.mask(window), scalar, cap)
    problem, scores = Problem(query, key, value, sight, sight, window), Scores(scalar, cap)
    if layout is not None:
        return _on_mesh(problem, scores, layout)
    return _local(problem, scores, jax.devices()[0], alone=jax.device_count() == 1)


def _one_token(
    query: Float[Array, "n k g h"], memory: Memory, progress: Progress, window: Int[Array, ""] | None, scores: Scores
) -> Float[Array, "n 1 k g h"]:
    key, value, prompt_key, prompt_value = memory
    sight = Behind(prompt_key, prompt_value, progress)
    return continued(query[:, None], key, value, sight, window, scores.scalar, scores.cap)


def _by_heads(run: Callable[..., Array], layout: Layout) -> Callable[..., Array]:
    """`run` of queries, memory, progress and window, each device for its own rows and KV heads where these divide. XLA
    for TPUs would else split the axis in which rows of a prompt are merged, and gather all heads for every token."""
    count = layout.mesh.size
    rows, heads = layout.spec((count, count), "rows", "kv_heads")

    def mapped(query: Array, memory: Any, progress: Progress, window: Array | None) -> Array:
        split = [layout.spec(x.shape[:2], "rows", "kv_heads") for x in (query, *jax.tree.leaves(memory))]
        split += [P(layout.spec(x.shape[:1], "rows")[0], heads) for x in jax.tree.leaves(progress) if x.ndim]
        if any(each != P(rows, heads) for each in split):
            return run(query, memory, progress, window)
        of_progress = jax.tree.map(lambda x: P(rows) if x.ndim else P(), progress)
        takes = P(rows, heads), P(rows, heads), of_progress, P()
        return layout.mapped(run, takes, P(rows, None, heads))(query, memory, progress, window)

    return mapped


def kernels(device: jax.Device, problem: Problem, scores: Scores) -> Engine | None:
    """The kernels of a device for a problem; None where there are none, and where they refuse it."""
    if device.platform != "tpu":
        return None
    # imported here: Pallas takes a while to load, and nothing else needs it
    from jaxalign.ops.attention.mosaic import pallas_tpu
    from jaxalign.ops.attention.mosaic.blocks import chip, generation_of

    generation = generation_of(device.device_kind)
    if generation is None or pallas_tpu.refuses(problem, scores, chip(generation)) is not None:
        return None
    return pallas_tpu.engine(generation)


def _local(problem: Problem, scores: Scores, device: jax.Device, alone: bool) -> Array:
    """Of arrays that are all here. XLA partitions its own loops over several devices, but no kernel: it wants to be
    `alone` on one, or inside `shard_map`."""
    made = kernels(device, problem, scores) if alone else None
    if made is not None:
        return attended(made, scores, problem)
    if max(problem.query.shape[1], problem.key.shape[3]) <= BLOCK:
        mask = problem.mine.of(problem.theirs, problem.window)
        return dense(problem.query, problem.key, problem.value, mask, scores.scalar, scores.cap)
    return attended(blockwise.engine(BLOCK), scores, problem)


def _on_mesh(problem: Problem, scores: Scores, layout: Layout) -> Array:
    shape = problem.query.shape
    rows, sequence, kv, _, _ = layout.spec(shape, "rows", "sequence", "kv_heads", None, None)
    # KV heads that do not divide are repeated, and the queries of each split instead, if those do
    shared = None if kv is not None else layout.spec((shape[3],), "heads")[0]
    heads, ids = P(rows, sequence, kv, shared, None), P(rows, sequence)
    device = layout.mesh.devices.flat[0]

    def run(query: Array, key: Array, value: Array, mine: Tree, window: Array | None) -> Array:
        piece = Problem(query, key, value, mine, mine, window)
        if sequence is None:
            return _local(piece, scores, device, alone=True)
        # asked of what fits least: another's piece, of which any block may be seen
        inner = kernels(device, piece, replace(scores, causal=False)) or blockwise.engine(BLOCK)
        return attended(ring.engine(inner, sequence, layout.devices(sequence)), scores, piece)

    takes = (heads, P(rows, kv, None, sequence), P(rows, kv, sequence, None), ids, P())
    operands = problem.query, problem.key, problem.value, problem.mine, problem.window
    return layout.mapped(run, takes, heads)(*operands)
