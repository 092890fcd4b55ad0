"""Evals: relations, then values by hand, the golden numbers of the three-action game, and coverage of the intervals."""

import dataclasses
import itertools
import json
from typing import ClassVar

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_examples import examples, named
from made_rollouts import random_prefer, rollouts
from made_runs import run_here, tiny_lm

import jaxalign.evals
from jaxalign.errors import DataError
from jaxalign.evals.context import Eval, HeldOut, iterate_name, iterate_number
from jaxalign.evals.cycles import Cycles, cycle_metrics
from jaxalign.evals.drift import Drift
from jaxalign.evals.judges_apart import JudgesApart
from jaxalign.evals.nash_gap import NashGap, action_probabilities, duality_gap
from jaxalign.evals.side_by_side import side_by_side
from jaxalign.evals.text import Text
from jaxalign.evals.win_rate import (
    WinRate,
    between,
    bootstrap_interval,
    format_matrix,
    win_rate_matrix,
)
from jaxalign.evaluate import measure
from jaxalign.oracles.annotators import Brevity, Coverage, NonRepetition
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.oracles.tabular import TabularGame
from jaxalign.training.logps import Scorer
from jaxalign.training.pair_scores import PairScores

NASH = (4 / 11, 3 / 11, 4 / 11)
EVALS = examples(jaxalign.evals, Eval, least=5)

ASKED = ["Why does bread rise?", "Name a good book about the sea and say why.", "How do birds find their way?"]
ANSWERS = [
    [
        ["Yeast makes gas in the dough.", "Bread rises because of gas, gas and gas"],
        ["Moby Dick, for its whale.", ""],
        ["By the sun.", "They look at the stars, and they feel the earth."],
    ],
    [
        ["Gas.", "The dough is full of gas from yeast."],
        ["Try Moby Dick.", "Moby Dick is about the sea and a whale."],
        ["By the sun.", "By the sun and"],
    ],
    [
        ["Gas makes the bread rise.", "Yeast."],
        ["I do not know any book about the sea.", "Moby Dick, by Melville."],
        ["Birds see the sun", "Birds."],
    ],
]

PAIRS = PairScores(
    loss=np.array([0.3, 0.7, 1.1], np.float32),
    sums=np.array([[-2.0, -3.0], [-4.0, -3.5], [-1.0, -1.0]], np.float32),
    anchor=np.zeros((3, 2), np.float32),
    prefer=np.array([1.0, 0.8, 0.5], np.float32),
    weight=np.ones(3, np.float32),
    prompt=np.arange(3),
    lengths=np.array([[3, 4], [5, 2], [2, 2]]),
)


def panel() -> Panel:
    return Panel((Weighted(Brevity(), 1.0, 0.2), Weighted(Coverage(), 1.0, 0.1), Weighted(NonRepetition(), 1.0, 0.1)))


def held_out(policies: int = 3, oracle=None, key=None, trainer=None) -> HeldOut:
    """Three prompts, two answers from each of up to three policies; the last finds 1/4 nat more than the others."""
    names = ("base", "iterate-1", "iterate-2")[:policies]
    responses = {name: rollouts(ANSWERS[index], ASKED) for index, name in enumerate(names)}
    return HeldOut(
        prompts=responses["base"].prompts,
        responses=responses,
        judge=oracle or panel(),
        score=lambda name, given_rollouts: given_rollouts.logps.sum(-1) - 0.25 * (name != names[-1]),
        key=jax.random.key(0) if key is None else key,
        trainer=trainer or Panel((Weighted(Brevity(), 1.0, 0.1),)),
        pairs=PAIRS,
    )


@pytest.fixture(params=EVALS.values(), ids=named)
def measurement(request):
    return request.param


@pytest.mark.parametrize("policies", [1, 2, 3])
def test_metrics_are_finite_numbers_and_the_same_each_time(measurement, policies):
    first, second = (measurement(held_out(policies)) for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert all(type(value) is float for value in first.values())


def test_equal_evals_are_equal_values_and_meet_the_contract(measurement):
    assert isinstance(measurement, Eval)
    assert hash(measurement) == hash(dataclasses.replace(measurement))
    assert measurement == dataclasses.replace(measurement)
    assert list(getattr(measurement, "problems", list)()) == []


def test_judges_that_are_one_are_nowhere_apart():
    metrics = JudgesApart()(held_out(3, trainer=panel()))
    assert metrics["judges/apart"] == metrics["judges/apart_ci95_low"] == metrics["judges/apart_ci95_high"] == 0.0
    assert metrics["judges/win_rate_trainer"] == metrics["judges/win_rate_oracle"]
    assert metrics["judges/agreement"] == 1.0


def test_judges_apart_by_hand():
    """Brevity alone against its opposite: what one wins the other loses."""

    class Opposite:
        def __call__(self, given_rollouts, key):
            told = Panel((Weighted(Brevity(), 1.0, 0.1),))(given_rollouts, key)
            return dataclasses.replace(told, prefer=1 - told.prefer, by_annotator=1 - told.by_annotator)

    metrics = JudgesApart()(held_out(3, oracle=Opposite(), trainer=Panel((Weighted(Brevity(), 1.0, 0.1),))))
    assert metrics["judges/win_rate_trainer"] == pytest.approx(1 - metrics["judges/win_rate_oracle"])
    assert metrics["judges/apart"] == pytest.approx(2 * metrics["judges/win_rate_trainer"] - 1)
    assert metrics["judges/agreement"] == 0.0


def test_an_oracle_is_asked_about_two_policies_once():
    calls = []

    def oracle(given_rollouts, key):
        calls.append(given_rollouts.lengths.shape)
        return panel()(given_rollouts, key)

    context = held_out(3, oracle=oracle)
    WinRate(against=("base", "previous"))(context)
    JudgesApart()(context)
    assert len(calls) == 2


# ----------------------------------------------------------------------------------------------------------------------
# Who is compared


def test_opponents_by_role():
    context = held_out(3)
    assert context.current is context.responses["iterate-2"]
    assert [context.opponent(role) for role in ("base", "previous", "iterate-1", "iterate-9")] == [
        "base",
        "iterate-1",
        "iterate-1",
        None,
    ]
    alone = held_out(1)
    assert [alone.opponent(role) for role in ("base", "previous")] == ["base", None]


def test_names_of_iterates_there_and_back():
    assert [iterate_name(number) for number in (0, 1, 12)] == ["base", "iterate-1", "iterate-12"]
    assert [iterate_number(iterate_name(number)) for number in range(12)] == list(range(12))
    assert {iterate_number(name) for name in ("iterate-0", "iterate-01", "iterate-", "iterate-²", "previous", "7")} == {
        None
    }


@pytest.mark.parametrize("measured", [WinRate, Drift])
def test_unknown_opponents_are_named(measured):
    (sentence,) = measured(against=("base", "iterate-3", "bsae")).problems()
    assert "'bsae'" in sentence
    assert list(measured(against=()).problems())


# ----------------------------------------------------------------------------------------------------------------------
# Win rates


def test_a_policy_against_itself_is_exactly_even():
    metrics = WinRate()(held_out(1))
    assert set(metrics.values()) == {0.5}
    assert "win_rate/vs_previous" not in metrics


def test_win_rate_is_the_mean_over_all_pairs_of_answers():
    context = held_out(2)
    metrics = WinRate(against=("base",))(context)
    rates = []
    for index, asked in enumerate(ASKED):
        pairs = itertools.product(ANSWERS[1][index], ANSWERS[0][index])
        rates.append(np.mean([panel()(rollouts([list(pair)], asked), context.key).prefer[0, 0, 1] for pair in pairs]))
    np.testing.assert_allclose(metrics["win_rate/vs_base"], np.mean(rates), rtol=1e-6)
    assert metrics["win_rate/vs_base_ci95_low"] <= metrics["win_rate/vs_base"] <= metrics["win_rate/vs_base_ci95_high"]
    each = [metrics[f"win_rate/vs_base/{name}"] for name in panel().names]
    np.testing.assert_allclose(np.mean(each), metrics["win_rate/vs_base"], rtol=1e-6)  # equal weights


def test_the_matrix_is_the_win_rates_and_its_complements_are_exact():
    names, matrix = win_rate_matrix(held_out(3))
    assert names == ("base", "iterate-1", "iterate-2")
    np.testing.assert_array_equal(matrix + matrix.T, np.ones((3, 3)))
    np.testing.assert_array_equal(np.diagonal(matrix), np.full(3, 0.5))
    np.testing.assert_allclose(matrix[2, 0], WinRate()(held_out(3))["win_rate/vs_base"], atol=1e-12)  # order of sums
    np.testing.assert_allclose(matrix[2, 1], WinRate()(held_out(3))["win_rate/vs_previous"], atol=1e-12)


def test_swapping_two_policies_swaps_their_win_rates():
    context = held_out(2)
    swapped = dataclasses.replace(context, responses=dict(reversed(context.responses.items())))
    forward, backward = (WinRate(against=("base",))(c)["win_rate/vs_base"] for c in (context, swapped))
    assert forward + backward == 1.0


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_between_is_the_weighted_mean_and_complements_exactly(seed, sizes):
    rng = np.random.default_rng(seed)
    prefer = random_prefer(rng, 5, sum(sizes), ties=0.2)
    weights = [rng.dirichlet(np.ones(size), 5).astype(np.float32) for size in sizes]
    policies = [rollouts([["x"] * size] * 5, weights=each) for size, each in zip(sizes, weights, strict=True)]
    table = between(prefer, policies)
    np.testing.assert_array_equal(table + table.swapaxes(1, 2), np.ones_like(table))
    np.testing.assert_array_equal(table.mean(0) + table.mean(0).T, np.ones(table.shape[1:]))
    last = prefer[:, -sizes[-1] :, : sizes[0]].astype(np.float64)
    expected = np.einsum("bi,bij,bj->b", weights[-1], last, weights[0])
    np.testing.assert_allclose(table[:, -1, 0], expected, atol=1e-6)  # fp32 weights sum to 1 within 1e-7


def test_policies_with_different_numbers_and_lengths_of_answers_are_laid_side_by_side():
    short = rollouts([["a", "b", "c"]], tokens=np.full((1, 3, 2), 7, np.int32))
    long = rollouts([["d"]], tokens=np.full((1, 1, 5), 8, np.int32))
    both = side_by_side([short, long])
    assert both.texts == (("a", "b", "c", "d"),)
    assert both.tokens.tolist() == [[[7, 7, 0, 0, 0]] * 3 + [[8] * 5]]
    assert both.lengths.tolist() == [[2, 2, 2, 5]]
    np.testing.assert_allclose(both.weights.sum(), 1.0)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (["Why?", "Who else?"], "prompt 1 is p1 'Who?' to one policy and p1 'Who else?' to another"),
        (["Who?", "Why?"], "prompt 0 is p0 'Why?' to one policy and p0 'Who?' to another"),
        (["Why?"], "prompt 1 is p1 'Who?' to one policy and absent to another"),
        (["Why?", "Who?", "When?"], "prompt 2 is absent to one policy and p2 'When?' to another"),
    ],
)
def test_answers_to_different_prompts_are_never_compared(asked, named):
    policies = [rollouts([["a"]] * 2, ["Why?", "Who?"]), rollouts([["b"]] * len(asked), asked)]
    with pytest.raises(DataError) as refused:
        side_by_side(policies)
    assert named in str(refused.value)
    names = ("base", "iterate-1")
    context = dataclasses.replace(held_out(2), responses=dict(zip(names, policies, strict=True)))
    for measured in (WinRate(), Cycles(), win_rate_matrix):
        with pytest.raises(DataError, match="different prompts"):
            measured(context)


def test_one_id_or_one_text_alone_does_not_make_two_prompts_one():
    one = rollouts([["a"]], "Why?")
    (asked,) = one.prompts
    same = dataclasses.replace(one, prompts=(dataclasses.replace(asked),))
    assert side_by_side([one, same]).prompts == one.prompts
    for other in (dataclasses.replace(asked, id="q"), dataclasses.replace(asked, tools='[{"name": "f"}]')):
        with pytest.raises(DataError, match="different prompts"):
            side_by_side([one, dataclasses.replace(one, prompts=(other,))])


def test_intervals_are_seeded_contain_the_mean_and_shrink_with_prompts(key):
    rng = np.random.default_rng(0)
    small, large = rng.uniform(size=40), rng.uniform(size=4000)
    low, high = bootstrap_interval(small, key, 2000)
    assert (low, high) == bootstrap_interval(small, key, 2000)
    assert (low, high) != bootstrap_interval(small, jax.random.key(1), 2000)
    assert low < small.mean() < high
    width = np.subtract(*bootstrap_interval(large, key, 500)[::-1])
    np.testing.assert_allclose(width, 2 * 1.96 * large.std() / np.sqrt(4000), rtol=0.15)  # 500 resamples: 5 % noise


def test_intervals_cover_the_truth_as_often_as_they_say():
    """60 prompts of win rates .2, .5 or .9: the 95 % interval misses the true mean in 3 to 9 % of 400 experiments.

    The percentile interval undercovers a little at 60 prompts; three standard errors of 400 draws are 3.3 points.
    """
    rng = np.random.default_rng(0)
    levels, shares = np.array([0.2, 0.5, 0.9]), [0.3, 0.3, 0.4]
    covered = 0
    for experiment in range(400):
        values = rng.choice(levels, size=60, p=shares)
        low, high = bootstrap_interval(values, jax.random.key(experiment), 500)
        covered += low <= levels @ shares <= high
    assert 0.91 <= covered / 400 <= 0.975


def test_resamples_must_be_positive():
    assert list(WinRate(resamples=0).problems()) == ["resamples must be at least 1, got 0"]


def test_the_table_of_win_rates_is_plain_text():
    table = format_matrix(("base", "iterate-1"), np.array([[0.5, 0.275], [0.725, 0.5]]))
    assert table == "            base  iterate-1\nbase        50.0       27.5\niterate-1   72.5       50.0"


# ----------------------------------------------------------------------------------------------------------------------
# Cycles

ROCK_PAPER_SCISSORS = np.float32([[0.5, 0, 1], [1, 0.5, 0], [0, 1, 0.5]])
RANKING = np.float32([[0.5, 0.6, 0.9], [0.4, 0.5, 0.7], [0.1, 0.3, 0.5]])
TIE = np.float32([[0.5, 0.5, 1], [0.5, 0.5, 0], [0, 1, 0.5]])


def test_cycles_by_hand():
    expected = {
        "cycles/cyclic_triples": 1.0,
        "cycles/strict_triples": 1.0,
        "cycles/condorcet_winner": 0.0,
        "cycles/ties": 0.0,
    }
    assert cycle_metrics(ROCK_PAPER_SCISSORS[None]) == expected
    assert cycle_metrics(RANKING[None]) == expected | {"cycles/cyclic_triples": 0.0, "cycles/condorcet_winner": 1.0}
    tied = cycle_metrics(TIE[None])
    assert tied["cycles/cyclic_triples"] == tied["cycles/strict_triples"] == 0.0
    np.testing.assert_allclose(tied["cycles/ties"], 1 / 3)
    assert cycle_metrics(np.stack([ROCK_PAPER_SCISSORS, RANKING, TIE]))["cycles/cyclic_triples"] == 0.5


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), samples=st.integers(1, 6))
def test_cycles_agree_with_looking_at_every_triple(seed, samples):
    prefer = random_prefer(np.random.default_rng(seed), 3, samples, ties=0.25)
    cyclic = strict = winners = 0
    for table in prefer:
        for i, j, k in itertools.combinations(range(samples), 3):
            chances = table[i, j], table[j, k], table[k, i]
            strict += 0.5 not in chances
            cyclic += all(p > 0.5 for p in chances) or all(p < 0.5 for p in chances)
        winners += any(all(table[i, j] > 0.5 for j in range(samples) if j != i) for i in range(samples))
    metrics = cycle_metrics(prefer)
    np.testing.assert_allclose(metrics["cycles/cyclic_triples"], cyclic / max(strict, 1))
    np.testing.assert_allclose(metrics["cycles/condorcet_winner"], winners / 3)
    triples = 3 * samples * (samples - 1) * (samples - 2) // 6
    np.testing.assert_allclose(metrics["cycles/strict_triples"], strict / max(triples, 1))


# ----------------------------------------------------------------------------------------------------------------------
# Drift


def test_drift_is_the_mean_log_ratio_of_own_answers_and_ignores_padding():
    logps = np.float32([[[-1, -2, 99], [-3, np.nan, np.nan]], [[-1, -1, -1], [-2, 7, 7]]])
    lengths = np.array([[2, 1], [3, 1]], np.int32)
    answers = rollouts([["a", "b"], ["c", "d"]], tokens=np.zeros((2, 2, 3), np.int32), lengths=lengths, logps=logps)
    base = np.array([[-4.0, -4.0], [-3.5, -5.0]])  # log-ratios 1, 1 and .5, 3
    context = HeldOut(
        prompts=answers.prompts,
        responses={"base": rollouts([["x"], ["y"]]), "iterate-1": answers},
        judge=panel(),
        score=lambda name, given_rollouts: base,
        key=jax.random.key(0),
    )
    metrics = Drift()(context)
    np.testing.assert_allclose(metrics["drift/kl_from_base_nats"], 1.375)
    np.testing.assert_allclose(metrics["drift/kl_from_base_nats_stderr"], (1.75 - 1) / 2)
    np.testing.assert_allclose(metrics["drift/kl_from_base_nats_per_token"], 1.375 / 1.75)


def test_drift_of_enumerated_answers_is_the_divergence_itself():
    policy, base = np.float64([0.2, 0.5, 0.3]), np.float64([0.1, 0.3, 0.6])
    answers = rollouts(
        [list("abc")], weights=policy[None].astype(np.float32), logps=np.log(policy)[None, :, None].astype(np.float32)
    )
    context = HeldOut(
        prompts=answers.prompts,
        responses={"base": answers, "iterate-1": answers},
        judge=TabularGame(),
        score=lambda name, given_rollouts: np.log(base)[None],
        key=jax.random.key(0),
    )
    metrics = Drift()(context)
    np.testing.assert_allclose(metrics["drift/kl_from_base_nats"], policy @ np.log(policy / base), rtol=1e-6)  # fp32


@dataclasses.dataclass(frozen=True)
class Nats:
    """An eval that reads what `Drift` reads."""

    needs: ClassVar[tuple[str, ...]] = ("answers",)

    def __call__(self, context: HeldOut) -> dict[str, float]:
        return {f"nats/{name}": float(context.logps(name).mean()) for name in context.names}


def test_evals_share_the_log_probs_of_an_answer_and_what_judges_say():
    """However many roles a policy has, and however many evals ask."""
    passes: list[str] = []
    context = held_out(2)

    def counted(name, given_rollouts):
        assert given_rollouts is context.current
        passes.append(name)
        return context.score(name, given_rollouts)

    judged: list[str] = []

    def trainer(given_rollouts, key):
        judged.append("trainer")
        return panel()(given_rollouts, key)

    shared = dataclasses.replace(context, score=counted, trainer=trainer)
    alone = measure((Drift(("base", "previous")), Nats(), JudgesApart()), shared)
    shared.by_trainer()
    assert passes == ["base", "iterate-1"]
    assert judged == ["trainer"]
    assert alone["drift/kl_from_base_nats"] == alone["drift/kl_from_previous_nats"] != 0


def test_a_run_scores_each_answer_once_under_a_policy(tmp_path, monkeypatch):
    """Two iterations: the base is also the policy before the first, and no other pass is made than by the roles."""
    passes: list[int] = []
    whole = Scorer.rollouts

    def counted(scorer, params, given_rollouts):
        passes.append(len(given_rollouts.prompts))
        return whole(scorer, params, given_rollouts)

    monkeypatch.setattr(Scorer, "rollouts", counted)
    made = tiny_lm()
    evals = (Drift(("base", "previous")), Nats())
    run_here(dataclasses.replace(made, evaluation=dataclasses.replace(made.evaluation, evals=evals)), tmp_path / "run")
    assert len(passes) == 1 + 2 + 3


# ----------------------------------------------------------------------------------------------------------------------
# Text


def test_text_statistics_by_hand():
    answers = rollouts([["One two one two.", "One two one two."], ["Three!", ""]])
    context = dataclasses.replace(held_out(1), prompts=answers.prompts, responses={"base": answers})
    metrics = Text()(context)
    expected = {
        "text/words": 9 / 4,
        "text/tokens": 1.0,
        "text/finished": 1.0,
        "text/repeated_ngrams": 2 * ((1 / 3) / 3) / 4,  # three bigrams, two distinct; no longer n-gram repeats
        "text/duplicates": 1 / 4,
        "text/empty": 1 / 4,
        "text/distinct_1": 3 / 9,
        "text/distinct_2": 2 / 6,
        "text/distinct_3": 2 / 4,
    }
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, err_msg=name)


# ----------------------------------------------------------------------------------------------------------------------
# Nash gap


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
