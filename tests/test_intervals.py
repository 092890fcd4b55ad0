"""Intervals of means over prompts: they cover the truth near the bounds and for few prompts, relations, by hand."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_coverage import DISTRIBUTIONS, coverage

from jaxalign.evals.intervals import EVEN, Estimate, beside, effective, estimated, told
from jaxalign.evals.pairs import bounded_interval
from jaxalign.training.pair_scores import weighted_mean


def ends(values: np.ndarray) -> tuple[float, float]:
    found = estimated(values)
    return found.low, found.high


@pytest.mark.parametrize("prompts", [4, 8, 16, 64, 200])
def test_intervals_cover_the_truth_as_often_as_they_say(prompts):
    """1,000 experiments each, seeded. What is least over all, 93.2 %, is within three standard errors (2.1 points) of
    the 93.7 % that 4,000 experiments have where it is least; a plain t interval covers a coin of 0.95 in a third of 8
    prompts."""
    found = {name: coverage(ends, each, prompts, 1000)[0] for name, each in DISTRIBUTIONS.items()}
    assert min(found.values()) >= 0.925, found


def test_several_answers_a_prompt_make_the_interval_shorter():
    one, six = (coverage(ends, DISTRIBUTIONS[name], 64, 200)[1] for name in ("one answer each", "six answers each"))
    # Variances of a prompt's rate: 0.0164 and 0.0055; the prompts that are added bring (0.62² + 0.38²) / 65 to both.
    assert six / one == pytest.approx(np.sqrt((0.0055 + 0.0081) / (0.0164 + 0.0081)), rel=0.03)


def test_by_hand():
    """Eight prompts, all won: of ten with the two added the mean is 0.9 and its error sqrt(0.1 / 10) = 0.1; Student's t
    of 9 degrees of freedom is 2.262157. Three of 1/2: mean 1/2, variance (1/4 + 1/4) / 4, t of 4 is 2.776445."""
    won = estimated(np.ones(8))
    assert (won.value, won.stderr, won.high) == (1.0, 0.0, 1.0)
    assert won.low == pytest.approx(0.9 - 0.2262157)
    even = estimated(np.full(3, 0.5))
    assert even.low == pytest.approx(0.5 - 2.776445 * np.sqrt(0.125 / 5), abs=1e-6)


def test_of_prompts_that_are_all_won_the_end_is_that_of_the_rule_of_three():
    for prompts in (30, 100, 1000):
        low = estimated(np.ones(prompts)).low
        assert low == pytest.approx(1 - 3 / prompts, abs=0.25 / prompts)


def test_many_prompts_have_the_usual_interval():
    values = np.random.default_rng(0).uniform(size=4000)
    found = estimated(values)
    assert found.stderr == pytest.approx(values.std(ddof=1) / np.sqrt(4000))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * found.stderr, rel=2e-3)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), prompts=st.integers(1, 12))
def test_the_interval_is_around_the_mean_within_the_bounds_and_mirrored(seed, prompts):
    generator = np.random.default_rng(seed)
    values, share = generator.choice([0.0, 0.3, 1.0], prompts), generator.choice([0.0, 0.5, 2.0], prompts)
    share[0] = 1.0
    found, mirrored = estimated(values, share), estimated(1 - values, share)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert mirrored.low == pytest.approx(1 - found.high)
    assert mirrored.value == pytest.approx(1 - found.value)
    moved = estimated(2 * values - 1, share, (-1.0, 1.0))
    for name in ("low", "value", "high"):
        assert getattr(moved, name) == pytest.approx(2 * getattr(found, name) - 1, abs=1e-12)


def test_what_has_no_share_is_not_there_and_equal_shares_are_no_shares():
    values = np.array([0.2, 0.9, 0.4, 0.6])
    assert estimated(values, np.array([1.0, 1.0, 0.0, 1.0])) == estimated(values[[0, 1, 3]])
    assert dataclasses.astuple(estimated(values, np.full(4, 7.0))) == pytest.approx(
        dataclasses.astuple(estimated(values))
    )
    assert effective(np.array([1.0, 1.0, 1.0])) == 3
    assert effective(np.array([5.0, 0.0])) == 1


def test_a_ratio_of_unequal_shares_covers_its_truth():
    """Prompts whose share of pairs goes along with what they are worth: the ratio is not the mean of the prompts."""
    generator, covered = np.random.default_rng(0), 0
    for _ in range(600):
        share = generator.uniform(size=40) ** 2
        values = (generator.uniform(size=40) < 0.5 + 0.4 * share).astype(float)
        found = estimated(values, share)
        # E s (0.5 + 0.4 s) / E s of s = u²: moments 1/3 and 1/5.
        covered += found.low <= 0.5 + 0.4 * (1 / 5) / (1 / 3) <= found.high
    assert covered / 600 >= 0.93


def test_one_prompt_says_little_and_has_no_error():
    found = estimated(np.array([0.8]))
    assert found.stderr is None
    assert (found.low, found.high) == (0.0, 1.0)


def test_pairs_of_one_prompt_are_one_draw():
    """100 pairs that agree in two prompts are two observations."""
    right, ones = np.ones(100), np.ones(100)
    apart = bounded_interval(right, ones, np.arange(100))
    together = bounded_interval(right, ones, np.repeat([0, 1], 50))
    assert apart == (estimated(right).low, 1.0)
    assert together == (estimated(np.ones(2)).low, 1.0)
    tied = np.where(np.arange(100) % 2, np.nan, 1.0)
    assert bounded_interval(tied, ones, np.arange(100)) == (estimated(np.ones(50)).low, 1.0)
    assert bounded_interval(np.full(3, np.nan), np.ones(3), np.arange(3)) == (0.0, 1.0)
    assert weighted_mean(tied, ones) == 1.0


def test_metrics_by_name_and_lines_for_a_person():
    metrics = Estimate(0.625, 0.05, 0.5, 0.75).metrics("rate") | {"nats": 1.5, "nats_stderr": 0.25, "lone_stderr": 2.0}
    assert told(metrics).splitlines() == [
        f"  {'lone_stderr':<40} 2",
        f"  {'nats':<40} 1.5  ± 0.25",
        f"  {'rate':<40} 0.625  [0.5, 0.75]",
    ]
    assert [name for name in metrics if beside(name, metrics)] == [
        "rate_stderr",
        "rate_ci95_low",
        "rate_ci95_high",
        "nats_stderr",
    ]
    assert "rate_stderr" not in Estimate(0.5, None, 0.0, 1.0).metrics("rate")
    assert EVEN.metrics("rate")["rate_stderr"] == 0.0
