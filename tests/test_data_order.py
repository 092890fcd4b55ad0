"""The order of prompts and of training groups: a function of seed and index, resumed at any cut."""

import json
import pathlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from made_prompts import inline

from jaxalign.data.order import GroupOrder, Order, PromptStream
from jaxalign.data.prompts import InlinePrompts
from jaxalign.errors import DataError


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_every_epoch_has_every_prompt_once_in_an_order_of_its_own(count: int):
    stream = PromptStream(inline(count), seed=3)
    epochs = [[prompt.id for prompt in stream.take(epoch * count, count)] for epoch in range(4)]
    assert all(sorted(epoch) == sorted(epochs[0]) and len(set(epoch)) == count for epoch in epochs)
    if count > 7:
        assert len({tuple(epoch) for epoch in epochs}) == 4


def test_prompts_once_are_the_first_without_repetition():
    stream = PromptStream(inline(5), seed=3)
    assert stream.once(3) == stream.take(0, 3)
    assert stream.once(99) == stream.take(0, 5)
    assert len({prompt.id for prompt in stream.once(99)}) == 5


def test_the_order_is_a_function_of_seed_and_index():
    one, two, other = (PromptStream(inline(20), seed=seed) for seed in (5, 5, 6))
    assert [one[index] for index in (33, 2, 19, 2)] == [two.take(index, 1)[0] for index in (33, 2, 19, 2)]
    assert one.take(0, 20) != other.take(0, 20)
    assert one.take(7, 10) == tuple(one.take(0, 20)[7:17])
    with pytest.raises(IndexError):
        one[-1]


def test_neighbouring_seeds_share_no_epoch():
    """Grain adds the epoch to the seed; it hashes the seed first, without which seeds 0 and 1 would share orders."""
    streams = [PromptStream(inline(30), seed) for seed in range(4)]
    orders = {tuple(p.id for p in stream.take(30 * epoch, 30)) for stream in streams for epoch in range(4)}
    assert len(orders) == 16


@pytest.mark.parametrize(
    "order",
    [PromptStream(inline(20), seed=1), GroupOrder(count=38, size=5, epochs=3, seed=1)],
    ids=["prompts", "groups"],
)
def test_a_position_survives_json_at_every_cut_of_24(order: Order):
    """Across epochs too (of 20 prompts and of 8 batches)."""
    for cut in range(24):
        assert order.check(json.loads(json.dumps(order.state(cut)))) == cut


def test_a_position_in_another_order_is_refused_naming_the_field(tmp_path: pathlib.Path):
    state = PromptStream(inline(10), seed=1).state(0)
    renamed = InlinePrompts(tuple(f"Question {number}!" for number in range(10))).open(tmp_path)
    for stream, field in (
        (PromptStream(inline(10), seed=2), "seed: 1 when saved, 2 in this run"),
        (PromptStream(renamed, seed=1), f"fingerprint: '{state['fingerprint']}' when saved"),
        (PromptStream(inline(11), seed=1), "fingerprint"),
    ):
        with pytest.raises(DataError, match=field):
            stream.check(state)
    groups = {"count": 15, "size": 4, "epochs": 6, "seed": 1}
    for field in groups:
        with pytest.raises(DataError, match=f": {field}: {groups[field]} when saved, {groups[field] + 1} in this run"):
            GroupOrder(**{**groups, field: groups[field] + 1}).check(GroupOrder(**groups).state(3))


@pytest.mark.parametrize("next_index", [-1, 25, True, 1.0, "1", None])
def test_a_spoilt_position_is_refused(next_index: object):
    order = GroupOrder(count=15, size=4, epochs=6, seed=1)
    with pytest.raises(DataError, match="next_index"):
        order.check({**order.state(0), "next_index": next_index})
    with pytest.raises(DataError, match="epochs, stray: missing or unknown"):
        order.check({"stray": 1, **{name: value for name, value in order.state(0).items() if name != "epochs"}})


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(
    count=st.integers(1, 60), size=st.integers(1, 9), epochs=st.integers(1, 3), seed=st.integers(0, 2**40)
)
def test_every_group_is_in_every_epoch_once(count: int, size: int, epochs: int, seed: int):
    order = GroupOrder(count, size, epochs, seed)
    batches = np.array([order[k] for k in range(len(order))])
    assert batches.shape == (epochs * -(-count // size), size)
    for epoch in batches.reshape(epochs, -1):
        assert sorted(epoch[epoch >= 0].tolist()) == list(range(count))
        assert (epoch[count:] == -1).all(), "padding is at the end of the epoch and nowhere else"


def test_group_order_ends():
    order = GroupOrder(count=3, size=2, epochs=2, seed=0)
    assert [order[k].shape for k in range(len(order))] == [(2,)] * 4
    assert order.check(order.state(4)) == 4
    with pytest.raises(IndexError):
        order[4]
    with pytest.raises(DataError, match="no groups"):
        GroupOrder(count=0, size=2, epochs=1, seed=0)
