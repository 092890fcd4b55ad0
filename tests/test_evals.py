"""Evals: what all of them keep, then relations and values by hand of most."""

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
from made_heldout import held_out, listed, panel
from made_rollouts import random_prefer, rollouts
from made_runs import run_here, tiny_lm

import jaxalign.evals
from jaxalign.evals.context import Asks, Eval, HeldOut, iterate_name, iterate_number
from jaxalign.evals.cycles import cycle_metrics
from jaxalign.evals.drift import Drift
from jaxalign.evals.exact_nash import ExactNash
from jaxalign.evals.judges_apart import JudgesApart
from jaxalign.evals.text import Text
from jaxalign.evals.win_rate import WinRate
from jaxalign.evaluate import measure
from jaxalign.oracles.annotators import Brevity
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.oracles.tabular import TabularGame
from jaxalign.training.logps import Scorer

EVALS = examples(jaxalign.evals, Eval, least=5)


@pytest.fixture(params=EVALS.values(), ids=named)
def measurement(request):
    return request.param


@pytest.mark.parametrize("policies", [1, 2, 3])
def test_metrics_are_finite_numbers_and_the_same_each_time(measurement, policies):
    made = listed if isinstance(measurement, ExactNash) else lambda context: context
    first, second = (measurement(made(held_out(policies))) for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert all(type(value) is float for value in first.values())


def test_equal_evals_are_equal_values_and_meet_the_contract(measurement):
    assert isinstance(measurement, Eval)
    assert hash(measurement) == hash(dataclasses.replace(measurement))
    assert measurement == dataclasses.replace(measurement)
    assert list(getattr(measurement, "problems", list)()) == []


@pytest.mark.parametrize("policies", [1, 2, 3])
def test_an_eval_asks_the_oracle_what_it_says_that_it_asks(measurement, policies):
    """So many answers side by side as the policies that it names have, so often; and another run's."""
    asked: list[int] = []

    def oracle(given_rollouts, key):
        asked.append(given_rollouts.lengths.shape[1])
        return panel()(given_rollouts, key)

    context = held_out(policies, oracle=oracle)
    context = listed(context) if isinstance(measurement, ExactNash) else context
    context = dataclasses.replace(context, others={"other-1": context.responses["base"]})
    measurement(context)
    sides = measurement.asks(context.names, tuple(context.others)) if isinstance(measurement, Asks) else ()
    assert sorted(asked) == sorted(2 * len(each) for each in set(sides))
    assert isinstance(measurement, Asks) == bool({"oracle", "users"} & set(measurement.needs))


def test_judges_that_are_one_are_nowhere_apart():
    metrics = JudgesApart()(held_out(3, trainer=panel()))
    assert metrics["judges/apart"] == metrics["judges/apart_stderr"] == 0.0
    assert metrics["judges/apart_ci95_low"] == -metrics["judges/apart_ci95_high"]
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

    def counted(scorer, params, given_rollouts, rule):
        passes.append(len(given_rollouts.prompts))
        return whole(scorer, params, given_rollouts, rule)

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
