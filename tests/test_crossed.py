"""Intervals over seeds and prompts that cross: by hand, beside those of one seed, and how often they hold."""

import numpy as np
import pytest
from scipy import stats

from jaxalign.evals.intervals import effective, estimated
from jaxalign.report.crossed import crossed, over_seeds


def drawn(rng: np.random.Generator, seeds: int, prompts: int, spread: tuple[float, float, float]) -> np.ndarray:
    """Values around .6 whose seeds, prompts and both together vary by so much."""
    by_seed, by_prompt, both = spread
    seed, prompt = by_seed * rng.standard_normal((seeds, 1)), by_prompt * rng.standard_normal((1, prompts))
    return 0.6 + seed + prompt + both * rng.standard_normal((seeds, prompts))


def test_of_one_seed_it_is_the_interval_over_prompts():
    values = np.random.default_rng(0).uniform(size=20)
    one, many = estimated(values), crossed(values[None])
    assert (many.value, many.stderr) == pytest.approx((one.value, one.stderr))
    assert (many.low, many.high) == pytest.approx((one.low, one.high))


def test_by_hand():
    table = np.array([[0.2, 0.6, 0.7], [0.4, 0.8, 0.9]])
    found = crossed(table)
    assert found.value == pytest.approx(0.6)
    # without the two prompts more: means of seeds .5 and .7, of prompts .3, .7, .8
    assert found.stderr == pytest.approx(np.sqrt(0.02 / 2 + 0.07 / 3))
    # with them: seeds .5 and .62, prompts .3, .7, .8, 0, 1
    seeds, prompts = np.var([0.5, 0.62], ddof=1) / 2, np.var([0.3, 0.7, 0.8, 0.0, 1.0], ddof=1) / 5
    half = np.sqrt(seeds * stats.t.ppf(0.975, 1) ** 2 + prompts * stats.t.ppf(0.975, 4) ** 2)
    assert (found.low, found.high) == (max(0.0, 0.56 - half), min(1.0, 0.56 + half))


def test_where_all_agree_there_is_a_width_left():
    found = crossed(np.ones((3, 64)))
    assert found.value == found.high == 1.0
    assert 0.9 < found.low < 0.96


def test_a_difference_is_opposite_the_other_way_round():
    table = np.random.default_rng(0).uniform(-1, 1, (3, 10))
    one, other = crossed(table, bounds=None), crossed(-table, bounds=None)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


@pytest.mark.parametrize("spread", [(0.05, 0.0, 0.05), (0.0, 0.2, 0.1), (0.03, 0.15, 0.1), (0.002, 0.2, 0.02)])
def test_it_holds_whatever_varies_and_one_over_seeds_does_not(spread):
    """Of 1,000 draws of three seeds and 64 prompts; 1.3 % is two standard deviations of a share of 95 %."""
    rng = np.random.default_rng(0)
    tables = [drawn(rng, 3, 64, spread) for _ in range(1000)]
    for bounds in ((0.0, 1.0), None):
        found = [crossed(table, bounds) for table in tables]
        assert np.mean([each.low <= 0.6 <= each.high for each in found]) > 0.95 - 0.013
    seeds = [over_seeds(table.mean(1).tolist()) for table in tables]
    alone = np.mean([each.low <= 0.6 <= each.high for each in seeds])
    assert alone > 0.95 - 0.02 if spread[1] == 0 else alone < 0.92


def test_over_seeds_is_students_interval_and_one_seed_has_none():
    values = [0.61, 0.58, 0.66]
    found = over_seeds(values)
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert over_seeds([0.5]) is None


def test_seeds_that_agree_show_no_spread_and_get_no_interval():
    """Two seeds each 7 of 244 answers above the reference's: no certainty that the third would be too."""
    assert over_seeds([177 / 244 - 170 / 244, 180 / 244 - 173 / 244]) is None
    assert over_seeds([0.0, 0.0, 0.0]) is None
    assert over_seeds([0.1 + 0.2 - 0.3, 0.0]) is None
    assert over_seeds([170 / 244, 171 / 244]) is not None


@pytest.mark.parametrize("seed", range(5))
def test_of_one_seed_whose_prompts_do_not_count_alike_it_is_nearly_the_interval_over_prompts(seed):
    """Shares of pairs that count, as of `evals.comparable`: some prompts have none."""
    rng = np.random.default_rng(seed)
    values, share = rng.beta(2, 1.5, 64), rng.beta(0.4, 1.0, 64) * (rng.uniform(size=64) < 0.8)
    rate = share @ values / share.sum()
    one = estimated(values, share)
    linear = rate + share / share.mean() * (values - rate)
    found, alike = crossed(linear[None], effective=effective(share)), crossed(linear[None])
    assert (found.value, found.stderr) == pytest.approx((one.value, one.stderr))
    width = one.high - one.low
    assert (found.low, found.high) == pytest.approx((one.low, one.high), abs=0.06 * width)
    assert alike.high - alike.low < 0.95 * width, "taken as if they counted alike it is narrower"


def test_a_difference_of_prompts_that_do_not_count_alike_by_hand():
    """Six prompts that vary as three that count alike do: squares about the mean over 6 · (3 − 1), t of two degrees."""
    values = np.array([0.3, -0.3, 0.6, 0.0, 0.0, 0.0])
    found = crossed(values[None], bounds=None, effective=3.0)
    error = np.sqrt(((values - 0.1) ** 2).sum() / 6 / 6 * 3 / 2)
    assert (found.value, found.stderr) == pytest.approx((0.1, error))
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 2) * error)


@pytest.mark.parametrize("same", [True, False])
def test_differences_hold_where_prompts_do_not_count_alike(same):
    """Of 1,500 draws of two arms whose rates are equal: 16 prompts whose shares of pairs count as 6 that count alike,
    the same shares for both arms or not. A standard deviation of a share of 95 % is .6 %; a linearised rate of so few
    prompts is a little off, and holds less than 95 %. As if prompts counted alike it holds still less."""
    rng, held = np.random.default_rng(0), []
    for _ in range(1500):
        share = rng.beta(0.4, 1.0, (2, 16)) * (rng.uniform(size=(2, 16)) < 0.8)
        share[1] = share[0] if same else share[1]
        values = (rng.beta(2, 1.5, 16) + rng.beta(2, 1.5, (2, 16))) / 2
        rate = (share * values).sum(1, keepdims=True) / share.sum(1, keepdims=True)
        linear = rate + share / share.mean(1, keepdims=True) * (values - rate)
        count = min(map(effective, share))
        if count >= 2:
            table = linear[:1] - linear[1:]
            found = [crossed(table, bounds=None, effective=each) for each in (count, None)]
            held.append([each.low <= 0 <= each.high for each in found])
    weighed, alike = np.mean(held, 0)
    assert weighed > 0.95 - 0.03
    assert alike < 0.92
