"""Packing: rows are trees, every response token is scored once from its own predecessor."""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_groups import groups, rollouts

from jaxalign.data.groups import RolledGroups, one_group_a_prompt
from jaxalign.training import rows as rows_of
from jaxalign.training.logps import sight_of
from jaxalign.training.rows import RowShape, abstract_batch, pack, row_shape, stack_microbatches
from jaxalign.types import Groups, Rollouts, Rows


@pytest.fixture
def packed():
    data, pairs = rollouts(), groups([0, 2, 1], [[0, 1], [3, 1], [2, 0]])
    return (
        data,
        pairs,
        pack(
            RolledGroups(data, pairs),
            np.arange(3),
            row_shape(RolledGroups(data, pairs), 8),
            {"last": np.ones((3, 2), np.float32)},
        ),
    )


def test_every_response_token_is_scored_once_and_no_other(packed):
    data, pairs, batch = packed
    for row, (prompt, responses) in enumerate(zip(pairs.prompt, pairs.responses, strict=True)):
        real = batch.rows.slot[row] >= 0
        cells = np.unravel_index(batch.rows.slot[row][real], batch.mask.shape)
        assert (cells[0] == row).all()
        for index, response in enumerate(responses):
            mine = cells[1] == index
            length = data.lengths[prompt, response]
            np.testing.assert_array_equal(cells[2][mine], np.arange(length))
            np.testing.assert_array_equal(batch.rows.target[row][real][mine], data.tokens[prompt, response, :length])
            assert batch.mask[row, index].sum() == length
    assert (batch.rows.slot >= 0).sum() == batch.mask.sum()


def test_a_token_is_scored_from_its_predecessor_in_its_own_branch(packed):
    _, _, batch = packed
    rows = batch.rows
    for row in range(3):
        for source, slot in zip(rows.source[row], rows.slot[row], strict=True):
            if slot >= 0:
                _, response, index = np.unravel_index(slot, batch.mask.shape)
                trunk = (rows.branch[row] == 0) & (rows.group[row] == row)
                assert rows.position[row, source] == trunk.sum() - 1 + index
                assert rows.branch[row, source] == (0 if index == 0 else response + 1)


def test_the_mask_is_a_tree(packed):
    _, _, batch = packed
    rows, mask = batch.rows, np.asarray(sight_of(jax.tree.map(jax.numpy.asarray, batch.rows)).mask())
    for row in range(3):
        for query in range(mask.shape[1]):
            for k in range(mask.shape[2]):
                both_real = rows.group[row, query] >= 0 and rows.group[row, k] >= 0
                on_path = rows.branch[row, k] in (0, rows.branch[row, query])
                earlier = rows.position[row, k] <= rows.position[row, query]
                assert mask[row, query, k] == (both_real and on_path and earlier)
        assert not mask[row, rows.group[row] < 0].any()


def test_missing_groups_give_empty_rows_of_no_weight(packed):
    data, pairs, whole = packed
    batch = pack(RolledGroups(data, pairs), np.array([1, -1]), row_shape(RolledGroups(data, pairs), 8), {})
    np.testing.assert_array_equal(batch.weight, [2.0, 0.0])
    assert not batch.mask[1].any()
    assert (batch.rows.slot[1] == -1).all()
    assert (batch.rows.group[1] == -1).all()
    np.testing.assert_array_equal(batch.rows.tokens[0], whole.rows.tokens[1])


def test_columns_follow_their_groups(packed):
    data, pairs, _ = packed
    sums = np.arange(6, dtype=np.float32).reshape(3, 2)
    batch = pack(RolledGroups(data, pairs), np.array([2, 0]), row_shape(RolledGroups(data, pairs), 8), {"anchor": sums})
    np.testing.assert_array_equal(batch.references["anchor"], sums[[2, 0]])
    jax.tree.map(np.testing.assert_array_equal, batch.labels, jax.tree.map(lambda column: column[[2, 0]], pairs.labels))


def test_shapes_are_rounded_up_and_hold_the_longest_group():
    data = rollouts()
    shape = row_shape(one_group_a_prompt(data), multiple=8)
    need = (data.prompt_lengths + data.lengths.sum(-1)).max()
    assert shape.row % 8 == 0
    assert need <= shape.row < need + 8
    assert data.lengths.sum(-1).max() <= shape.scored
    assert data.lengths.max() <= shape.response


def test_an_abstract_batch_is_what_pack_makes(packed):
    data, pairs, batch = packed
    labels = dataclasses.replace(pairs.labels, score=np.zeros((3, 2), np.float32))
    scored = pack(
        RolledGroups(data, dataclasses.replace(pairs, labels=labels)),
        np.arange(3),
        row_shape(RolledGroups(data, pairs), 8),
        {},
    )
    made = dataclasses.replace(batch, labels=scored.labels)
    shape = RowShape(batch.rows.tokens.shape[1], batch.rows.slot.shape[1], batch.mask.shape[2])
    abstract = abstract_batch(shape, 3, ("last",))
    assert jax.tree.structure(abstract) == jax.tree.structure(made)
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(abstract)] == [
        (leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(made)
    ]
    assert abstract_batch(shape, 3, (), objectives=4).labels.votes.shape == (3, 4)


@pytest.mark.parametrize("count", [1, 2])
def test_microbatches_stack(packed, count):
    _, _, batch = packed
    stacked = stack_microbatches([batch] * count)
    assert stacked.rows.tokens.shape == (count, *batch.rows.tokens.shape)
    jax.tree.map(lambda whole, one: np.testing.assert_array_equal(whole, [one] * count), stacked, batch)


# --------------------------------------------------------------------------------------------------------------
# Token by token


def token_by_token(data: Rollouts, pairs: Groups, chosen: np.ndarray, shape: RowShape) -> tuple[Rows, np.ndarray]:
    """What `pack` fills rows with, as one would say it: a loop over groups, responses and tokens."""
    count = len(chosen)
    filled = Rows(
        **{name: np.zeros((count, shape.row), np.int32) for name in ("tokens", "branch", "position")},
        group=np.full((count, shape.row), -1, np.int32),
        **{name: np.zeros((count, shape.scored), np.int32) for name in ("source", "target")},
        slot=np.full((count, shape.scored), -1, np.int32),
    )
    mask = np.zeros((count, pairs.responses.shape[1], shape.response), bool)
    for row, group in enumerate(chosen):
        if group < 0:
            continue
        prompt, at, scored = pairs.prompt[group], 0, 0
        trunk = data.prompt_lengths[prompt]
        for token in data.prompt_tokens[prompt, :trunk]:
            filled.tokens[row, at], filled.group[row, at], filled.position[row, at] = token, row, at
            at += 1
        for branch, response in enumerate(pairs.responses[group]):
            for index, token in enumerate(data.tokens[prompt, response, : data.lengths[prompt, response]]):
                filled.tokens[row, at], filled.group[row, at] = token, row
                filled.branch[row, at], filled.position[row, at] = branch + 1, trunk + index
                filled.source[row, scored] = at - 1 if index else trunk - 1
                filled.target[row, scored] = token
                filled.slot[row, scored] = np.ravel_multi_index((row, branch, index), mask.shape)
                mask[row, branch, index] = True
                at, scored = at + 1, scored + 1
    return filled, mask


@st.composite
def sizes(draw: st.DrawFn) -> dict[str, list]:
    """Lengths of prompts (of 5 cells) and of their responses (of 4), empty and single tokens among them; groups of
    some responses each; which groups are rows."""
    prompts, samples, branches = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    each = st.lists(st.integers(0, 4), min_size=samples, max_size=samples)
    members = st.lists(st.integers(0, samples - 1), min_size=branches, max_size=branches)
    pairs = draw(st.lists(st.tuples(st.integers(0, prompts - 1), members), min_size=1, max_size=5))
    return {
        "prompt_lengths": draw(st.lists(st.integers(1, 5), min_size=prompts, max_size=prompts)),
        "lengths": draw(st.lists(each, min_size=prompts, max_size=prompts)),
        "pairs": pairs,
        "chosen": draw(st.lists(st.integers(-1, len(pairs) - 1), min_size=1, max_size=7)),
    }


@settings(deadline=None, max_examples=200)
@given(sizes(), st.integers(1, 4), st.integers(1, 8))
def test_rows_are_filled_with_the_bytes_of_a_loop_over_tokens(drawn, multiple, block):
    prompts, samples = np.shape(drawn["lengths"])
    data = dataclasses.replace(
        rollouts(prompts, samples, longest=4),
        prompt_tokens=np.arange(1, prompts * 5 + 1, dtype=np.int32).reshape(prompts, 5),
        prompt_lengths=np.int32(drawn["prompt_lengths"]),
        tokens=np.arange(100, 100 + prompts * samples * 4, dtype=np.int32).reshape(prompts, samples, 4),
        lengths=np.int32(drawn["lengths"]),
    )
    pairs = groups([prompt for prompt, _ in drawn["pairs"]], [responses for _, responses in drawn["pairs"]])
    chosen, shape = np.array(drawn["chosen"]), row_shape(RolledGroups(data, pairs), multiple)
    with mock.patch.object(rows_of, "BLOCK", block):
        batch = pack(RolledGroups(data, pairs), chosen, shape, {})
    filled, mask = token_by_token(data, pairs, chosen, shape)
    for name, expected in vars(filled).items():
        found = getattr(batch.rows, name)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected, err_msg=name)
    np.testing.assert_array_equal(batch.mask, mask)


def test_rows_that_are_too_small_are_refused(packed):
    data, pairs, _ = packed
    shape = row_shape(RolledGroups(data, pairs), 1)
    for name in ("row", "scored", "response"):
        smaller = dataclasses.replace(shape, **{name: getattr(shape, name) - 1})
        with pytest.raises(ValueError, match=r"negative|boolean"):
            pack(RolledGroups(data, pairs), np.arange(3), smaller, {})
