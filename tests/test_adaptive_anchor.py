"""The anchor that moves when the inner problem is solved: on policies whose truth is known."""

import dataclasses
import pathlib

import numpy as np
import pytest
from made_feedback import fed
from made_runs import CONFIGS, run_here, run_stopping

from jaxalign.anchors.adaptive import Adaptive
from jaxalign.config.load import load, override, validate
from jaxalign.config.resolved import dump, restore
from jaxalign.data.prompts import InlinePrompts
from jaxalign.errors import ConfigError
from jaxalign.experiment import anchor_of
from jaxalign.games.families import three_action
from jaxalign.games.inner_gap import inner_gap
from jaxalign.games.sampled_games import best_responses, kl, log_weights, mirror_steps
from jaxalign.games.sampled_games import gaps as duality_gaps
from jaxalign.losses.inpo import INPO
from jaxalign.losses.ipo import IPO
from jaxalign.pairs import BestWorst, RandomPair, SoftLabel
from jaxalign.rollouts.sample import Sample
from jaxalign.storage.record import read_metrics
from jaxalign.storage.rundir import read_run
from jaxalign.training.step import Fit

START = np.array([[0.2, 0.5, 0.3]])
PREFER = three_action()[None]
SHORT = Adaptive(accept=0.5)
LOSS = INPO(eta=1 / 3, tau=0.2)
"""A setting under which a round takes three iterations."""


def adaptive(**changes):
    """The three-action game with its answers enumerated, short rounds."""
    base = load(CONFIGS / "games" / "three_action_adaptive.py")
    return dataclasses.replace(base, **{"swap_every": SHORT, "loss": LOSS, "iterations": 9, **changes})


def sampled(prompts=96, samples=8, **changes):
    """The same game, answered by samples: every prompt is the same."""
    texts = tuple(f"Choose an answer, {number}." for number in range(prompts))
    experiment = adaptive(iterations=5, fit=Fit(batch_size=4 * prompts, epochs=15), keep_policies=None, **changes)
    return fed(
        experiment,
        prompts=InlinePrompts(texts),
        rollout=Sample(samples=samples, max_tokens=1),
        prompts_per_iteration=prompts,
        pairing=RandomPair(pairs_per_prompt=4, label=SoftLabel()),
    )


def logged(workdir, name):
    return [line[name] for line in read_metrics(workdir) if line["phase"] == "certificates"]


def exact_run(iterations, rule, loss):
    """Next anchors, and policies, of exact adaptive COMAL from `START`, by the exact certificate."""
    policies, anchors, number = [log_weights(START)], [], 0
    for iteration in range(iterations):
        now, anchor = policies[-1], policies[number]
        moved = float(kl(now, anchor)[0])
        gap = float(inner_gap(PREFER, now - anchor, np.exp(now), loss.tau)[0])
        if rule.solved(gap, 0.0, loss.tau * moved):
            policies.append(best_responses(PREFER, now, anchor, loss.tau))
            number = iteration + 1
        else:
            policies.append(mirror_steps(PREFER, now, anchor, 1 / loss.eta, loss.tau, 1))
        anchors.append(number)
    return anchors, policies


def test_the_rule_asks_for_a_gap_that_is_small_beside_what_was_moved():
    rule = Adaptive(accept=0.1, errors=2.0)
    assert rule.solved(gap=0.001, error=0.0, moved=0.01)
    assert not rule.solved(gap=0.0011, error=0.0, moved=0.01)
    assert not rule.solved(gap=0.0, error=0.0006, moved=0.01)
    assert not rule.solved(gap=-1.0, error=0.0, moved=0.0)
    assert not rule.solved(gap=0.0, error=0.0, moved=0.0)


def test_anchors_and_policies_are_those_of_the_exact_recursion(tmp_path):
    run_here(adaptive(), tmp_path)
    anchors, policies = exact_run(9, SHORT, LOSS)
    assert len(set(anchors)) >= 3
    assert logged(tmp_path, "align/next_anchor") == anchors
    # Whoever reads the run knows them too.
    assert [anchor_of(adaptive(), read_run(tmp_path), iteration) for iteration in range(10)] == [0, *anchors]
    gaps = [line["nash/gap"] for line in read_metrics(tmp_path) if line["phase"] == "evals"]
    # fp32 fits of 25 gradient steps each.
    np.testing.assert_allclose(gaps, [duality_gaps(PREFER, logp)[0] for logp in policies], atol=2e-3)


@pytest.mark.parametrize("loss", [LOSS, INPO(eta=1.0, tau=0.3), INPO(eta=1 / 1.5, tau=0.1), INPO(eta=1.0, tau=1.0)])
@pytest.mark.parametrize("accept", [0.1, 0.5, 0.9])
def test_every_anchor_is_closer_to_the_nash_policy_by_what_the_certificate_says(loss, accept):
    """Also where as many inner steps and a plain swap would spiral out."""
    anchors, policies = exact_run(120, Adaptive(accept), loss)
    moves = [number for number, before in zip(anchors, [0, *anchors], strict=False) if number != before]
    assert len(moves) >= 2
    nash = log_weights(np.array([[4, 3, 4]]) / 11)
    before = 0
    for number in moves:
        solved, anchor = policies[number - 1], policies[before]
        progress = float(kl(nash, anchor)[0] - kl(nash, policies[number])[0])
        assert progress >= (1 - accept) * float(kl(solved, anchor)[0]) - 1e-12
        before = number


def test_the_closing_loss_is_the_step_to_the_best_response():
    anchor = log_weights(START)
    policy = mirror_steps(PREFER, anchor, anchor, 1 / LOSS.eta, LOSS.tau, 2)
    step = LOSS.closing.mirror
    found = mirror_steps(PREFER, policy, anchor, step.step, step.tau, 1)
    np.testing.assert_allclose(found, best_responses(PREFER, policy, anchor, LOSS.tau), atol=1e-12)


def content(workdir: pathlib.Path) -> dict[str, bytes]:
    names = ("metrics.jsonl", *(f"{number:04d}/certificates" for number in range(5)))
    files = [file for name in names for file in ([workdir / name] if "." in name else (workdir / name).iterdir())]
    return {str(file.relative_to(workdir)): file.read_bytes() for file in files}


def test_stopped_and_continued_is_uninterrupted(tmp_path):
    experiment = adaptive(iterations=5, keep_policies=1)
    run_here(experiment, tmp_path / "whole")
    assert run_stopping(experiment, tmp_path / "stopped", 40) >= 2
    assert content(tmp_path / "whole") == content(tmp_path / "stopped")
    anchor = int(logged(tmp_path / "stopped", "align/next_anchor")[-1])
    assert anchor not in (0, 5)
    assert read_run(tmp_path / "stopped").policies() == sorted({0, anchor, 5})


def test_of_samples_the_round_is_closed_when_the_problem_is_solved_in_truth(tmp_path):
    """Eight samples each of 96 prompts, all the same game: what the exact gap was when a round was closed, or not."""
    run_here(sampled(), tmp_path)
    lines = [line for line in read_metrics(tmp_path) if line["phase"] == "certificates"]
    policies, number = [table(tmp_path, index) for index in range(len(lines) + 1)], 0
    for iteration, line in enumerate(lines):
        now, anchor = policies[iteration], policies[number]
        moved = LOSS.tau * float(kl(now, anchor)[0])
        gap = float(inner_gap(PREFER, now - anchor, np.exp(now), LOSS.tau)[0])
        assert line["align/inner_gap_corrected"] == pytest.approx(
            gap, abs=4 * line["align/inner_gap_stderr"] + 0.3 * gap
        )
        closed = line["align/next_anchor"] == iteration + 1
        if closed:
            # The plug-in counts the noise of eight samples as gap: by it the round would go on.
            assert line["align/inner_gap"] > 0.5 * LOSS.tau * line["align/anchor_kl_nats"]
            # One standard error is added to the estimate: a round is closed too early now and then, but not by far.
            assert gap <= 0.5 * moved + 3 * line["align/inner_gap_stderr"]
            number = iteration + 1
    assert number > 0


def table(workdir, number):
    from made_runs import policy

    logits = np.asarray(policy(workdir, number)["table"], np.float64)[:, 0]
    return log_weights(np.exp(logits - logits.max())[None] / np.exp(logits - logits.max()).sum())


def test_a_single_sampled_prompt_never_moves_it(tmp_path):
    few = sampled(prompts=1, samples=16, swap_every=Adaptive(accept=0.9))
    run_here(dataclasses.replace(few, iterations=3), tmp_path)
    assert logged(tmp_path, "align/next_anchor") == [0, 0, 0]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (lambda base: fed(base, pairing=BestWorst()), "solves another game"),
        (lambda base: dataclasses.replace(base, loss=IPO(tau=0.1)), "IPO takes no mirror step"),
        (lambda base: dataclasses.replace(base, loss=INPO(eta=0.5, tau=0.0)), "loss.tau is 0"),
        (lambda base: dataclasses.replace(base, swap_every=Adaptive(accept=1.0)), "swap_every: accept must lie in"),
        (lambda base: dataclasses.replace(base, swap_every=Adaptive(errors=-1.0)), "swap_every: errors must be"),
    ],
)
def test_what_cannot_be_certified_is_refused_before_compute(changed, words):
    with pytest.raises(ConfigError, match=words):
        validate(changed(adaptive()))


def test_its_settings_are_options_and_it_is_restored_from_a_run():
    changed = override(adaptive(), ("--swap_every.accept", "0.2"))
    assert changed.swap_every == Adaptive(accept=0.2)
    assert restore(dump(changed)).swap_every == changed.swap_every
    with pytest.raises(ConfigError, match="is a component, not a value"):
        override(adaptive(), ("--swap_every", "3"))
    assert override(load(CONFIGS / "games" / "three_action.py"), ("--swap_every", "none")).swap_every is None
