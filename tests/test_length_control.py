"""Length-controlled win rates: the model is recovered where it holds, and symmetric everywhere."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_rollouts import preferences, random_prefer
from scipy.optimize import minimize

from jaxalign.evals.intervals import estimated
from jaxalign.evals.length_control import RIDGE, length_controlled
from jaxalign.rollouts.shares import given as rollouts_of
from jaxalign.types import Preferences, Rollouts


def answers(lengths: np.ndarray) -> Rollouts:
    count, samples = lengths.shape
    tokens = np.ones((count, samples, int(lengths.max())), np.int32)
    return rollouts_of(np.ones((count, 2), np.int32), np.full(count, 2, np.int32), tokens, lengths.astype(np.int32))


def between(prefer: np.ndarray) -> np.ndarray:
    """[b m n] P(y_i ≻ y′_j) as a whole table; among a policy's own answers everything is even."""
    count, first, second = prefer.shape
    table = np.full((count, first + second, first + second), 0.5)
    table[:, :first, first:] = prefer
    table[:, first:, :first] = 1 - prefer.swapaxes(1, 2)
    return table


def drawn(theta: float, phi: float, count: int, seed: int = 0) -> tuple[Preferences, tuple[Rollouts, Rollouts]]:
    """Preferences exactly as the model says, of answers whose lengths differ at random, the first policy's longer."""
    generator = np.random.default_rng(seed)
    first, second = generator.integers(20, 80, (count, 1)), generator.integers(10, 60, (count, 1))
    longer = (first - second).astype(np.float64)
    effect = np.tanh(longer / longer.std())
    prefer = 1 / (1 + np.exp(-(theta + phi * effect)))
    return preferences(between(prefer[:, :, None])), (answers(first), answers(second))


def test_what_length_alone_wins_is_taken_out():
    found, pair = drawn(theta=0.0, phi=2.0, count=400)
    raw = found.prefer[:, 0, 1].mean()
    controlled = length_controlled(found, pair)
    assert raw > 0.6
    assert controlled.value == pytest.approx(0.5, abs=1e-3)
    assert controlled.low <= controlled.value <= controlled.high


def test_what_is_won_at_equal_length_stays():
    found, pair = drawn(theta=0.8, phi=-1.0, count=400)
    assert length_controlled(found, pair).value == pytest.approx(1 / (1 + np.exp(-0.8)), abs=1e-3)


def test_without_differences_in_length_it_is_the_win_rate():
    prefer = np.random.default_rng(1).uniform(size=(300, 1, 1))
    same = answers(np.full((300, 1), 7))
    controlled, raw = length_controlled(preferences(between(prefer)), (same, same)), estimated(prefer[:, 0, 0])
    # The ridge moves the rate a little, and the interval is made on the log-odds.
    for name in ("value", "stderr", "low", "high"):
        assert getattr(controlled, name) == pytest.approx(getattr(raw, name), abs=3e-4)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), samples=st.integers(1, 3))
def test_swapping_two_policies_gives_the_complement(seed, samples):
    generator = np.random.default_rng(seed)
    table = random_prefer(generator, 6, 2 * samples)
    one, other = (answers(generator.integers(1, 40, (6, samples))) for _ in range(2))
    swap = np.r_[samples : 2 * samples, :samples]
    there = length_controlled(preferences(table), (one, other))
    back = length_controlled(preferences(table[:, swap][:, :, swap]), (other, one))
    assert there.value + back.value == pytest.approx(1, abs=1e-6)
    assert there.low + back.high == pytest.approx(1, abs=1e-6)
    assert there.stderr == pytest.approx(back.stderr, rel=1e-5)


def test_it_is_the_maximum_that_a_general_optimizer_finds():
    generator = np.random.default_rng(5)
    table = random_prefer(generator, 30, 2)
    pair = tuple(answers(generator.integers(1, 40, (30, 1))) for _ in range(2))
    longer = (pair[0].lengths - pair[1].lengths)[:, 0].astype(np.float64)
    effect, prefer = np.tanh(longer / longer.std()), table[:, 0, 1].astype(np.float64)

    def objective(found: np.ndarray) -> float:
        odds = found[0] + found[1] * effect
        return float((np.logaddexp(0, odds) - prefer * odds).sum() + RIDGE / 2 * (found**2).sum())

    expected = minimize(objective, np.zeros(2), tol=1e-12).x[0]
    rate = length_controlled(preferences(table), pair).value
    assert np.log(rate / (1 - rate)) == pytest.approx(expected, abs=1e-5)


def test_a_policy_that_wins_everything_has_a_finite_rate_near_one():
    one, other = answers(np.arange(1, 65)[:, None]), answers(np.full((64, 1), 3))
    found = length_controlled(preferences(between(np.ones((64, 1, 1)))), (one, other))
    assert 0.99 < found.value < 1
    assert 0.85 < found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize(
    ("theta", "phi", "prompts", "least"), [(0.4, 1.0, 120, 0.93), (3.0, 1.0, 16, 0.95), (0.0, 2.0, 8, 0.95)]
)
def test_the_interval_covers_the_truth_as_often_as_it_says(theta, phi, prompts, least):
    """300 experiments each: three standard errors are 3.8 points."""
    covered = 0
    for seed in range(300):
        found, pair = drawn(theta, phi, prompts, seed)
        generator = np.random.default_rng(1000 + seed)
        votes = (generator.uniform(size=(prompts, 1, 1)) < found.prefer[:, :1, 1:]).astype(np.float64)
        controlled = length_controlled(preferences(between(votes)), pair)
        covered += controlled.low <= 1 / (1 + np.exp(-theta)) <= controlled.high
    assert covered / 300 >= least


def test_one_prompt_has_an_interval_and_no_error():
    found = length_controlled(preferences(between(np.full((1, 1, 1), 0.7))), (answers(np.array([[3]])),) * 2)
    assert found.stderr is None
    assert found.low < 0.2
    assert found.high > 0.9


def test_weights_count_answers():
    """An answer of weight 1 beside one of weight 0 is as if it stood alone."""
    generator = np.random.default_rng(2)
    lengths = generator.integers(1, 40, (20, 2))
    both, other = answers(lengths), answers(generator.integers(1, 40, (20, 1)))
    only = dataclasses.replace(both, weights=np.tile(np.array([1, 0], np.float32), (20, 1)))
    table = random_prefer(generator, 20, 3)
    alone = np.r_[0, 2]
    weighted = length_controlled(preferences(table), (only, other))
    single = length_controlled(preferences(table[:, alone][:, :, alone]), (answers(lengths[:, :1]), other))
    assert dataclasses.astuple(weighted) == pytest.approx(dataclasses.astuple(single), abs=1e-6)
