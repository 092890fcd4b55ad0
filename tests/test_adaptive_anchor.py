"""The anchor that moves when the inner problem is solved: on policies whose truth is known."""

import dataclasses
import pathlib

import numpy as np
import pytest
from made_feedback import fed
from made_runs import CONFIGS, run_here

from jaxalign.anchors.adaptive import Adaptive
from jaxalign.config.load import load, override, validate
from jaxalign.config.resolved import dump, restore
from jaxalign.data.prompts import InlinePrompts
from jaxalign.errors import ConfigError, Interrupted
from jaxalign.games.families import three_action
from jaxalign.games.inner_gap import inner_gap
from jaxalign.games.sampled_games import kl, log_weights, mirror_steps
from jaxalign.losses.inpo import INPO
from jaxalign.losses.ipo import IPO
from jaxalign.pairs import AllPairs, BestWorst
from jaxalign.rollouts.sample import Sample
from jaxalign.storage.record import read_metrics
from jaxalign.storage.rundir import read_run
from jaxalign.training.step import Fit

START = np.array([[0.2, 0.5, 0.3]])
SHORT = Adaptive(accept=0.3)
LOSS = INPO(eta=1 / 4, tau=0.2)
"""A setting under which a round takes four iterations, and then two or three."""


def adaptive(**changes):
    """The three-action game with its answers enumerated, short rounds."""
    base = load(CONFIGS / "games" / "three_action_adaptive.py")
    return dataclasses.replace(base, **{"swap_every": SHORT, "loss": LOSS, "iterations": 9, **changes})


def sampled(prompts=48, samples=8, **changes):
    """The same game, answered by samples: every prompt is the same."""
    texts = tuple(f"Choose an answer, {number}." for number in range(prompts))
    experiment = adaptive(fit=Fit(batch_size=prompts * samples * (samples - 1) // 2, epochs=40), **changes)
    rollout = Sample(samples=samples, max_tokens=1)
    pairs = AllPairs()
    return fed(experiment, prompts=InlinePrompts(texts), rollout=rollout, prompts_per_iteration=prompts, pairing=pairs)


def logged(workdir, name):
    return [line[name] for line in read_metrics(workdir) if line["phase"] == "certificates"]


def exact_anchors(iterations, rule, loss):
    """Anchors of exact COMAL from `START`, swapped when the exact certificate says so."""
    policies, anchors, number = [log_weights(START)], [], 0
    for iteration in range(iterations):
        now = policies[-1]
        anchor = policies[number]
        moved = float(kl(now, anchor)[0])
        gap = float(inner_gap(three_action()[None], now - anchor, np.exp(now), loss.tau)[0])
        number = iteration if rule.solved(gap, 0.0, loss.tau * moved) else number
        anchors.append(number)
        policies.append(mirror_steps(three_action()[None], now, policies[number], 1 / loss.eta, loss.tau, 1))
    return anchors


def test_the_rule_asks_for_a_gap_that_is_small_beside_what_was_moved():
    rule = Adaptive(accept=0.1, errors=2.0)
    assert rule.solved(gap=0.001, error=0.0, moved=0.01)
    assert not rule.solved(gap=0.0011, error=0.0, moved=0.01)
    assert not rule.solved(gap=0.0, error=0.0006, moved=0.01)
    assert not rule.solved(gap=-1.0, error=0.0, moved=0.0)
    assert not rule.solved(gap=0.0, error=0.0, moved=0.0)


def test_anchors_are_those_of_the_exact_recursion(tmp_path):
    run_here(adaptive(), tmp_path)
    expected = exact_anchors(9, SHORT, LOSS)
    assert len(set(expected)) >= 3
    assert logged(tmp_path, "align/anchor") == expected


def test_the_loss_is_taken_around_the_new_anchor_at_once(tmp_path):
    """Right after a swap the policy is its own anchor: the anchor's log-probs are those of `last`."""
    run_here(adaptive(iterations=6), tmp_path)
    anchors = [int(number) for number in logged(tmp_path, "align/anchor")]
    moved = next(index for index, number in enumerate(anchors) if number)
    from jaxalign.session import ReferenceLogps

    run = read_run(tmp_path)
    for iteration, same in ((moved - 1, False), (moved, True), (moved + 1, False)):
        columns = run.load(iteration, "references", ReferenceLogps).columns()
        assert np.array_equal(columns["last"], columns["anchor"]) == same, iteration


class Patience:
    """Lets a launch pass some of the points where it may be stopped, and stops it at the next."""

    def __init__(self, questions: int):
        self._left = questions

    def __call__(self) -> bool:
        self._left -= 1
        return self._left < 0


def content(workdir: pathlib.Path) -> dict[str, bytes]:
    names = ("metrics.jsonl", *(f"{number:04d}/certificates" for number in range(7)))
    files = [file for name in names for file in ([workdir / name] if "." in name else (workdir / name).iterdir())]
    return {str(file.relative_to(workdir)): file.read_bytes() for file in files}


def test_stopped_and_continued_is_uninterrupted(tmp_path):
    experiment = adaptive(iterations=7, keep_policies=1)
    run_here(experiment, tmp_path / "whole")
    stops = 0
    while True:
        try:
            run_here(experiment, tmp_path / "stopped", stop_requested=Patience(questions=45))
            break
        except Interrupted:
            stops += 1
    assert stops >= 3
    assert content(tmp_path / "whole") == content(tmp_path / "stopped")
    anchor = int(logged(tmp_path / "stopped", "align/anchor")[-1])
    assert anchor not in (0, 7)
    assert read_run(tmp_path / "stopped").policies() == [0, anchor, 7]


def test_of_samples_the_anchor_moves_when_the_problem_is_solved_in_truth(tmp_path):
    """Eight samples each of 48 prompts: at every swap the exact gap of the policy is small beside its exact KL."""
    experiment = sampled(iterations=7, swap_every=Adaptive(accept=0.3, errors=1.0))
    run_here(experiment, tmp_path)
    anchors = [int(number) for number in logged(tmp_path, "align/anchor")]
    assert len(set(anchors)) >= 2
    policies = [table(tmp_path, number) for number in range(8)]
    shares = []
    for iteration in range(1, 7):
        before = policies[anchors[iteration - 1]]
        gap = inner_gap(three_action()[None], policies[iteration] - before, np.exp(policies[iteration]), LOSS.tau)[0]
        shares.append((gap / (LOSS.tau * kl(policies[iteration], before)[0]), anchors[iteration] == iteration))
    assert max(share for share, moved in shares if moved) < 0.45
    # Where the inner problem was left far from solved, the anchor stayed.
    assert not any(moved for share, moved in shares if share > 0.6)
    # The plug-in counts the noise of eight samples as gap and would never have moved it.
    metrics = [line for line in read_metrics(tmp_path) if line["phase"] == "certificates"]
    swaps = [line for line in metrics if line["align/anchor"] == line["iteration"] > 0]
    assert swaps
    assert all(line["align/inner_gap"] > 0.3 * LOSS.tau * line["align/anchor_kl_nats"] for line in swaps)


def table(workdir, number):
    from made_runs import policy

    logits = np.asarray(policy(workdir, number)["table"], np.float64)[:, 0]
    return log_weights(np.exp(logits - logits.max())[None] / np.exp(logits - logits.max()).sum())


def test_a_single_sampled_prompt_never_moves_it(tmp_path):
    run_here(sampled(prompts=1, samples=16, iterations=3, swap_every=Adaptive(accept=0.9)), tmp_path)
    assert logged(tmp_path, "align/anchor") == [0, 0, 0]


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
