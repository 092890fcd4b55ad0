"""Batches of about equal tokens: every unit once an epoch, and as level as exchanges make them."""

import numpy as np
import pytest

from jaxalign.data.levelled import EVEN, Costs, levelled
from jaxalign.data.order import GroupOrder
from jaxalign.errors import DataError


def test_level_batches_have_every_unit_once_an_epoch_and_about_the_same_tokens():
    """Long and short units, and some prompts in many of them."""
    rng = np.random.default_rng(0)
    own, prompt = rng.lognormal(5, 0.8, 1030).astype(np.int64), rng.integers(0, 40, 1030) ** 2 // 2
    costs = Costs(own, 20 + prompt % 300, prompt)
    level, plain = GroupOrder(1030, 64, 2, 7, costs), GroupOrder(1030, 64, 2, 7)
    assert len(level) == len(plain) == 34
    cost = {}
    for name, order in (("level", level), ("plain", plain)):
        epochs = [np.concatenate([order[17 * epoch + k] for k in range(17)]) for epoch in (0, 1)]
        assert all(sorted(each[each >= 0]) == list(range(1030)) for each in epochs)
        cost[name] = np.array([costs.of(order[k]) for k in range(16)])
    assert abs(cost["level"] / cost["level"].mean() - 1).max() <= EVEN
    assert cost["plain"].max() / cost["plain"].mean() > 1.1, "a padding of so much, where all rows are as long"
    moved = [len(set(level[k]) - set(plain[k])) for k in range(16)]
    assert sum(moved) < 0.15 * 1024, "the others are where chance has put them"
    assert (level[16] == plain[16]).all()
    with pytest.raises(DataError, match="level"):
        level.check(plain.state(3))


def test_batches_that_cannot_be_level_are_as_level_as_exchanges_make_them():
    costs = Costs(np.array([100, 1, 1, 1]), np.zeros(4, int), np.arange(4))
    assert sorted(levelled(np.arange(4), costs, 2)) == [0, 1, 2, 3]
    even = levelled(np.array([0, 1, 2, 3]), Costs(np.array([9, 8, 1, 2]), np.zeros(4, int), np.arange(4)), 2)
    assert {frozenset(even[:2]), frozenset(even[2:])} == {frozenset({0, 2}), frozenset({1, 3})}


def test_fewer_units_than_a_batch_are_one():
    costs = Costs(*np.array([[5, 9, 2], [1, 1, 1], [0, 1, 2]]))
    np.testing.assert_array_equal(np.sort(GroupOrder(3, 4, 1, 0, costs)[0]), [-1, 0, 1, 2])
