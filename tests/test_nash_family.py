"""The Nash family through the one loop: on the three-action game every config takes the steps of its exact learner.

Answers are enumerated, so what a fit sees is the expectation: nothing is sampled. Learners are those of
`jaxalign.games`, in fp64; policies of the runs are fp32.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_feedback import fed
from made_runs import CONFIGS, policy, run_here, same_when_stopped

from jaxalign.anchors.adaptive import Adaptive
from jaxalign.config.load import load, validate
from jaxalign.data.prompts import InlinePrompts
from jaxalign.errors import ConfigError
from jaxalign.feedback.certifiable import uncertified
from jaxalign.games.families import three_action
from jaxalign.games.game import MatrixGame
from jaxalign.games.learners.dno import DNO
from jaxalign.games.learners.dno_pairs import DNOPairs
from jaxalign.games.learners.egpo import EGPO
from jaxalign.games.learners.inpo import INPO
from jaxalign.games.learners.iter_dpo import IterDPO
from jaxalign.games.learners.magnetic import Magnetic
from jaxalign.games.learners.mwu import MWU
from jaxalign.games.learners.nash_md import NashMD
from jaxalign.games.learners.nash_mp import NashMP
from jaxalign.games.learners.online_ipo import OnlineIPO
from jaxalign.games.learners.onpo import ONPO
from jaxalign.games.learners.xpo import XPO
from jaxalign.losses.dpo import DPO
from jaxalign.losses.inpo import INPO as INPOLoss
from jaxalign.losses.ipo import IPO
from jaxalign.pairs import AllPairs
from jaxalign.references.auxiliary import Auxiliary
from jaxalign.references.live import Live
from jaxalign.rollouts.enumerate import Enumerate
from jaxalign.rollouts.geometric_mixture import GeometricMixture
from jaxalign.rollouts.sample import Sample
from jaxalign.session import Session
from jaxalign.step_rules.extragradient import Extragradient
from jaxalign.step_rules.forward import Forward
from jaxalign.storage.record import read_metrics
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

START = np.array([0.2, 0.5, 0.3])
STEP, TAU = 1.5, 0.1
SOLVED = 2e-4
"""Fits of 25 gradient steps come to about 1e-5 of their minimiser, four of them after one another."""
ROUNDED = 2e-6
"""A single gradient step, four times: fp32."""


def game(name, **changes):
    made = load(CONFIGS / "games" / f"three_action_{name}.py")
    return dataclasses.replace(made, **{"iterations": 4, "keep_policies": None, **changes})


def probabilities(workdir, number):
    table = np.asarray(policy(workdir, number)["table"], np.float64)[:, 0]
    return np.exp(table) / np.exp(table).sum()


def as_it_is(learner, policy):
    return learner


def of_different_pairs(learner, law):
    """A gradient that is a mean over pairs of different answers is larger than one over all pairs."""
    return dataclasses.replace(learner, eta=learner.eta / (1 - law @ law))


def of_mixed_pairs(learner, policy):
    mixed = policy ** (1 - learner.mix) * START**learner.mix
    return of_different_pairs(learner, mixed / mixed.sum())


def walk(learner, steps, at=as_it_is):
    """Policies of a learner after 1 … `steps` steps; `at` says what it is at a policy."""
    with jax.enable_x64(True):
        seen, found = MatrixGame(jnp.asarray(three_action())), []
        state = learner.init(seen, jnp.log(jnp.asarray(START)))
        for t in range(steps):
            state = at(learner, np.exp(state.logp)).step(seen, state, jnp.asarray(t))
            found.append(np.exp(state.logp))
    return np.array(found)


LEARNERS = {
    "iter_ipo": (MWU(STEP), as_it_is, SOLVED),
    "iter_dpo": (IterDPO(2.0), as_it_is, SOLVED),
    "mpo": (Magnetic(STEP, TAU, 2), as_it_is, SOLVED),
    "dno": (DNO(STEP), as_it_is, SOLVED),
    "dno_pairs": (DNOPairs(0.3, 0.1), as_it_is, ROUNDED),
    "online_ipo_1": (INPO(STEP, TAU), as_it_is, ROUNDED),
    "online_ipo_2": (OnlineIPO(1.0, TAU), of_different_pairs, ROUNDED),
    "spo": (OnlineIPO(STEP, 0.0), as_it_is, ROUNDED),
    "onpo": (ONPO(STEP), as_it_is, SOLVED),
    "nash_md": (NashMD(STEP, TAU), as_it_is, SOLVED),
    "xpo": (XPO(2.0, 0.05), as_it_is, SOLVED),
    "ipo_md": (OnlineIPO(1.0, TAU, 0.4), of_mixed_pairs, ROUNDED),
}


def trained_as(name):
    """The config of a learner; IPO-MD is online IPO 2 on answers of a mixture, iterative DPO is IPO's with its loss."""
    if name == "iter_dpo":
        return game("iter_ipo", loss=DPO(beta=2.0))
    if name == "ipo_md":
        return fed(game("online_ipo_2"), rollout=GeometricMixture(Enumerate(), share=0.4))
    return game(name, swap_every=2) if name == "mpo" else game(name)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_config_takes_the_steps_of_its_learner(name, tmp_path):
    learner, at, close = LEARNERS[name]
    run_here(trained_as(name), tmp_path)
    exact = walk(learner, 4, at)
    found = np.array([probabilities(tmp_path, number) for number in range(1, 5)])
    np.testing.assert_allclose(found, exact, atol=close)
    assert np.abs(exact - START).max() > 50 * close, "a policy that stays would pass"


def test_every_second_policy_is_a_step_of_extragradient_and_those_between_look_ahead(tmp_path):
    run_here(game("egpo", iterations=6), tmp_path)
    found = np.array([probabilities(tmp_path, number) for number in range(1, 7)])
    exact = walk(EGPO(STEP, TAU), 3)
    np.testing.assert_allclose(found[1::2], exact, atol=ROUNDED)
    for number, begin in enumerate((START, *exact[:2])):
        ahead = begin ** (1 - STEP * TAU) * START ** (STEP * TAU) * np.exp(STEP * three_action() @ begin)
        np.testing.assert_allclose(found[2 * number], ahead / ahead.sum(), atol=ROUNDED)
    assert np.abs(exact - walk(INPO(STEP, TAU), 3)).max() > 1e-2


@pytest.mark.parametrize(
    ("loss", "learner"),
    [(INPOLoss(1 / STEP, TAU), EGPO(STEP, TAU)), (INPOLoss(1 / STEP + TAU, TAU), NashMP(STEP, TAU))],
    ids=["EGPO", "NashMP"],
)
def test_extragradient_of_fits_that_minimise(loss, learner, tmp_path):
    """Labels of pairs of the look-ahead, no win rates; with MPO's loss it is mirror-prox."""
    made = load(CONFIGS / "games" / "three_action_inpo.py")
    run_here(
        dataclasses.replace(made, loss=loss, iterations=4, step_rule=Extragradient(), keep_policies=None), tmp_path
    )
    found = np.array([probabilities(tmp_path, number) for number in (2, 4)])
    np.testing.assert_allclose(found, walk(learner, 2), atol=SOLVED)
    logged = [name for line in read_metrics(tmp_path) for name in line if name.startswith("align/")]
    assert logged == [], "what is certified is the plain step"


# ----------------------------------------------------------------------------------------------------------------------
# Interrupted and continued = uninterrupted


@pytest.mark.parametrize("name", ["onpo", "egpo", "nash_md"])
def test_what_looks_back_goes_on_where_it_stopped(name, tmp_path):
    """With no more policies kept than are read again."""
    made = game(name, keep_policies=1)
    experiment = dataclasses.replace(made, fit=dataclasses.replace(made.fit, epochs=min(made.fit.epochs, 4)))
    same_when_stopped(experiment, tmp_path, questions=14)


def test_a_watched_step_that_looks_ahead_from_a_mixture_goes_on_where_it_stopped(tmp_path):
    """Validation, unseen pairs and moments that are kept, of steps whose answers are neither `last`'s nor the policy's;
    with no more policies kept than are read again."""
    made = game("nash_md", step_rule=Extragradient(), optimizer=AdamW(WarmupLinear(0.1)), keep_policies=1, iterations=2)
    prompts = InlinePrompts(("One.", "Two.", "Three.", "Four."))
    made = fed(made, prompts=prompts, prompts_per_iteration=4, unseen=0.25, validation=0.25)
    fit = Fit(batch_size=3, epochs=2, evaluate_every=1, keep="best", moments="kept", schedule="run")
    experiment = dataclasses.replace(made, fit=fit)
    same_when_stopped(experiment, tmp_path, questions=24)
    summary = json.loads((tmp_path / "stopped" / "summary.json").read_text())
    assert summary["fits"]["fits/checked"] == 2


def test_where_a_step_begins_is_read_once_an_iteration(tmp_path, monkeypatch):
    """And held once: by the fit, by what it is compared with, and by what checks it."""
    loaded, policy_of = [], Session.policy

    def policy(session, index):
        loaded.append(index)
        return policy_of(session, index)

    monkeypatch.setattr(Session, "policy", policy)
    made = game("egpo", iterations=2, reference=Live(), loss=INPOLoss(1 / STEP, TAU))
    run_here(fed(made, pairing=AllPairs()), tmp_path)
    assert loaded == [0, 0], "to begin with, and for the second step"


# ----------------------------------------------------------------------------------------------------------------------
# The auxiliary policy


def auxiliary(played):
    """ONPO's, from policies [t v] and steps between them, by its own recursion: log-probs but for a constant."""
    logp = np.log(played[0])
    for each in played[1:]:
        logp = (logp + np.log(each)) / 2
    return logp


def test_the_blend_is_the_policy_that_onpo_accumulates():
    """Fitted apart, as the paper does, the auxiliary policy is the blend of those that played."""
    with jax.enable_x64(True):
        learner, seen = ONPO(STEP), MatrixGame(jnp.asarray(three_action()))
        state = learner.init(seen, jnp.log(jnp.asarray(START)))
        played = [state]
        for t in range(5):
            played.append(learner.step(seen, played[-1], jnp.asarray(t)))
    latest_first = np.array([each.logp for each in played[::-1]])[:, None]
    found = Auxiliary(depth=8).blend(latest_first)[0]
    exact = np.asarray(played[-1].auxiliary)
    np.testing.assert_allclose(found - found[0], exact - exact[0], atol=1e-12)
    cut = Auxiliary(depth=4)
    kept = cut.blend(latest_first[: cut.depth])[0]
    off = np.abs((kept - kept[0]) - (exact - exact[0])).max()
    assert 0 < off <= STEP * 2 ** (1 - cut.depth)


def test_the_blend_of_one_policy_is_that_policy_and_weights_sum_to_one():
    sums = np.array([[[-1.0, -5.0]], [[-3.0, -2.0]], [[-2.0, -2.0]]])
    np.testing.assert_array_equal(Auxiliary().blend(sums[:1]), sums[0])
    np.testing.assert_allclose(Auxiliary().blend(np.ones((5, 2, 3))), np.ones((2, 3)))
    np.testing.assert_allclose(Auxiliary().blend(sums), [[-1.75, -3.5]])
    assert Auxiliary(depth=2).members((5, 4, 3, 2)) == (5, 4)
    assert list(Auxiliary(depth=1).problems())


# ----------------------------------------------------------------------------------------------------------------------
# Refused, and not certified


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("egpo", {"iterations": 5}, "iterations 5 would end within one"),
        ("egpo", {"swap_every": 3, "iterations": 6}, "swap_every 3 would swap within one"),
        ("egpo", {"swap_every": Adaptive()}, "there are none of steps of Extragradient"),
        ("nash_md", {"reference": Auxiliary(), "swap_every": 1}, "asks the anchor that swaps bring"),
        ("onpo", {"swap_every": None}, "made of the anchors that swaps bring"),
        ("egpo", {"fit": Fit(max_kl=1.0)}, "a step of Extragradient begins at another policy"),
        ("nash_md", {"fit": Fit(max_kl=1.0)}, "those that a GeometricMixture logs are not its alone"),
    ],
)
def test_what_means_nothing_is_refused(name, changes, said):
    with pytest.raises(ConfigError, match=said):
        validate(game(name, **changes))


def test_recorded_pairs_say_nothing_of_a_look_ahead():
    recorded = load(CONFIGS / "preference" / "dpo_tiny.py")
    with pytest.raises(ConfigError, match="and the pairs are recorded"):
        validate(dataclasses.replace(recorded, step_rule=Extragradient()))


def test_policies_are_measured_without_their_anchor():
    made = game("nash_md")
    evaluation = dataclasses.replace(made.evaluation, rollout=made.feedback.rollout)
    with pytest.raises(ConfigError, match="by what they say without their anchor"):
        validate(dataclasses.replace(made, evaluation=evaluation))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_one(share):
    assert "share must lie in" in "".join(GeometricMixture(share=share).problems())
    assert "has a part already" in "".join(GeometricMixture(GeometricMixture()).problems())


def test_what_leaves_no_pairs_is_told_by_its_place():
    assert "".join(GeometricMixture(Sample(samples=1)).unpaired()).startswith("rollout.samples must be at least 2")


def test_mixtures_are_not_certified_as_the_policy():
    made = game("nash_md")
    assert "the anchor has a part in the answers of GeometricMixture" in uncertified(made.loss, made.feedback)
    assert not uncertified(made.loss, fed(made, rollout=Enumerate()).feedback)


def test_where_steps_begin():
    assert [Forward().origin(i) for i in range(4)] == [0, 1, 2, 3]
    assert [Extragradient().origin(i) for i in range(4)] == [0, 0, 2, 2]


def test_magnetic_descent_is_inpo_with_a_smaller_step():
    """step / (1 + step tau) is INPO's step size, and tau its own: the config's loss says so."""
    assert game("mpo").loss == INPOLoss(eta=1 / STEP + TAU, tau=TAU)
    smaller = walk(INPO(STEP / (1 + STEP * TAU), TAU), 3)
    np.testing.assert_allclose(walk(Magnetic(STEP, TAU, 100), 3), smaller, atol=1e-12)
    assert game("onpo").loss == IPO(tau=1 / (2 * STEP))
