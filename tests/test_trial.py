"""Held-out pairs inside a fit: when they are scored, what is kept, when it ends, and that a stop changes nothing."""

import dataclasses

import jax
import numpy as np
import pytest
from made_pairs import dpo, worsening
from made_runs import lines_of, run_here, same_when_stopped

from jaxalign.evals.pairs import interval
from jaxalign.training.evaluations import Evaluations
from jaxalign.training.pair_scores import PairScores
from jaxalign.training.step import Fit

# --------------------------------------------------------------------------------------------------------------
# Evaluations


def test_evaluations_are_due_every_so_many_steps_and_at_the_end():
    seen = Evaluations(Fit(evaluate_every=3), total=7)
    assert [step for step in range(8) if seen.due(step)] == [3, 6, 7]
    seen.losses[3] = 1.0
    assert not seen.due(3)
    assert not any(Evaluations(Fit(), total=7).due(step) for step in range(8))


def test_the_best_is_the_first_of_the_least_and_states_that_a_checkpoint_may_need_stay():
    seen = Evaluations(Fit(evaluate_every=1, patience=3), 9, {1: 0.5, 2: 0.4, 3: 0.6, 4: 0.4, 5: 0.3, 6: 0.7})
    assert seen.best() == 5
    assert seen.best(until=4) == 2
    assert seen.kept([4, 6]) == {2, 5}
    assert seen.kept([]) == {5}


def test_a_fit_ends_when_so_many_evaluations_are_no_better():
    losses = [0.5, 0.4, 0.4, 0.41, 0.5]
    over = []
    seen = Evaluations(Fit(evaluate_every=1, patience=3), 9)
    for step, loss in enumerate(losses, 1):
        seen.losses[step] = loss
        over.append(seen.over)
    assert over == [False, False, False, False, True]
    assert not Evaluations(Fit(evaluate_every=1), 9, dict(enumerate(losses, 1))).over


# --------------------------------------------------------------------------------------------------------------
# Scores


def scores(sums, prefer, weight=(1.0, 1.0, 1.0, 1.0)) -> PairScores:
    sums = np.asarray(sums, np.float32)
    loss = np.arange(len(sums), dtype=np.float32)
    prefer, weight = np.asarray(prefer, np.float32), np.asarray(weight, np.float32)
    return PairScores(loss, sums, np.zeros_like(sums), prefer, weight, np.arange(len(sums)), np.ones(sums.shape, int))


def test_accuracy_is_of_pairs_that_are_no_tie_and_half_where_the_margin_is_zero():
    found = scores([[2, 1], [1, 3], [5, 5], [9, 0]], [1.0, 0.9, 0.8, 0.5])
    np.testing.assert_array_equal(found.right, [1.0, 0.0, 0.5, np.nan])
    assert found.metrics() == {"loss": 1.5, "accuracy": 0.5, "margin_nats": 2.0}
    weighed = scores([[2, 1], [1, 3], [5, 5], [9, 0]], [1.0, 0.9, 0.8, 0.5], (3.0, 1.0, 0.0, 7.0))
    assert weighed.metrics()["accuracy"] == 0.75


def test_intervals_draw_prompts_with_all_their_pairs():
    """Pairs of one prompt that all agree are one observation: the interval is wide, however many there are."""
    values, ones = np.repeat([0.0, 1.0], 50), np.ones(100)
    apart = interval(values, ones, np.arange(100), jax.random.key(0), 500)
    together = interval(values, ones, np.repeat([0, 1], 50), jax.random.key(0), 500)
    assert together == (0.0, 1.0)
    # the binomial's 95 % are 0.5 ± 0.098
    assert apart == (pytest.approx(0.4, abs=0.03), pytest.approx(0.6, abs=0.03))


# --------------------------------------------------------------------------------------------------------------
# Fits


def test_a_policy_that_is_its_own_anchor_has_no_margin_and_guesses(tmp_path):
    summary = run_here(dpo(), tmp_path)
    base, last = lines_of(tmp_path, "evals")
    assert base["heldout/margin_nats"] == 0.0
    assert base["heldout/accuracy"] == 0.5
    assert base["heldout/loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert last["heldout/loss"] < base["heldout/loss"]
    inside = lines_of(tmp_path, "heldout")
    assert [line["step"] for line in inside] == [2, 4, 6, 7]
    # the state that was kept is the policy that is evaluated, by the same program
    assert min(line["heldout/loss"] for line in inside) == last["heldout/loss"] == summary["heldout_loss"]
    low, high = summary["heldout_accuracy_ci95"]
    assert low <= summary["heldout_accuracy"] <= high
    assert "win_rates" not in summary
    assert "samples" not in summary


@pytest.mark.parametrize(("keep", "step"), [("best", 2), ("last", 6)])
def test_a_fit_ends_early_and_keeps_the_best_or_the_last(tmp_path, keep, step):
    run_here(worsening("--fit.keep", keep, "--fit.patience", "2"), tmp_path)
    inside = lines_of(tmp_path, "heldout")
    assert [line["step"] for line in inside] == [2, 4, 6]
    assert len(lines_of(tmp_path, "fit")) == 6
    (kept,) = lines_of(tmp_path, "kept")
    assert (kept["fit/steps"], kept["fit/kept_step"]) == (6.0, float(step))
    losses = {line["step"]: line["heldout/loss"] for line in inside}
    assert min(losses, key=losses.__getitem__) == 2
    assert lines_of(tmp_path, "evals")[-1]["heldout/loss"] == losses[step]
    assert not (tmp_path / "0000" / "best").exists()


@pytest.mark.parametrize("every", [11, 14])
def test_a_fit_that_is_stopped_again_and_again_ends_with_the_same_bits(tmp_path, every):
    """Every launch is asked to stop at its `every`-th question: between phases, between steps, inside evaluations."""
    experiment = dataclasses.replace(worsening("--fit.patience", "2"), evaluation=worsening().evaluation)
    same_when_stopped(experiment, tmp_path, every - 1, least=1)
