"""Fits on what the policy has sampled, watched on pairs that they do not see: which step stays, when a fit ends, and
what is said of one that has not lowered its objective."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_examples import examples, named
from made_feedback import fed
from made_logps import logps
from made_runs import CONFIGS, lines_of, policy, run_here, same_when_stopped, tiny_lm

import jaxalign.losses
from jaxalign.config.load import load, validate
from jaxalign.data.prompts import InlinePrompts
from jaxalign.errors import ConfigError
from jaxalign.fits.check import moved, unsolved
from jaxalign.fits.trial import Trial
from jaxalign.losses.inpo import INPO
from jaxalign.losses.regresses import Regresses
from jaxalign.report.seeds import spread
from jaxalign.report.summary import told as told_of
from jaxalign.storage.rundir import read_run
from jaxalign.storage.slot import PolicySlot
from jaxalign.training.scored import ReferenceLogps
from jaxalign.types import Groups

REGRESSIONS = examples(jaxalign.losses, Regresses, least=3)
SHARES = ("--feedback.validation", "0.25", "--feedback.unseen", "0.25")
WATCHED = (*SHARES, "--fit.evaluate_every", "1", "--fit.keep", "best", "--fit.batch_size", "4")


# ----------------------------------------------------------------------------------------------------------------------
# Validation


def test_the_step_of_the_least_loss_on_validation_pairs_becomes_the_policy(tmp_path):
    """Eight prompts: four are trained on, two choose the step, two tell what it is worth."""
    run_here(tiny_lm(*WATCHED, "--fit.epochs", "3", "--optimizer.learning_rate.peak", "3e-3"), tmp_path)
    for iteration in (0, 1):
        inside = [line for line in lines_of(tmp_path, "heldout") if line["iteration"] == iteration]
        assert [line["step"] for line in inside] == list(range(len(inside)))
        losses = [line["heldout/loss"] for line in inside]
        (kept,) = (line for line in lines_of(tmp_path, "kept") if line["iteration"] == iteration)
        assert kept["fit/steps"] == len(inside) - 1
        assert losses.index(min(losses)) == kept["fit/kept_step"]
    run = read_run(tmp_path)
    groups, scored = run.load(0, "groups", Groups), run.load(0, "references", ReferenceLogps)
    validation = run.load(0, "validation", ReferenceLogps)
    assert validation.roles == ("last", "anchor")
    assert scored.sums.shape[1] == (groups.prompt < 4).sum()
    assert validation.sums.shape[1] == ((groups.prompt >= 4) & (groups.prompt < 6)).sum()


def test_what_a_fit_begins_with_stays_where_no_step_is_better(tmp_path):
    """At such a rate every step raises the loss: two worse ones end the fit, and the policy is the one that sampled."""
    wild = ("--optimizer.learning_rate.peak", "0.3", "--fit.patience", "2", "--fit.epochs", "3", "--iterations", "1")
    summary = run_here(tiny_lm(*WATCHED, *wild, "--swap_every", "none"), tmp_path)
    (kept,) = lines_of(tmp_path, "kept")
    assert (kept["fit/steps"], kept["fit/kept_step"]) == (2, 0)
    jax.tree.map(np.testing.assert_array_equal, policy(tmp_path, 1), policy(tmp_path, 0))
    (checked,) = lines_of(tmp_path, "unseen")
    assert checked["fit/heldout_loss"] == checked["fit/heldout_loss_before"]
    assert "fit/best_scale" not in checked, "nothing has moved"
    assert summary["fits"] == {
        "fits/checked": 1.0,
        "fits/lowered": 0.0,
        "fits/lowered_beyond_error": 0.0,
        "fits/heldout_change_mean": 0.0,
    }


def test_the_state_that_stays_takes_the_room_of_the_last_one(tmp_path, monkeypatch):
    """With its moments it is as large: both together may be more than a step needs."""
    loaded, last = PolicySlot.load, []

    def chosen(trial, state, abstract):
        last.append(state)
        return choose(trial, state, abstract)

    def load(slot, abstract):
        if slot.path.parent.name == "best":
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(last[-1]))
        return loaded(slot, abstract)

    choose = Trial.chosen
    monkeypatch.setattr(Trial, "chosen", chosen)
    monkeypatch.setattr(PolicySlot, "load", load)
    wild = ("--optimizer.learning_rate.peak", "0.3", "--iterations", "1", "--swap_every", "none")
    run_here(tiny_lm(*WATCHED, *wild, "--fit.moments", "kept"), tmp_path)
    (kept,) = lines_of(tmp_path, "kept")
    assert kept["fit/kept_step"] < kept["fit/steps"]


@pytest.mark.slow
def test_a_watched_fit_that_is_stopped_again_and_again_ends_with_the_same_bits(tmp_path):
    experiment = tiny_lm(*WATCHED, "--fit.patience", "2", "--fit.epochs", "2", "--fit.moments", "kept")
    same_when_stopped(experiment, tmp_path, 16)


def test_shares_that_nothing_reads_or_that_leave_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"feedback\.validation leaves prompts out .* set fit\.evaluate_every"):
        validate(tiny_lm("--feedback.validation", "0.25"))
    with pytest.raises(ConfigError, match="holds no pairs out to evaluate on"):
        validate(tiny_lm("--fit.evaluate_every", "1"))
    both = fed(tiny_lm("--fit.evaluate_every", "1"), unseen=0.5, validation=0.5)
    with pytest.raises(ConfigError, match="unseen and validation leave prompts out of the fit"):
        validate(both)
    validate(fed(both, unseen=0.375))


# ----------------------------------------------------------------------------------------------------------------------
# Has it moved the right way, and too far?


@pytest.mark.parametrize("loss", REGRESSIONS.values(), ids=named)
def test_a_regression_is_the_squared_distance_of_a_margin_but_for_what_no_policy_changes(loss):
    one, other = logps(prefer=0.7, seed=1), logps(prefer=0.7, seed=1)
    other = dataclasses.replace(other, tokens=jnp.where(other.mask, 1.5 * other.tokens - 0.1, 0.0))
    distance = [(loss.margins(seen) - loss.wanted(seen)) ** 2 for seen in (one, other)]
    np.testing.assert_allclose(loss(one) - loss(other), distance[0] - distance[1], rtol=2e-3, atol=2e-3)


def sums(pairs):
    """What a loss sees of answers of one token, whose references say 0."""
    table = jnp.asarray(pairs, jnp.float32)
    seen = logps(groups=len(pairs), tokens=1)
    zeros = jnp.zeros_like(table)
    return dataclasses.replace(
        seen, tokens=table[..., None], mask=jnp.ones((*table.shape, 1), bool), last=zeros, anchor=zeros
    )


def test_how_far_margins_have_moved_and_how_far_would_have_been_best():
    """By hand: 5 nats are wanted of both pairs; one moves by 4, the other by -2, so E w d = 5, E d² = 10."""
    loss, before, after = INPO(eta=0.1, tau=0.0), sums([[0, 0], [0, 0]]), sums([[4, 0], [-1, 1]])
    found = moved(loss, before, after, np.ones(2, np.float32))
    assert found == pytest.approx({"fit/margin_wanted_nats": 5, "fit/margin_moved_nats": 1, "fit/best_scale": 0.5})
    alone = moved(loss, before, after, np.array([1, 0], np.float32))
    assert alone == pytest.approx({"fit/margin_wanted_nats": 5, "fit/margin_moved_nats": 4, "fit/best_scale": 1.25})
    assert moved(loss, before, before, np.ones(2, np.float32)) == {}


@pytest.mark.parametrize("loss", REGRESSIONS.values(), ids=named)
def test_the_best_scale_is_that_of_the_least_loss(loss):
    before, after = sums([[0, 0], [-1, 0], [0, -2]]), sums([[1, 0], [2, 1], [-1, 0.5]])
    best = moved(loss, before, after, np.ones(3, np.float32))["fit/best_scale"]

    def at(scale):
        between = before.tokens + scale * (after.tokens - before.tokens)
        return float(loss(dataclasses.replace(before, tokens=between)).mean())

    assert at(best) <= min(at(best - 0.05), at(best + 0.05))


def test_what_is_told_of_a_fit_that_did_not_lower_its_objective():
    metrics = {"fit/heldout_loss_before": 25.0, "fit/heldout_loss": 34.7, "fit/heldout_change_stderr": 3.4}
    said = unsolved(metrics, 8)
    assert said == (
        "fit: its loss on the pairs of 8 prompts that it has not seen went from 25 to 34.7 (+9.7 ± 3.4): it did not "
        "lower its objective"
    )
    far = {"fit/margin_wanted_nats": 5.0, "fit/margin_moved_nats": 0.13, "fit/best_scale": 0.06}
    assert "margins lack 5 nats and were moved 0.13 of them, and 0.06 times as far would have been" in unsolved(
        metrics | far, 8
    )
    wrong = unsolved(metrics | far | {"fit/best_scale": -0.1}, 8)
    assert wrong.endswith("and no step this way lowers it: give the fit more pairs or prompts")


def test_the_summary_counts_the_fits_that_lowered_their_objective(tmp_path):
    """Exact fits of a cyclic game whose prompts are alike lower it, and seeds are compared by that too."""
    base = dataclasses.replace(load(CONFIGS / "games" / "three_action.py"), iterations=2, swap_every=None)
    prompts = InlinePrompts(("One.", "Two.", "Three.", "Four."))
    summary = run_here(fed(base, prompts=prompts, prompts_per_iteration=4, unseen=0.5), tmp_path)
    lines = lines_of(tmp_path, "unseen")
    changes = [line["fit/heldout_loss"] - line["fit/heldout_loss_before"] for line in lines]
    assert summary["fits"] == {
        "fits/checked": 2.0,
        "fits/lowered": 2.0,
        "fits/lowered_beyond_error": 2.0,
        "fits/heldout_change_mean": pytest.approx(np.mean(changes)),
    }
    assert "2 of 2 fits lowered their loss on pairs that they had not seen" in told_of(summary, tmp_path, 2, True)
    assert spread([summary["fits"]])["fits/lowered"]["median"] == 2
    # Least squares, nearly to the end: no other scale is much better, though the cycle leaves most of what is wanted.
    assert all(line["fit/best_scale"] == pytest.approx(1, abs=0.15) for line in lines)
    assert all(0 < line["fit/margin_moved_nats"] < 0.3 * line["fit/margin_wanted_nats"] for line in lines)
