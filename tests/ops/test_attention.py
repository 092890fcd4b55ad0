"""Values and gradients of every engine of attention against fp64, and the rules of the op."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_checks import Attend, Case, assert_true, engine, trees
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxalign.ops.attention import Shown, attend, blockwise, dispatch
from jaxalign.ops.attention.problem import Problem, Scores
from jaxalign.ops.attention.reference import dense

# fp32 sums of at most a few hundred terms of size 1 in another order; gradients of the queries are what is left of sums
# that cancel, and are compared with their largest entry
FP32 = 2e-5
# shares, their gradients and the results are rounded to 8 bits each, and sums of them average it out
BF16 = 2e-2

HEADS = (2, 3, 8)
PAIR = ((6, 9, 5),)
CASES = {
    "a row and a pair": Case((((23,),), PAIR), 23, HEADS),
    "windows": Case((((23,),), PAIR), 23, HEADS, window=4),
    "capped": Case((((23,),), PAIR), 23, HEADS, cap=1.5),
    "many groups, capped, in windows": Case((((3, 2, 2), (1,), (0, 4, 3), (5,)), ((1,),) * 9), 23, HEADS, 3, 2.0),
    "padding alone": Case(((), PAIR), 23, HEADS),
    "a token": Case((((1,),),), 1, HEADS),
    "bf16": Case((((23,),), PAIR), 23, HEADS, dtype="bfloat16"),
}


def whole(problem: Problem, scores: Scores) -> jax.Array:
    """All scores at once. What padding finds there is an average that nothing reads."""
    mask = problem.mine.of(problem.theirs, problem.window)
    found = dense(problem.query, problem.key, problem.value, mask, scores.scalar, scores.cap)
    return jnp.where((problem.mine.group >= 0)[:, :, None, None, None], found, 0)


ENGINES = {"dense": whole, "blocks of 5": engine(blockwise.engine(5)), "one block": engine(blockwise.engine(23))}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("of", ENGINES.values(), ids=ENGINES.keys())
def test_against_fp64(of: Attend, case: Case) -> None:
    assert_true(of, case, BF16 if case.dtype == "bfloat16" else FP32)


def test_keys_that_are_not_the_queries_columns() -> None:
    """As on a device that has a piece of a row: no causality by columns."""
    assert_true(ENGINES["blocks of 5"], Case((((23,),), PAIR), 23, HEADS, causal=False), FP32)


# one shape: nothing is compiled again but for windows and caps
@settings(max_examples=25, deadline=None)
@given(rows=trees(23), window=st.none() | st.integers(1, 23), cap=st.sampled_from([None, 2.0]))
def test_random_trees_in_blocks(rows, window, cap) -> None:
    assert_true(ENGINES["blocks of 5"], Case(rows, 23, (1, 2, 4), window, cap), FP32)


def test_a_tree_sees_what_its_mask_shows() -> None:
    case = CASES["a row and a pair"]
    ids, problem = case.tree(), case.problem()
    mask = np.asarray(ids.mask())
    assert mask[1, 15].nonzero()[0].tolist() == [*range(6), 15]  # the second branch: the trunk and itself
    assert mask[1, 8].nonzero()[0].tolist() == [*range(9)]
    assert not mask[1, -1].any()
    assert np.asarray(ids.mask(jnp.int32(3)))[0, 9].nonzero()[0].tolist() == [7, 8, 9]
    assert not np.triu(mask[1], 1).any()  # what is seen never lies to the right
    operands = problem.query, problem.key, problem.value
    by_rule = attend(*operands, ids, None, 4.0, None, None)
    by_mask = attend(*operands, Shown(ids.mask(), ids.position), None, 4.0, None, None)
    np.testing.assert_allclose(by_rule, by_mask, rtol=1e-6)


def test_short_rows_are_held_whole_and_longer_ones_go_through_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = CASES["a row and a pair"].problem()

    def scores_held() -> bool:
        made = jax.jit(lambda q, k, v, ids: attend(q, k, v, ids, None, 4.0, None, None))
        text = made.lower(problem.query, problem.key, problem.value, problem.mine).as_text()
        return "x23x23xf32" in text

    assert scores_held()
    monkeypatch.setattr(dispatch, "BLOCK", 8)
    assert not scores_held()
