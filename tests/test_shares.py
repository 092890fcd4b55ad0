"""Rollouts in pieces: what is cut and joined again is the same, along prompts and along responses."""

import dataclasses

import numpy as np
import pytest
from made_rollouts import rollouts

from jaxalign.rollouts.shares import COLUMNS, Share, given, in_order, joined, picked, remaining
from jaxalign.storage import artifact
from jaxalign.types import Rollouts


@pytest.fixture
def whole() -> Rollouts:
    rng = np.random.default_rng(0)
    made = rollouts(
        [[f"{i} {j}" for j in range(3)] for i in range(5)],
        asked=[f"What is {i}?" for i in range(5)],
        tokens=rng.integers(3, 99, (5, 3, 4)).astype(np.int32),
        lengths=rng.integers(1, 5, (5, 3)).astype(np.int32),
        logps=rng.normal(size=(5, 3, 4)).astype(np.float32),
        weights=rng.dirichlet(np.ones(3), 5).astype(np.float32),
    )
    numbers = np.arange(5, dtype=np.int32)
    return dataclasses.replace(made, prompt_lengths=numbers, finished=rng.random((5, 3)) < 0.5)


def assert_same(one: Rollouts, other: Rollouts) -> None:
    assert artifact.encode(one) == artifact.encode(other)


def test_every_column_has_letters_of_which_the_first_is_the_prompts():
    assert set(COLUMNS) == {field.name for field in dataclasses.fields(Rollouts)}
    assert {letters[0] for letters in COLUMNS.values()} == {"b"}
    assert COLUMNS["tokens"] == ("b", "m", "t")


@pytest.mark.parametrize("axis", ["b", "m"])
def test_cut_and_joined_is_whole(whole, axis):
    assert_same(joined([picked(whole, slice(0, 1), axis), picked(whole, slice(1, None), axis)], axis), whole)
    assert_same(joined([whole], axis), whole)


def test_picking_is_indexing_of_every_column(whole):
    order = np.array([4, 0, 2])
    found = picked(whole, order)
    assert found.texts == (whole.texts[4], whole.texts[0], whole.texts[2])
    assert [prompt.text for prompt in found.prompts] == ["What is 4?", "What is 0?", "What is 2?"]
    np.testing.assert_array_equal(found.logps, whole.logps[order])
    turned = picked(whole, np.array([2, 0]), "m")
    assert turned.prompts == whole.prompts
    assert turned.texts[3] == ("3 2", "3 0")
    np.testing.assert_array_equal(turned.tokens, whole.tokens[:, [2, 0]])
    np.testing.assert_array_equal(turned.prompt_tokens, whole.prompt_tokens)
    assert_same(picked(whole, np.arange(5) < 2), picked(whole, slice(0, 2)))


@pytest.mark.parametrize("axis", ["b", "m"])
def test_tokens_are_padded_to_the_longest_and_nothing_else_is(whole, axis):
    short = dataclasses.replace(whole, tokens=whole.tokens[..., :2], logps=whole.logps[..., :2])
    found = joined([short, whole], axis)
    assert found.tokens.shape[2] == found.logps.shape[2] == 4
    ours = picked(found, slice(0, 5) if axis == "b" else slice(0, 3), axis)
    np.testing.assert_array_equal(ours.tokens[..., :2], short.tokens)
    assert not ours.tokens[..., 2:].any()
    with pytest.raises(ValueError, match=r"argument 2 is shorter|dimensions"):
        joined([whole, picked(whole, slice(0, 2), "m" if axis == "b" else "b")], axis)


def test_shares_come_into_the_order_of_their_prompts(whole):
    shares = [Share(np.array(numbers), picked(whole, np.array(numbers))) for numbers in ([3, 1], [4, 0, 2])]
    assert_same(in_order(shares), whole)


def test_what_remains_is_what_no_share_has(whole):
    shares = [Share(np.array(numbers), picked(whole, np.array(numbers))) for numbers in ([3, 1], [4])]
    assert remaining(shares, 6).tolist() == [0, 2, 5]
    assert remaining([], 2).tolist() == [0, 1]


def test_given_tokens_weigh_alike_and_are_finished():
    made = given(np.ones((2, 3), np.int32), np.full(2, 3), np.ones((2, 4, 5), np.int32), np.full((2, 4), 5))
    np.testing.assert_array_equal(made.weights, 0.25)
    assert made.finished.all()
    assert made.logps.shape == (2, 4, 5)
    assert len({prompt.id for prompt in made.prompts}) == 2
