"""The panel of annotators: weights, temperatures, cycles and what it refuses."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_oracles import ANSWER, MEMBERS, OTHERS, QUESTION
from made_rollouts import rollouts

from jaxalign.errors import BrokenContract
from jaxalign.evals.cycles import cycle_metrics
from jaxalign.oracles.annotators import (
    Brevity,
)
from jaxalign.oracles.panel import Panel, Weighted, advantages, probabilities
from jaxalign.types import Preferences


@dataclasses.dataclass(frozen=True)
class Table:
    """Annotator that looks its scores up."""

    scores: tuple[float, ...]
    name: str = "table"

    def __call__(self, asked, texts):
        return np.array(self.scores)


def vote(*members: tuple[tuple[float, ...], float, float], names: str = "abcdefgh") -> Panel:
    """A panel of tables: (scores, weight, temperature) each."""
    return Panel(tuple(Weighted(Table(row, name), w, t) for name, (row, w, t) in zip(names, members, strict=False)))


def judged(panel: Panel, samples: int) -> Preferences:
    return panel(rollouts([[str(index) for index in range(samples)]]), jax.random.key(0))


def test_preference_is_the_sigmoid_of_the_score_difference_over_the_temperature():
    answer = judged(vote(((0.0, 1.0, 3.0), 1.0, 2.0)), 3)
    np.testing.assert_allclose(answer.prefer[0, 1, 0], 1 / (1 + np.exp(-0.5)), rtol=1e-7)
    np.testing.assert_allclose(answer.prefer[0, 0, 2], 1 / (1 + np.exp(1.5)), rtol=1e-6)  # 1 - fp32 of the winner's


def test_the_panel_is_the_weighted_mean_of_its_annotators_and_weights_are_normalised():
    members = (((0.0, 1.0), 2.0, 1.0), ((1.0, 0.0), 6.0, 0.5))
    answer = judged(vote(*members), 2)
    expected = (2 * answer.by_annotator[:, 0] + 6 * answer.by_annotator[:, 1]) / 8
    np.testing.assert_allclose(answer.prefer, expected, atol=1e-7)  # one rounding to fp32
    assert answer.weights == (0.25, 0.75)
    scaled = judged(vote(*((row, w * 64, t) for row, w, t in members)), 2)
    assert scaled.weights == answer.weights
    np.testing.assert_array_equal(answer.prefer, scaled.prefer)


def test_temperature_zero_is_a_hard_vote_with_ties():
    answer = judged(vote(((1.0, 1.0, 1.0 + 1e-12), 1.0, 0.0)), 3)
    np.testing.assert_array_equal(answer.prefer[0, 0], np.float32([0.5, 0.5, 0.0]))


def test_scores_as_far_apart_as_floats_go_are_certain():
    answer = judged(vote(((1e308, -1e308, 5e-324), 1.0, 1e-300)), 3)
    np.testing.assert_array_equal(answer.prefer[0], np.float32([[0.5, 1, 1], [0, 0.5, 0], [0, 1, 0.5]]))


def test_three_hard_votes_cycle():
    answer = judged(vote(((3.0, 2.0, 1.0), 1.0, 0.0), ((1.0, 3.0, 2.0), 1.0, 0.0), ((2.0, 1.0, 3.0), 1.0, 0.0)), 3)
    assert cycle_metrics(answer.prefer)["cycles/cyclic_triples"] == 1.0
    for table in answer.by_annotator.swapaxes(0, 1):
        assert cycle_metrics(table)["cycles/cyclic_triples"] == 0.0


def cyclic_panels(first: float, second: float, panels: int = 1000) -> int:
    """How many random panels of two annotators with six responses have a cycle in their majority."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, (2, panels, 6)).swapaxes(0, 1)
    answer = vote(((), first, 1.0), ((), second, 1.0)).preferences(scores)
    return sum(cycle_metrics(table[None])["cycles/cyclic_triples"] > 0 for table in answer.prefer)


def test_two_annotators_of_equal_weight_never_cycle_and_of_unequal_weight_do():
    assert cyclic_panels(0.5, 0.5) == 0
    assert cyclic_panels(0.6, 0.4) > 10  # 5 % of them have a cycle


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4), min_size=1, max_size=4),
    temperature=st.floats(0, 10),
)
def test_complements_and_order_are_exact_for_any_scores(rows, temperature):
    panel = vote(*((tuple(row), 1.0 + index / 3, temperature) for index, row in enumerate(rows)))
    table = np.array(rows)[None]
    answer, order = panel.preferences(table), [3, 1, 0, 2]
    np.testing.assert_array_equal(answer.prefer + answer.prefer.swapaxes(1, 2), np.ones((1, 4, 4), np.float32))
    turned = panel.preferences(table[:, :, order])
    np.testing.assert_array_equal(answer.prefer[:, order][:, :, order], turned.prefer)


def test_advantage_and_probability_are_monotone_in_the_score():
    scores = np.linspace(-30, 30, 121)[None]
    table = probabilities(advantages(scores, 0.7))[0, :, 60]
    assert (np.diff(table) >= 0).all()
    assert table[0] == 0.0
    assert table[-1] == 1.0


def test_two_policies_are_compared_through_one_call(key):
    """P between answers does not depend on which other answers are judged beside them."""
    panel = Panel(MEMBERS)
    both = panel(rollouts([[ANSWER, *OTHERS]], QUESTION), key).prefer
    pair = panel(rollouts([[ANSWER, OTHERS[2]]], QUESTION), key).prefer
    assert both[0, 0, 3] == pair[0, 0, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_names_annotator_prompt_and_response(bad):
    with pytest.raises(BrokenContract, match=r"'b'.*response 1.*'p0'"):
        judged(vote(((0.0, 1.0), 1.0, 1.0), ((0.0, bad), 1.0, 1.0)), 2)


def test_scores_of_the_wrong_number_name_the_annotator():
    with pytest.raises(BrokenContract, match=r"'a'.*2 in all.*\(3,\)"):
        judged(vote(((0.0, 1.0, 2.0), 1.0, 1.0)), 2)


def test_options_of_the_panel_are_checked():
    assert list(Panel(()).problems()) == ["annotators must name at least one annotator"]
    (twice,) = Panel((Weighted(Brevity()), Weighted(Brevity(enough=20)))).problems()
    assert "'brevity' 2 times" in twice
    for weight, temperature in ((0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0)):
        assert "weight must be positive" in next(iter(Weighted(Brevity(), weight, temperature).problems()))
    for temperature in (-1.0, float("nan"), float("inf")):
        assert "temperature must be at least 0" in next(iter(Weighted(Brevity(), 1.0, temperature).problems()))
    assert list(Weighted(Brevity()).problems()) == []
