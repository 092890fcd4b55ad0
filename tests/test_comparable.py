"""Win rates among answers that are alike: both finished, equally long."""

import dataclasses

import numpy as np
import pytest
from made_heldout import held_out, panel
from made_rollouts import random_prefer, rollouts

from jaxalign.evals.comparable import both_finished, equally_long, rate_among
from jaxalign.evals.intervals import estimated
from jaxalign.evals.win_rate import WinRate, between
from jaxalign.types import Rollouts


def answers(lengths: list[list[int]], finished: list[list[bool]]) -> Rollouts:
    made = rollouts([["x"] * len(row) for row in lengths])
    return dataclasses.replace(made, lengths=np.array(lengths, np.int32), finished=np.array(finished))


FIRST = answers([[10, 20], [30, 5]], [[True, False], [True, True]])
SECOND = answers([[11, 40], [30, 30]], [[True, True], [False, False]])
PREFER = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 1.0], [0.0, 0.3]]])


def test_by_hand():
    """Finished: of the first prompt two of four pairs (0.9 and 0.1), of the second none. Equally long: 10 and 11 (a
    tenth of 11 is 1.1), 30 twice beside 30."""
    finished = both_finished(FIRST, SECOND)
    assert finished.tolist() == [[[True, True], [False, False]], [[False, False], [False, False]]]
    share, found = rate_among(finished, PREFER, FIRST, SECOND)
    assert share == 0.25
    assert found.value == pytest.approx(0.5)
    assert found.stderr is None
    same = equally_long(FIRST, SECOND)
    assert same.tolist() == [[[True, False], [False, False]], [[True, True], [False, False]]]
    share, found = rate_among(same, PREFER, FIRST, SECOND)
    assert share == pytest.approx(3 / 8)
    assert found.value == pytest.approx((0.9 + 0.6 + 1.0) / 3)  # pairs count alike, so the second prompt counts twice


def test_where_all_pairs_count_it_is_the_win_rate():
    generator = np.random.default_rng(0)
    pair = tuple(rollouts([["x"] * 3] * 7) for _ in range(2))
    table = random_prefer(generator, 7, 6)
    share, found = rate_among(np.ones((7, 3, 3), bool), table[:, :3, 3:], *pair)
    assert share == pytest.approx(1)
    expected = estimated(between(table, pair)[:, 0, 1])
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(expected))


def test_complements_are_exact_and_pairs_that_do_not_count_say_nothing():
    generator = np.random.default_rng(1)
    counts, prefer = generator.uniform(size=(9, 2, 3)) < 0.4, generator.uniform(size=(9, 2, 3))
    one, other = rollouts([["x"] * 2] * 9), rollouts([["x"] * 3] * 9)
    there = rate_among(counts, prefer, one, other)[1]
    back = rate_among(counts.swapaxes(1, 2), 1 - prefer.swapaxes(1, 2), other, one)[1]
    assert there.value + back.value == pytest.approx(1, abs=1e-12)
    assert rate_among(counts, np.where(counts, prefer, 0.123), one, other)[1] == there
    assert rate_among(np.zeros_like(counts), prefer, one, other) == (0.0, None)


def test_what_finishing_alone_wins_is_seen():
    """A judge of nothing but the end: the policy that ends more often wins, and among finished answers nobody does."""
    context = held_out(2)
    cut = context.responses["base"]
    cut = dataclasses.replace(cut, finished=np.zeros_like(cut.finished))
    half = np.tile([True, False], (len(cut.finished), 1))
    now = dataclasses.replace(context.current, finished=half)

    def ended(given, key):
        table = 0.5 + (given.finished[:, :, None].astype(np.float32) - given.finished[:, None, :]) / 2
        return dataclasses.replace(
            panel()(given, key), prefer=table.astype(np.float32), by_annotator=table[:, None].repeat(3, 1)
        )

    def metrics(base: Rollouts) -> dict[str, float]:
        responses = {"base": base, "iterate-1": now}
        return WinRate(against=("base",))(dataclasses.replace(context, responses=responses, judge=ended, _asked={}))

    never = metrics(cut)
    assert never["win_rate/vs_base"] == 0.75
    assert never["win_rate_finished/vs_base_share"] == 0.0
    assert "win_rate_finished/vs_base" not in never
    sometimes = metrics(dataclasses.replace(cut, finished=half[:, ::-1]))
    assert sometimes["win_rate_finished/vs_base_share"] == 0.25
    assert sometimes["win_rate_finished/vs_base"] == 0.5
