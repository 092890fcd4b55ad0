"""Certificates of runs: logged where they mean something, and only there; warnings that come true."""

import dataclasses

import pytest
from made_feedback import fed
from made_runs import CONFIGS, run_here, tiny_lm

from jaxalign.anchors.adaptive import Adaptive
from jaxalign.config.load import load, validate
from jaxalign.data.prompts import InlinePrompts
from jaxalign.errors import ConfigError
from jaxalign.feedback.certifiable import is_matrix, uncertified
from jaxalign.losses.dpo import DPO
from jaxalign.losses.inpo import INPO
from jaxalign.oracles.mixture import Member, Mixture
from jaxalign.oracles.population import RankingPopulation
from jaxalign.oracles.tabular import TabularGame
from jaxalign.pairs import AllPairs, BernoulliLabel, BestSecond, BestWorst, MajorityLabel, RandomPair
from jaxalign.rollouts.sample import Sample
from jaxalign.storage.record import read_metrics
from jaxalign.storage.rundir import read_run
from jaxalign.training.scored import ReferenceLogps
from jaxalign.training.step import Fit
from jaxalign.types import Groups

INNER = {"align/inner_gap", "align/inner_gap_corrected", "align/inner_gap_stderr", "align/anchor_kl_nats"}


def game(name="three_action", **changes):
    return dataclasses.replace(load(CONFIGS / "games" / f"{name}.py"), **changes)


def certificates(experiment, workdir):
    """What each iteration logs of them."""
    run_here(experiment, workdir)
    lines = [line for line in read_metrics(workdir) if line["phase"] == "certificates"]
    return [{name: value for name, value in line.items() if name.startswith("align/")} for line in lines]


def test_comal_logs_the_factor_at_the_equilibrium_in_every_iteration(tmp_path, capsys):
    found = certificates(game(iterations=3, swap_every=2, loss=INPO(eta=1 / 1.5, tau=0.1)), tmp_path)
    assert all(line.keys() == INNER | {"align/expanding", "align/rotating", "align/contraction"} for line in found)
    assert {round(line["align/contraction"], 4) for line in found} == {1.0721}
    assert [line["align/anchor_kl_nats"] for line in found][::2] == [0.0, 0.0]
    said = capsys.readouterr().err
    assert said.count("an exact round of 2 iterations leads away from it: it multiplies the distance by 1.07") == 3
    assert "; swap_every 5 would contract on these answers" in said


def test_a_schedule_that_contracts_is_not_warned_of(tmp_path, capsys):
    found = certificates(game(iterations=13), tmp_path)
    assert found[0]["align/contraction"] == pytest.approx(0.2251, abs=1e-4)
    assert "certificate:" not in capsys.readouterr().err


def test_inpo_that_diverges_is_warned_of_from_the_first_iteration_on(tmp_path, capsys):
    """Duality gap .28 → .8, KL to the Nash policy .12 → 7.9 in twenty iterations."""
    found = certificates(game("three_action_inpo", iterations=2, loss=INPO(eta=0.1, tau=0.02)), tmp_path)
    assert [line["align/modulus"] for line in found] == pytest.approx([2.23, 2.23], abs=0.01)
    assert all(line.keys() == INNER | {"align/expanding", "align/modulus"} for line in found)
    said = capsys.readouterr().err
    assert said.count("certificate: on 1 of 1 prompts an exact step leads away") == 2
    assert "loss.eta 0.4" in said


def test_inpo_that_settles_is_not(tmp_path, capsys):
    found = certificates(game("three_action_inpo", iterations=2), tmp_path)
    assert found[-1]["align/modulus"] == pytest.approx(0.9032, abs=1e-4)
    assert "certificate:" not in capsys.readouterr().err


def test_a_game_that_is_no_matrix_has_no_factor_and_no_warning(tmp_path, capsys):
    found = certificates(game("universal_condorcet", iterations=7), tmp_path)
    assert all(line.keys() == INNER for line in found)
    assert "certificate:" not in capsys.readouterr().err


def test_ranked_pairs_have_no_certificate(tmp_path, capsys):
    rollout = Sample(samples=4, max_tokens=1)
    ranked = fed(game(iterations=1, swap_every=None), pairing=BestWorst(), rollout=rollout)
    assert certificates(ranked, tmp_path) == [{}]
    assert "certificate:" not in capsys.readouterr().err


def test_what_is_certified_and_why_not():
    feedback = game().feedback
    loss = INPO(eta=0.5, tau=0.1)

    def reason(pairing):
        return uncertified(loss, dataclasses.replace(feedback, pairing=pairing))

    assert [reason(pairing) for pairing in (AllPairs(), RandomPair(), AllPairs(BernoulliLabel()))] == ["", "", ""]
    for pairing in (BestWorst(), BestSecond(), AllPairs(MajorityLabel()), RandomPair(label=MajorityLabel())):
        assert "solves another game" in reason(pairing)
    assert "DPO takes no mirror step" in uncertified(DPO(beta=0.1), feedback)
    assert "loss.tau is 0" in uncertified(INPO(eta=0.5, tau=0.0), feedback)
    recorded = load(CONFIGS / "preference" / "dpo_tiny.py").feedback
    assert "not the policy's own" in uncertified(loss, recorded)


def test_an_oracle_that_meets_the_policy_is_found_in_a_mixture_too():
    feedback = game().feedback
    crowd = RankingPopulation(rankings=((0, 1, 2),), weights=(1.0,))
    assert is_matrix(feedback)
    assert not is_matrix(dataclasses.replace(feedback, oracle=crowd))
    assert not is_matrix(dataclasses.replace(feedback, oracle=Mixture((Member(TabularGame()), Member(crowd)))))


# ----------------------------------------------------------------------------------------------------------------------
# Fits on pairs they have not seen


def unseen(experiment, workdir):
    run_here(experiment, workdir)
    return [line for line in read_metrics(workdir) if line["phase"] == "unseen"]


def test_pairs_left_out_tell_whether_a_fit_lowers_its_objective(tmp_path, capsys):
    """The same fit with a learning rate that descends, and with one that does not."""
    small = ("--optimizer.learning_rate.peak", "3e-3", "--feedback.unseen", "0.25", "--fit.epochs", "4")
    found = unseen(tiny_lm(*small), tmp_path / "small")
    assert len(found) == 2
    for line in found:
        assert line["fit/heldout_loss"] != line["fit/heldout_loss_before"]
        assert line["fit/heldout_change_stderr"] > 0
    capsys.readouterr()
    large = ("--optimizer.learning_rate.peak", "1.0", "--feedback.unseen", "0.25", "--iterations", "1")
    found = unseen(tiny_lm(*large, "--swap_every", "none"), tmp_path / "large")
    assert found[0]["fit/heldout_loss"] > 2 * found[0]["fit/heldout_loss_before"]
    said = capsys.readouterr().err
    assert "its loss on the pairs of 2 prompts that it has not seen went from" in said
    assert "it did not lower its objective" in said


def test_the_loss_before_is_that_of_the_policy_against_itself(tmp_path):
    """Right after a swap all margins are 0, and losses (1 / 2 eta)². What is left out is not trained on."""
    few = ("--feedback.unseen", "0.25", "--iterations", "1", "--swap_every", "none")
    experiment = tiny_lm(*few)
    found = unseen(experiment, tmp_path)
    assert found[0]["fit/heldout_loss_before"] == pytest.approx((0.5 / experiment.loss.eta) ** 2, rel=1e-4)
    run = read_run(tmp_path)
    groups, scored = run.load(0, "groups", Groups), run.load(0, "references", ReferenceLogps)
    assert scored.sums.shape[1] == (groups.prompt < 6).sum() < len(groups.prompt)


def test_exact_fits_lower_the_objective_on_unseen_prompts_of_the_same_game(tmp_path):
    prompts = InlinePrompts(("One.", "Two.", "Three.", "Four."))
    base = fed(game(iterations=3), prompts=prompts, prompts_per_iteration=4, unseen=0.5)
    base = dataclasses.replace(
        base, swap_every=Adaptive(), loss=INPO(eta=1 / 3, tau=0.2), fit=Fit(batch_size=6, epochs=20)
    )
    found = unseen(dataclasses.replace(base, iterations=4), tmp_path)
    closing = [line["align/next_anchor"] for line in read_metrics(tmp_path) if line["phase"] == "certificates"]
    assert 3 in closing  # the third fit closes a round, and is judged by its own loss
    assert all(line["fit/heldout_loss"] < line["fit/heldout_loss_before"] for line in found)


@pytest.mark.parametrize(("share", "words"), [(1.0, "unseen must lie in"), (-0.1, "unseen must lie in")])
def test_shares_that_leave_nothing_to_train_on_are_refused(share, words):
    with pytest.raises(ConfigError, match=words):
        validate(fed(game(), unseen=share))
    with pytest.raises(ConfigError, match="prompts_per_iteration is 1"):
        validate(fed(game(), unseen=0.5))
