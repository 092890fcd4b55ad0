"""The kernels for TPU, interpreted on the CPU, against fp64; what they visit, what they refuse, what they cost."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_checks import Case, assert_true, engine, trees
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxalign.ops.attention.costs import kernel_cost, kernel_name
from jaxalign.ops.attention.mosaic import pallas_tpu
from jaxalign.ops.attention.mosaic.blocks import Blocks, Chip, Shape, chip, even, fit, generation_of, vmem_bytes
from jaxalign.ops.attention.mosaic.visits import (
    CLOSES,
    FIRST,
    LAST,
    OPENS,
    WHOLE,
    Count,
    Visits,
    codes,
    counted,
    most,
    padded,
    part_bit,
    seen,
    visits,
)
from jaxalign.ops.attention.sight import Tree
from jaxalign.ops.attention.tuning import tuning

# of scores up to 10, as exponents of 2: rounding of 1e-6 relative in each share
FP32 = 2e-5
# the query is rounded once more than elsewhere
BF16 = 3e-2

# the smallest blocks: a few hundred tokens make a grid; the interpreter takes half a minute for each case
SMALL = Chip("test", 64 << 20, Blocks(128, 128, 128, 128), Blocks(128, 128, 128, 128))
WIDE = Chip("test", 64 << 20, Blocks(256, 128, 128, 128), Blocks(128, 256, 128, 128))

KERNEL_CASES = {
    # three blocks, the last one not full: blocks seen whole, in part, and not at all
    "trees, capped": (Case((((40, 60, 90), (20, 30)), ((290,),)), 300, (2, 2, 24), cap=2.0), SMALL, FP32),
    "windows, odd heads": (Case((((257,),),), 257, (1, 3, 80), window=40), WIDE, FP32),
    "bf16, padding": (Case((((5, 60, 100), (30,)), ()), 300, (1, 2, 128), dtype="bfloat16"), SMALL, BF16),
}


@pytest.mark.parametrize(("case", "device", "tolerance"), KERNEL_CASES.values(), ids=KERNEL_CASES.keys())
def test_kernels_against_fp64(case: Case, device: Chip, tolerance: float) -> None:
    assert_true(engine(pallas_tpu.of_chip(device, interpret=True)), case, tolerance)


def listed(case: Case, blocks: tuple[int, int], length: int) -> tuple[Visits, np.ndarray]:
    """Visits of a case padded to whole blocks, and its mask."""
    ids = padded(case.tree(), length)
    window = None if case.window is None else jnp.int32(case.window)
    return _list(ids, window, case.causal, blocks), np.asarray(ids.mask(window))


@partial(jax.jit, static_argnums=(2, 3))
def _list(ids: Tree, window: jax.Array | None, causal: bool, blocks: tuple[int, int]) -> Visits:
    return visits(*codes(ids, ids), window, causal, blocks, PART if blocks == BLOCKS else 128)


BLOCKS, PART, LENGTH = (4, 6), 2, 24


@settings(max_examples=60, deadline=None)
@given(rows=trees(LENGTH), window=st.none() | st.integers(1, LENGTH), causal=st.booleans())
def test_every_pair_that_may_see_each_other_is_visited_and_few_others(rows, window, causal) -> None:
    case = Case(rows, LENGTH, (1, 1, 1), window, causal=causal)
    found, mask = listed(case, BLOCKS, LENGTH)
    count, tiles = int(found.count), mask.reshape(2, 6, 4, 4, 6)
    assert count <= most(2, LENGTH, LENGTH, causal, BLOCKS) == len(found.row)
    places = [tuple(map(int, at)) for at in zip(found.row, found.query, found.key, strict=True)][:count]
    assert len(set(places)) == count
    assert places == sorted(places)
    flags = np.asarray(found.flags)
    for n, i, j in np.ndindex(2, 6, 4):
        if tiles[n, i, :, j].any():
            assert (n, i, j) in places
    for at, (n, i, j) in enumerate(places):
        tile = tiles[n, i, :, j]
        assert tile.all() or not flags[at] & WHOLE, "a block said to be seen whole is"
        for a, b in np.ndindex(4 // PART, 6 // PART):
            part = tile[a * PART : (a + 1) * PART, b * PART : (b + 1) * PART]
            assert flags[at] & part_bit(6 // PART, a, b) or not part.any()
        before, after = places[at - 1] if at else (-1, -1), places[at + 1] if at + 1 < count else (-1, -1)
        assert bool(flags[at] & FIRST) == (before[:2] != (n, i))
        assert bool(flags[at] & LAST) == (after[:2] != (n, i))
        assert bool(flags[at] & OPENS) == (before[0] != n)
        assert bool(flags[at] & CLOSES) == (after[0] != n)
    assert {place[:2] for place in places} == set(np.ndindex(2, 6)), "every block of queries is written"


@settings(max_examples=40, deadline=None)
@given(rows=trees(LENGTH))
def test_without_windows_no_block_is_visited_in_vain(rows) -> None:
    """Of rows laid out as rows are, the ends of ids say exactly where anything is seen."""
    ids = Case(rows, LENGTH, (1, 1, 1)).tree()
    found, whole = _seen(ids)
    tiles = np.asarray(ids.mask()).reshape(2, 6, 4, 4, 6)
    np.testing.assert_array_equal(found, tiles.any((2, 4)))
    assert not (np.asarray(whole) & ~tiles.all((2, 4))).any()


@jax.jit
def _seen(ids: Tree) -> tuple[jax.Array, jax.Array]:
    return seen(*codes(ids, ids), None, True, BLOCKS)


def test_what_is_seen_whole_needs_no_mask() -> None:
    """A prompt of 7 and an answer of 5 and one of 12: columns 0-5 are trunk, 6-11 trunk and first answer, 12-17 and
    18-23 second answer."""
    whole = np.asarray(_seen(Case((((7, 5, 12),), ()), LENGTH, (1, 1, 1)).tree())[1])[0]
    # queries 4-7 are in trunk and answer; 8-11 in the answer, and 6-11 are not all before them
    assert whole.astype(int).tolist() == [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [1, 0, 1, 0],
    ]
    answered = np.asarray(_seen(Case((((7, 17),), ()), LENGTH, (1, 1, 1)).tree())[1])[0]
    assert answered[3:, 1].all(), "a prompt's end and its only answer's beginning, seen by the rest of the answer"


def test_a_causal_row_and_a_window_by_hand() -> None:
    """Four blocks of 128: 10 pairs, 6 of them whole; a window of one block: the diagonal and the one beside it."""
    row = Case((((512,),),), 512, (1, 1, 1))
    found, _ = listed(row, (128, 128), 512)
    assert int(found.count) == 10
    assert (np.asarray(found.flags) & WHOLE > 0).sum() == 6
    found, _ = listed(dataclasses.replace(row, window=128), (128, 128), 512)
    assert int(found.count) == 7
    assert not (np.asarray(found.flags) & WHOLE).any()


def test_what_a_causal_row_visits_is_counted() -> None:
    """Four blocks of 128 in parts of 64, of which three are seen on the diagonal. Of 500 tokens the last block of
    queries is padded, and the three that it saw whole are four parts each."""
    count = counted(Case((((512,),),), 512, (1, 1, 1)).tree(), None, (128, 128), 64)
    assert count == Count(10, 6, 4 * 3)
    assert count.computed((128, 128), 64) == 6 * 128**2 + 12 * 64**2
    assert counted(Case((((500,),),), 500, (1, 1, 1)).tree(), None, (128, 128), 64) == Count(10, 3, 4 * 3 + 3 * 4)
    windowed = counted(Case((((512,),),), 512, (1, 1, 1)).tree(), jnp.int32(128), (128, 128), 128)
    assert windowed == Count(7, 0, 7)


SHAPE = Shape(n=1, q=4096, c=4096, k=8, g=4, h=128, size=2, causal=True)


def test_blocks_fit_the_columns_and_the_memory() -> None:
    assert even(4096, 512) == 512
    assert even(576, 512) == 384  # two blocks of 384, not of 512
    assert even(100, 512) == 128
    device = chip("v5p")
    for kernel in ("forward", "backward"):
        table = getattr(device, kernel)
        assert fit(kernel, device, SHAPE) == table
        tight = dataclasses.replace(device, vmem=vmem_bytes(kernel, table, SHAPE) - 1)
        smaller = fit(kernel, tight, SHAPE)
        assert isinstance(smaller, Blocks)
        assert smaller.queries * smaller.keys < table.queries * table.keys
        assert vmem_bytes(kernel, smaller, SHAPE) <= tight.vmem
    # by hand, a forward visit: queries and results twice, keys and values twice, in bf16; the scaled query, fp32 sums,
    # the mask of a part, four tiles of scores, and what the compiler takes besides
    mib = 1 << 20
    wanted = 2 * (2 * 512 * 512 + 2 * 512 * 128) * 2 + 512 * 512 * (2 + 4) + 4 * 256 * 256 + 16 * 256 * 512 + 2 * mib
    assert vmem_bytes("forward", Blocks(512, 512, 256, 256), SHAPE) == wanted


def test_what_is_too_long_is_refused_with_a_reason() -> None:
    problem = Case((((20,),),), 20, (1, 1, 128)).problem()
    scores = Case((((20,),),), 20, (1, 1, 128)).scores
    assert pallas_tpu.refuses(problem, scores, chip("v5p")) is None
    mixed = dataclasses.replace(problem, key=problem.key.astype(jnp.bfloat16))
    assert "bfloat16" in pallas_tpu.refuses(mixed, scores, chip("v5p"))
    keys = fit("backward", chip("v5p"), dataclasses.replace(SHAPE, q=1 << 17, c=1 << 17))
    assert isinstance(keys, str)
    assert "do not fit 60 MiB of VMEM" in keys
    many = fit("forward", chip("v5p"), dataclasses.replace(SHAPE, n=1000))
    assert isinstance(many, str)
    assert "visits" in many
    with pytest.raises(ValueError, match="no block sizes for TPU 'v9'"):
        chip("v9")


@pytest.mark.parametrize(
    ("kind", "generation"),
    [("TPU v5 lite", None), ("TPU v5", "v5p"), ("TPU v5p", "v5p"), ("TPU v6 lite", "v6e"), ("TPU v4", None)],
)
def test_generations_by_the_kind_of_device(kind: str, generation: str | None) -> None:
    assert generation_of(kind) == generation


def test_a_kernels_name_says_what_it_costs() -> None:
    name = kernel_name("forward", 8 * 36, 4 * 512, 512, 128)
    cost = kernel_cost(f"jvp_{name}_.3", "v5p", 2)
    assert cost is not None
    assert cost.flops == 2 * 2 * 8 * 36 * 4 * 512 * 512 * 128
    assert cost.share == tuning()["pallas_tpu"]["v5p"]["share"]["forward"]
    back = kernel_cost(kernel_name("backward", 8 * 36, 4 * 512, 512, 128), "v6e", 2)
    assert back is not None
    assert back.flops == 2.5 * cost.flops
    assert kernel_cost("logp_forward", "v5p", 2) is None
    wide = kernel_cost(name, "v5p", 4)
    assert wide is not None
    assert (wide.flops, wide.share) == (cost.flops, cost.share / 6), "a product of fp32 is six of bf16"


def test_no_scores_of_a_row_are_held() -> None:
    """Nothing in the traced program has as many elements as a row has pairs."""
    case = Case((((700,),),), 700, (1, 2, 128), dtype="bfloat16")
    problem, kernels = case.problem(), pallas_tpu.of_chip(SMALL, interpret=True)

    def loss(query: jax.Array) -> jax.Array:
        return engine(kernels)(dataclasses.replace(problem, query=query), case.scores).astype(jnp.float32).sum()

    text = jax.jit(jax.grad(loss)).lower(problem.query).as_text()
    assert "700x700" not in text
    assert "768x768" not in text
