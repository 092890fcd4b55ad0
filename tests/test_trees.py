"""Conversations as rows that are trees: every token in its place, and every conversation read once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxalign.oracles.trees import Line, batches, lines, packed, shared, width

CONTEXT = 24
conversation = st.lists(st.integers(1, 3), min_size=1, max_size=CONTEXT)
"""Of few different tokens, so that many begin alike."""


def read_back(line: Line) -> dict[int, list[int]]:
    """Conversations by number, as the tokens of a packed row that see one another; positions must count them."""
    rows = packed([[line]], np.array([True, False]), CONTEXT)
    assert (rows.group[1] == -1).all()
    assert (rows.group[0] == np.where(np.arange(CONTEXT) < len(line), 0, -1)).all()
    found = {}
    for branch, number in enumerate(line.numbers, 1):
        path = (rows.group[0] == 0) & ((rows.branch[0] == 0) | (rows.branch[0] == branch))
        assert rows.position[0, path].tolist() == list(range(path.sum()))
        assert rows.branch[0, np.flatnonzero(path)[-1]] == branch  # the last token is the conversation's own
        found[number] = rows.tokens[0, path].tolist()
    return found


@settings(max_examples=300, deadline=None)
@given(groups=st.lists(st.lists(conversation, max_size=5), max_size=3))
def test_rows_hold_every_conversation_and_none_twice(groups):
    made, stands_for = lines(groups, CONTEXT)
    flat = [ids for group in groups for ids in group]
    found = {number: ids for line in made for number, ids in read_back(line).items()}
    assert [found[number] for number in stands_for] == flat
    assert sorted(found) == sorted(set(stands_for.tolist()))
    for group in groups:
        assert len({tuple(ids) for ids in group}) == len({tuple(ids) for ids in group if ids in list(found.values())})
    assert sum(len(line.numbers) for line in made) == sum(len({tuple(ids) for ids in group}) for group in groups)
    assert all(len(line) <= CONTEXT for line in made)
    assert [len(line) for line in made] == sorted(map(len, made), reverse=True)


@settings(max_examples=200, deadline=None)
@given(groups=st.lists(st.lists(conversation, max_size=5), min_size=1, max_size=6), rows=st.integers(1, 4))
def test_short_lines_fill_the_padding_of_long_ones(groups, rows):
    """Every line once, none beyond the columns, and nothing that would have fitted is left for later batches."""
    made, _ = lines(groups, CONTEXT)
    found = list(batches(made, rows))
    assert sorted(line.numbers for batch, _ in found for row in batch for line in row) == sorted(
        line.numbers for line in made
    )
    for number, (batch, columns) in enumerate(found):
        later = [len(line) for rest, _ in found[number + 1 :] for row in rest for line in row]
        assert columns == width(max(len(row[0]) for row in batch))
        rooms = [columns - sum(map(len, row)) for row in batch]
        assert min(rooms) >= 0
        assert not later or (len(batch) == rows and max(rooms) < min(later))


@settings(max_examples=200, deadline=None)
@given(groups=st.lists(st.lists(conversation, max_size=5), min_size=1, max_size=4))
def test_a_conversation_sees_its_own_tokens_alone_whatever_stands_beside_it(groups):
    made, _ = lines(groups, CONTEXT)
    told = {number: ids for line in made for number, ids in read_back(line).items()}
    for batch, columns in batches(made, 2):
        rows = packed(batch, np.array([True, True])[: len(batch)], columns)
        for row, held in enumerate(batch):
            numbers = [number for line in held for number in line.numbers]
            for branch, number in enumerate(numbers, 1):
                (own,) = set(rows.group[row, rows.branch[row] == branch])
                path = (rows.group[row] == own) & np.isin(rows.branch[row], [0, branch])
                assert rows.tokens[row, path].tolist() == told[number]
                assert rows.position[row, path].tolist() == list(range(path.sum()))


def test_answers_share_their_prompt_in_one_row():
    prompt, answers = list(range(1, 13)), ([20, 21], [20, 22, 23], [24])
    (line,), stands_for = lines([[prompt + answer for answer in answers]], 64)
    assert list(line.trunk) == prompt
    assert [list(branch) for branch in line.branches] == list(answers)
    assert stands_for.tolist() == [0, 1, 2]


def test_what_shares_little_has_rows_of_its_own():
    """Two of ten tokens each: a trunk would save 4 of 30."""
    made, _ = lines([[[1, 2, *[number] * 8] for number in (3, 4, 5)]], 64)
    assert [len(line.trunk) for line in made] == [0, 0, 0]
    assert [line.numbers for line in made] == [(0,), (1,), (2,)]


def test_a_row_is_no_longer_than_the_context():
    prompt = list(range(1, 13))
    made, _ = lines([[prompt + [number] * 5 for number in range(20, 24)]], 24)
    assert [(len(line), line.numbers) for line in made] == [(22, (0, 1)), (22, (2, 3))]


def test_a_conversation_that_begins_another_keeps_a_token_of_its_own():
    assert shared(([1, 2], [1, 2, 3])) == 1
    assert shared(([1, 2, 3],)) == 2
    assert shared(([1], [2])) == 0
    assert shared(()) == 0


@pytest.mark.parametrize("length", [1, 63, 64, 65, 300, 513, 1025, 8192])
def test_widths_are_few_and_little_is_padding(length):
    assert length <= width(length) < max(length + 64, 1.25 * length)
    assert len({width(each) for each in range(1, 8193)}) <= 24
