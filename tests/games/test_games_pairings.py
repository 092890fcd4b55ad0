"""To which policies pairing rules lead: COMAL's recursion on the three-action game, expectations taken exactly."""

from pathlib import Path

import numpy as np
import pytest
from made_recursions import NASH, SETTLED, START, TABLE, BestEach, Law, cell, gaps, iterates, normalised, row

from jaxalign.pairings.best_random import BestRandom
from jaxalign.pairings.curriculum import Curriculum
from jaxalign.pairs import AllPairs, BestSecond, BestWorst, RandomPair, SoftLabel

ROOT = Path(__file__).parents[2]
PRINTED = {
    cells[0]: cells[1:]
    for line in (ROOT / "BENCHMARKS.md").read_text().splitlines()
    if (cells := [each.strip() for each in line.strip("| ").split(" | ")])[0] in TABLE
}


@pytest.mark.parametrize("name", TABLE)
def test_the_printed_gaps_are_those_that_the_recursion_comes_to(name):
    found = list(row(name))
    assert len(PRINTED[name]) == len(found) == 6
    for printed, (least, greatest) in zip(PRINTED[name], found, strict=True):
        ends = [float(each) for each in printed.split("–")]
        assert (len(ends) == 1) == (greatest - least < SETTLED), (printed, cell(least, greatest))
        # The last digit of a settled gap; between which two a chaotic one swings depends on rounding a little.
        np.testing.assert_allclose([least, greatest], [ends[0], ends[-1]], atol=1e-4 if len(ends) == 1 else 0.02)


def test_independent_pairs_lead_to_the_nash_policy_and_without_swaps_to_the_regularised_one():
    swapped, slow, fixed = iterates(Law.of(AllPairs(), 8, True))[:, -1]
    np.testing.assert_allclose([swapped, slow], [NASH, NASH], atol=1e-6)  # fp32 labels
    np.testing.assert_allclose(fixed, [0.2749, 0.2797, 0.4454], atol=5e-5)


def test_small_steps_towards_certain_winners_lead_to_the_equilibrium_of_the_signs():
    """A tournament without its probabilities: each action beats one of the others, so its Nash policy is uniform."""
    for samples, apart in ((2, False), (5, True), (8, True)):
        np.testing.assert_allclose(iterates(Law.of(BestWorst(), samples, apart))[1, -1], np.full(3, 1 / 3), atol=2e-4)
    few = iterates(Law.of(BestWorst(), 8, False))[1, -1]
    np.testing.assert_allclose(few, [0.4584, 0.0832, 0.4584], atol=2e-4)


def test_of_cooled_samples_what_is_sampled_comes_to_the_nash_policy():
    """Answers at a temperature of .8 are drawn from policy^1.25: this is what meets itself, and what the equilibrium is
    of. The policy itself is flatter."""
    found = iterates(Law.of(AllPairs(), 8, True), 0.8)[0, -1]
    np.testing.assert_allclose(np.exp(normalised(np.log(found) / 0.8)), NASH, atol=1e-6)
    np.testing.assert_allclose(gaps(found), 0.0127, atol=5e-5)


@pytest.mark.parametrize("apart", [True, False])
def test_rules_that_draw_have_the_laws_of_their_expectations(apart):
    """The mean of 500 draws of a pair, of each of 15 multisets: at least four standard errors."""
    policy = np.log(START)[None]
    for drawn, expected in ((BestRandom(), BestEach()), (RandomPair(label=SoftLabel()), AllPairs())):
        there = Law.of(drawn, 4, apart, draws=500)(policy)
        assert np.abs(np.array(there) - np.array(Law.of(expected, 4, apart)(policy))).max() < 0.02


def test_all_pairs_of_m_answers_weigh_as_the_law_but_for_a_constant():
    """Answers that meet themselves are left out: (m − 1)/m of P(one answer, then the other)."""
    for samples in (2, 5):
        (weight,), _ = Law.of(AllPairs(), samples, False)(np.log(START)[None])
        law = (samples - 1) / samples * 2 * np.outer(START, START) * (1 - np.eye(3))
        np.testing.assert_allclose(weight + weight.T, law, rtol=1e-6)  # fp32 weights


def test_a_curriculum_ends_as_best_against_second():
    for apart in (True, False):
        last, second = (Law.of(rule, 5, apart) for rule in (Curriculum().at(9), BestSecond()))
        np.testing.assert_array_equal(last.weight, second.weight)


def test_of_two_answers_the_certain_label_alone_changes_the_game():
    two, every = (Law.of(rule, 2, True) for rule in (BestWorst(SoftLabel()), AllPairs()))
    np.testing.assert_allclose(two.wanted - two.wanted.swapaxes(1, 2), 2 * (every.wanted - every.wanted.swapaxes(1, 2)))
