"""The Nash gap: the golden numbers of the three-action game, then relations and refusals."""

import dataclasses

import numpy as np
import pytest
from made_heldout import held_out
from made_rollouts import random_prefer, rollouts

from jaxalign.evals.context import HeldOut
from jaxalign.evals.nash_gap import NashGap, action_probabilities, duality_gap
from jaxalign.oracles.tabular import TabularGame

NASH = (4 / 11, 3 / 11, 4 / 11)


def game(policy) -> HeldOut:
    answers = rollouts([list("abc")], weights=np.float32([policy]))
    return dataclasses.replace(held_out(1, TabularGame()), prompts=answers.prompts, responses={"base": answers})


@pytest.mark.parametrize(
    ("policy", "gap", "kl"),
    [(NASH, 0.0, 0.0), ((0.2, 0.5, 0.3), 0.28, 0.12203892), ((1 / 3, 1 / 3, 1 / 3), 0.0666667, 0.00855263)],
)
def test_gap_and_divergence_of_the_three_action_game(policy, gap, kl):
    metrics = NashGap(nash=NASH)(game(policy))
    np.testing.assert_allclose(metrics["nash/gap"], gap, atol=2e-7)  # fp32 preferences and weights
    np.testing.assert_allclose(metrics["nash/kl"], kl, atol=2e-7)


def test_the_gap_is_never_negative_and_zero_only_without_a_winning_answer():
    rng = np.random.default_rng(0)
    gaps = duality_gap(random_prefer(rng, 200, 5), rng.dirichlet(np.ones(5), 200))
    assert (gaps > 0).all()
    assert duality_gap(np.full((1, 3, 3), 0.5, np.float32), np.full((1, 3), 1 / 3)).tolist() == [0.0]


def test_answers_with_one_action_share_its_probability():
    shares = action_probabilities(np.array([[2, 0, 2]]), np.float32([[0.25, 0.25, 0.5]]), 4)
    np.testing.assert_allclose(shares, [[0.25, 0, 0.75, 0]])


def test_an_action_never_played_is_very_but_not_infinitely_far():
    np.testing.assert_allclose(NashGap(nash=NASH)(game((1.0, 0.0, 0.0)))["nash/kl"], 87.3 * 7 / 11, rtol=0.02)
    assert NashGap(nash=(1.0, 0.0, 0.0))(game((1.0, 0.0, 0.0)))["nash/kl"] == 0.0


def test_a_nash_policy_that_is_no_distribution_is_refused():
    for wrong in ((0.5, 0.6), (1.5, -0.5), (float("nan"), 1.0)):
        assert "sum to 1" in next(iter(NashGap(nash=wrong).problems()))
