"""Pieces of rows on devices of their own, keys and values going round: against fp64, and what each has to look at."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_checks import Attend, Case, assert_true, trees
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxalign.mesh.layout import Layout
from jaxalign.mesh.sharding import RULES, MeshShape
from jaxalign.ops.attention import attend, balanced, blockwise, ring
from jaxalign.ops.attention.engine import Engine, attended
from jaxalign.ops.attention.mosaic import pallas_tpu
from jaxalign.ops.attention.mosaic.blocks import Blocks, Chip
from jaxalign.ops.attention.problem import Problem, Scores
from jaxalign.ops.attention.sight import Tree

LENGTH, HEADS = 24, (2, 3, 8)
PAIR = ((6, 9, 5),)
FP32, BF16 = 2e-5, 2e-2

CASES = {
    "a row and a pair": Case((((LENGTH,),), PAIR), LENGTH, HEADS),
    "windows": Case((((LENGTH,),), PAIR), LENGTH, HEADS, window=4),
    "capped": Case((((LENGTH,),), PAIR), LENGTH, HEADS, cap=1.5),
    "many groups": Case((((3, 2, 2), (1,), (0, 4, 3), (5,)), ((1,),) * 9), LENGTH, HEADS, 3, 2.0),
    "padding alone": Case(((), PAIR), LENGTH, HEADS),
    "bf16": Case((((LENGTH,),), PAIR), LENGTH, HEADS, dtype="bfloat16"),
}


@lru_cache
def cut(pieces: int, in_order: bool = False) -> Attend:
    """Attention of rows cut over so many devices, in balanced order or as they stand."""
    mesh = MeshShape(fsdp=1, context=pieces).build()
    made = ring.engine(blockwise.engine(5), "context", pieces)
    order = None if in_order else balanced(LENGTH, pieces)
    order = np.arange(LENGTH) if order is None else order

    def whole(problem: Problem, scores: Scores) -> jax.Array:
        def piece(query: jax.Array, key: jax.Array, value: jax.Array, ids: Tree) -> jax.Array:
            return attended(made, scores, Problem(query, key, value, ids, ids, problem.window))

        row = P(None, "context")
        operands = problem.query[:, order], problem.key[..., order], problem.value[:, :, order]
        ids = jax.tree.map(lambda each: each[:, order], problem.mine)
        takes = row, P(None, None, None, "context"), P(None, None, "context"), row
        mapped = jax.shard_map(piece, mesh=mesh, in_specs=takes, out_specs=row, check_vma=False)
        return mapped(*operands, ids)[:, np.argsort(order)]

    return whole


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_against_fp64(case: Case) -> None:
    assert_true(cut(4), case, BF16 if case.dtype == "bfloat16" else FP32)


@pytest.mark.parametrize("of", [cut(2), cut(4, in_order=True), cut(8)], ids=["2", "4 in order", "8"])
def test_in_any_number_of_pieces_and_in_any_order(of: Attend) -> None:
    assert_true(of, CASES["a row and a pair"], FP32)


@settings(max_examples=10, deadline=None)
@given(rows=trees(LENGTH), window=st.none() | st.integers(1, LENGTH))
def test_random_trees(rows, window) -> None:
    assert_true(cut(4), Case(rows, LENGTH, (1, 2, 4), window), FP32)


def test_balanced_by_hand() -> None:
    order = balanced(16, 4)
    assert order is not None
    assert order.reshape(4, 4).tolist() == [[0, 1, 14, 15], [2, 3, 12, 13], [4, 5, 10, 11], [6, 7, 8, 9]]
    assert balanced(16, 1) is None
    assert balanced(12, 4) is None  # three columns a piece: no two blocks of whole columns


@pytest.mark.parametrize("pieces", [2, 4, 8])
def test_in_balanced_order_every_device_has_as_much_to_look_at_in_every_step(pieces: int) -> None:
    """Of one text; of another's piece half, where pieces in order have all or nothing."""
    length = 16 * pieces
    sees = np.tril(np.ones((length, length), bool))
    order = balanced(length, pieces)
    seen = sees[order][:, order].reshape(pieces, 16, pieces, 16).sum((1, 3))
    own = np.eye(pieces, dtype=bool)
    assert set(seen[own]) == {16 * 17 // 2}
    assert set(seen[~own]) == {16 * 16 // 2}
    assert set(sees.reshape(pieces, 16, pieces, 16).sum((1, 3))[~own]) == {0, 256}


SMALL = Chip("test", 64 << 20, Blocks(128, 128, 128, 128), Blocks(128, 128, 128, 128))


@pytest.mark.parametrize(
    "inner", [blockwise.engine(64), pallas_tpu.of_chip(SMALL, interpret=True)], ids=lambda engine: engine.name
)
def test_what_two_sets_of_keys_give_is_joined(inner: Engine) -> None:
    """Whatever base an engine's logarithms have; queries that see nothing of one set, and of neither."""
    case = Case((((100, 60, 80),),), 256, (1, 2, 16), window=90)
    problem, scores = case.problem(), Scores(8.0, causal=False)
    found, number = jax.jit(inner.forward, static_argnums=1)(problem, scores)

    def half(columns: slice) -> tuple[jax.Array, jax.Array]:
        ids = jax.tree.map(lambda each: each[:, columns], problem.theirs)
        part = Problem(
            problem.query, problem.key[..., columns], problem.value[:, :, columns], problem.mine, ids, problem.window
        )
        return jax.jit(inner.forward, static_argnums=1)(part, scores)

    joined, of_both = ring.joined(inner, half(slice(0, 128)), half(slice(128, 256)))
    np.testing.assert_allclose(joined, found, atol=FP32)
    real = np.asarray(problem.mine.group[0]) >= 0
    np.testing.assert_allclose(of_both[..., real], number[..., real], rtol=1e-6)
    assert not np.asarray(joined)[:, ~real].any()


def test_no_device_has_all_keys_of_a_row() -> None:
    """Its own piece and the one that it looks at, forward and backward."""
    problem = CASES["a row and a pair"].problem()
    layout = Layout(MeshShape(fsdp=1, context=4).build(), RULES)

    def squares(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.square(attend(query, key, value, problem.mine, None, 4.0, None, layout)).sum()

    specs = P(None, "context"), P(None, None, None, "context"), P(None, None, "context")
    operands = [
        jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=NamedSharding(layout.mesh, spec))
        for each, spec in zip((problem.query, problem.key, problem.value), specs, strict=True)
    ]
    text = jax.jit(jax.grad(squares, (0, 1, 2))).lower(*operands).compile().as_text()
    assert "collective-permute" in text
    assert "all-gather" not in text
