"""What losses are minimised by: on a population of four answers, the gradient is zero where theory says.

S are rewards and μ the reference, from which pairs are drawn; a policy is named by its log-ratio to μ but for a
constant.
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_populations import (
    ASIDE,
    CHOSEN,
    CYCLE,
    ELSE,
    EVERY,
    FIRST,
    LIKELY,
    MU,
    ORDERS,
    PAIRS,
    WIN,
    WON,
    S,
    drift,
    odds,
    seen_of,
    slope,
    steepest,
    told,
    towards,
)

from jaxalign.losses.alpha_po import AlphaPO
from jaxalign.losses.ampo import AMPO
from jaxalign.losses.anchored import APOAlone
from jaxalign.losses.bco import BCO
from jaxalign.losses.bco_pairs import BCOPairs
from jaxalign.losses.bmc import BMC
from jaxalign.losses.composed import Composed
from jaxalign.losses.cpo import CPO
from jaxalign.losses.dno import DNO
from jaxalign.losses.dpo import DPO
from jaxalign.losses.exo import EXO
from jaxalign.losses.exo_list import EXOList
from jaxalign.losses.f_dpo import FDPO
from jaxalign.losses.hinge import HingePO
from jaxalign.losses.inpo import INPO
from jaxalign.losses.ipo import IPO, TokenMeanIPO
from jaxalign.losses.kto import KTO
from jaxalign.losses.ld_dpo import LDDPO
from jaxalign.losses.likelihood import Likelihood, TokenLikelihood
from jaxalign.losses.margin_soft_dpo import MarginSoftDPO
from jaxalign.losses.modpo import MODPO
from jaxalign.losses.nca import NCA
from jaxalign.losses.nca_list import InfoNCA, NCAList
from jaxalign.losses.offset_dpo import OffsetDPO
from jaxalign.losses.parts.divergences import AlphaDivergence, ForwardKL, JensenShannon
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.scores import Logp
from jaxalign.losses.plackett_luce import PlackettLuce
from jaxalign.losses.rebel import REBEL
from jaxalign.losses.reward_aware import RewardAwareBackward, RewardAwareForward, RewardAwareSquared
from jaxalign.losses.robust_dpo import RobustDPO
from jaxalign.losses.self_play_gradient import SelfPlayGradient
from jaxalign.losses.sppo import SPPO, SPPOHard
from jaxalign.losses.token_mean_dpo import TokenMeanDPO
from jaxalign.losses.trpa import TRPA
from jaxalign.losses.win_rate_regression import WinRateRegression
from jaxalign.losses.wpo import WPO
from jaxalign.types import GroupLogps, Labels, Loss


def flipped(prefer: np.ndarray, rate: float) -> np.ndarray:
    return (1 - rate) * prefer + rate * (1 - prefer)


def divergent(score: Callable[[np.ndarray], np.ndarray], beta: float) -> tuple[np.ndarray, np.ndarray]:
    """(log-ratio, preferences) of a policy whose reward is beta f′ of its ratio to μ."""
    tilted = MU * np.exp(S)
    ratio = tilted / tilted.sum() / MU
    return np.log(ratio), odds(beta * score(ratio))


LINEAR = 0.5 + 0.1 * (S[:, None] - S[None, :])
"""Preferences whose differences from 1/2 add up."""
FORWARD, JENSEN, ALPHA = (
    divergent(lambda t: 1 - 1 / t, 0.7),
    divergent(lambda t: np.log(2 * t / (1 + t)), 0.7),
    divergent(lambda t: (t**-0.5 - 1) / -0.5, 0.7),
)
TILTED = MU * np.exp(S) / (MU * np.exp(S)).sum()
THEORY: dict[str, tuple[Loss, np.ndarray, np.ndarray]] = {
    "DPO is best for the reward under the KL": (DPO(0.7), S / 0.7, odds(S)),
    "robust DPO of flipped labels too": (RobustDPO(0.7, 0.2), S / 0.7, flipped(odds(S), 0.2)),
    "f-DPO, forward KL": (FDPO(ForwardKL(), 0.7), *FORWARD),
    "f-DPO, Jensen and Shannon": (FDPO(JensenShannon(), 0.7), *JENSEN),
    "f-DPO, alpha": (FDPO(AlphaDivergence(0.5), 0.7), *ALPHA),
    "CPO has a uniform reference": (CPO(0.7, alpha=0.0), S / 0.7 - np.log(MU), odds(S)),
    "SimPO without a margin too": (Composed(Logp(), Logistic(0.7)), S / 0.7 - np.log(MU), odds(S)),
    "offsets are added to the reward": (OffsetDPO(0.7, 0.4), (S + 0.4 * ELSE) / 0.7, odds(S)),
    "MODPO weighs two rewards": (MODPO(0.7, 0.6), (0.6 * S + 0.4 * ELSE) / 0.7, odds(S)),
    "MMPO goes by scores": (MarginSoftDPO(1.5, 0.7), 1.5 * ELSE / 0.7, odds(S)),
    "reward-aware, squared": (RewardAwareSquared(0.7, 1.5), 1.5 * ELSE / 0.7, odds(S)),
    "reward-aware, forward": (RewardAwareForward(0.7, 1.5), 1.5 * ELSE / 0.7, odds(S)),
    "reward-aware, backward": (RewardAwareBackward(0.7, 1.5), 1.5 * ELSE / 0.7, odds(S)),
    "REBEL is a policy gradient step": (REBEL(1.5), 1.5 * ELSE, odds(S)),
    "IPO goes by win rates": (IPO(0.7), WIN / 0.7, CYCLE),
    "INPO against the same policy twice": (INPO(0.7, 0.3), WIN / 0.7, CYCLE),
    "regression to win rates": (WinRateRegression(0.7, 0.3), WIN / 0.7, CYCLE),
    "DNO goes by win rates": (DNO(0.7), WIN / 0.7, CYCLE),
    "DPO by the token": (TokenMeanDPO(0.7), S / 0.7, odds(S)),
    "IPO by the token": (TokenMeanIPO(0.7), WIN / 0.7, CYCLE),
    "LD-DPO of answers of one length": (LDDPO(0.7), S / 0.7, odds(S)),
    "BMC counts all tokens of a chance below 1/delta alike": (BMC(0.7 / 2.5, 1.5), S / 0.7, odds(S)),
    "WPO weighs pairs that are all right": (WPO(0.7), S / 0.7, odds(S)),
    "EXO doubts linearly": (EXO(0.7, 0.01), 0.2 * S * np.log(0.99 / 0.01) / 0.7, LINEAR),
    "AlphaPO bends the reward": (AlphaPO(0.3, 0.7, 0.0), np.log(TILTED / MU), odds(0.7 * (1 - TILTED**-0.3) / 0.3)),
}
LISTS: dict[str, tuple[Loss, np.ndarray]] = {
    "EXO": (EXOList(0.5, 0.7), ELSE / 0.5 / 0.7),
    "InfoNCA": (InfoNCA(0.5, 0.7), ELSE / 0.5 / 0.7),
}


@pytest.mark.parametrize(("loss", "ratio", "prefer"), THEORY.values(), ids=THEORY)
def test_the_gradient_is_zero_where_theory_says(loss, ratio, prefer):
    """And is not elsewhere: fp32 leaves 1e-7 of gradients of size 1e-2 and more."""
    np.testing.assert_allclose(slope(loss, ratio, prefer, PAIRS), np.zeros(4), atol=2e-6)
    assert np.abs(slope(loss, ratio + ASIDE, prefer, PAIRS)).max() > 1e-3


@pytest.mark.parametrize(("loss", "ratio"), LISTS.values(), ids=LISTS)
def test_lists_of_all_answers(loss, ratio):
    every = np.arange(4)[None]
    np.testing.assert_allclose(slope(loss, ratio, odds(S), every), np.zeros(4), atol=2e-6)
    assert np.abs(slope(loss, ratio + ASIDE, odds(S), every)).max() > 1e-3


def test_self_play_follows_the_gradient_of_the_game():
    """Of P(π ≻ μ) − beta KL(π ‖ anchor) at π = μ, by its definition."""
    anchor, beta = np.array([0.25, 0.25, 0.3, 0.2]), 0.2

    def game(logits: jax.Array) -> jax.Array:
        policy = jax.nn.softmax(logits)
        return policy @ jnp.asarray(WIN - 0.5, jnp.float32) - beta * policy @ jnp.log(
            policy / jnp.asarray(anchor, jnp.float32)
        )

    def surrogate(logits: jax.Array) -> jax.Array:
        tokens = jax.nn.log_softmax(logits)[:, None, None]
        labels = Labels.of_one(jnp.ones(4), jnp.asarray(WIN[:, None], jnp.float32))
        log_anchor = jnp.asarray(np.log(anchor)[:, None], jnp.float32)
        seen = GroupLogps(tokens, jnp.ones(tokens.shape, bool), None, log_anchor, labels)
        return SelfPlayGradient(beta)(seen) @ jnp.asarray(MU, jnp.float32)

    logits = jnp.asarray(np.log(MU), jnp.float32)
    np.testing.assert_allclose(jax.grad(surrogate)(logits), -jax.grad(game)(logits), atol=1e-6)


def test_nca_tells_answers_from_a_uniform_reference():
    """σ(r) = p / (p + 1/K): with beta 1 the policy is p itself, which sums to 1."""
    even = np.full(4, 0.25)
    shares = np.exp(ELSE / 0.5) / np.exp(ELSE / 0.5).sum()
    ratio = np.log(shares / even)
    loss = NCAList(0.5, 1.0)
    np.testing.assert_allclose(slope(loss, ratio, odds(S), np.arange(4)[None], even), np.zeros(4), atol=2e-6)
    assert np.abs(slope(loss, 0.5 * ratio, odds(S), np.arange(4)[None], even)).max() > 1e-3


# ----------------------------------------------------------------------------------------------------------------------
# Of answers by themselves


LOGIT = np.log(CHOSEN / (1 - CHOSEN))
FREE: dict[str, tuple[Loss, np.ndarray]] = {
    "BCO of pairs tells chosen from rejected": (BCOPairs(0.7), LOGIT / 0.7),
    "SPPO regresses on win rates": (SPPO(3.0), 3.0 * (WIN - 0.5)),
    "SPPO of hard labels on how often an answer wins": (SPPOHard(3.0), 3.0 * (CHOSEN - 0.5)),
}


@pytest.mark.parametrize(("loss", "ratio"), FREE.values(), ids=FREE)
def test_rewards_of_pairs(loss, ratio):
    labels = told(CYCLE[PAIRS[:, 0], PAIRS[:, 1]], PAIRS)
    assert steepest(loss, ratio, PAIRS, labels, EVERY) < 2e-6
    assert steepest(loss, ratio + ASIDE, PAIRS, labels, EVERY) > 1e-3


def test_bco_is_a_calibrated_classifier():
    """Of lone answers; odds that balance leave the shift free, since it is taken from the rewards themselves."""
    desirable, alone = np.array([0.2, 0.8, 0.3, 0.7]), np.arange(4)[:, None]
    ratio = (np.log(desirable / (1 - desirable)) + 0.3) / 0.7
    assert steepest(BCO(0.7), ratio, alone, told(desirable, alone), np.ones(4)) < 2e-6
    assert steepest(BCO(0.7), ratio + ASIDE, alone, told(desirable, alone), np.ones(4)) > 1e-3


@pytest.mark.parametrize("loss", [KTO(0.7), APOAlone(0.7)], ids=["KTO", "APOAlone"])
def test_losses_of_utility_go_to_the_likelier_side(loss):
    """Linear in the label: however far answers have moved, the slope is towards what is said more often."""
    desirable, alone = jnp.array([0.2, 0.8, 0.3, 0.7]), np.arange(4)[:, None]
    value = lambda free: loss(seen_of(free, alone, told(np.asarray(desirable), alone), MU)).sum()  # noqa: E731
    for far in (-2.0, 0.0, 2.0):
        np.testing.assert_array_equal(jnp.sign(jax.grad(value)(jnp.full(4, far))), jnp.sign(0.5 - desirable))


def test_the_hinge_ends_at_its_margin():
    """Of a label that is right seven times of ten, as of one that always is."""
    margins = np.linspace(-4, 4, 81)
    for prefer in (0.7, 1.0):
        values = [
            float(HingePO(0.5)(seen_of(jnp.array([each, 0.0, 0.0, 0.0]), PAIRS[:1], told([prefer], PAIRS[:1]), MU))[0])
            for each in margins
        ]
        assert margins[int(np.argmin(values))] == pytest.approx(2.0)


# ----------------------------------------------------------------------------------------------------------------------
# Of policies, where groups are drawn otherwise


RANKINGS = np.array(list(itertools.permutations(range(4))))
FALLING = np.tile(np.array([3.0, 2.0, 1.0, 0.0]), (24, 1))
LUCE = np.array([np.prod([np.exp(S[row[k]]) / np.exp(S[row[k:]]).sum() for k in range(4)]) for row in RANKINGS])
DRAWN: dict[str, tuple[Loss, np.ndarray, np.ndarray, Labels, np.ndarray]] = {
    "a likelihood is the distribution of what is chosen": (
        *(Likelihood(), CHOSEN / CHOSEN.sum(), PAIRS),
        *(told(CYCLE[PAIRS[:, 0], PAIRS[:, 1]], PAIRS), EVERY),
    ),
    "and so is that of tokens, where all answers have one": (
        *(TokenLikelihood(), CHOSEN / CHOSEN.sum(), PAIRS),
        *(told(CYCLE[PAIRS[:, 0], PAIRS[:, 1]], PAIRS), EVERY),
    ),
    "NCA of pairs too, from an even reference": (
        *(NCA(1.0), CHOSEN / CHOSEN.sum(), PAIRS),
        *(told(CYCLE[PAIRS[:, 0], PAIRS[:, 1]], PAIRS), EVERY),
    ),
    "rankings of Plackett and Luce": (
        *(PlackettLuce(0.7), towards(S / 0.7), RANKINGS),
        *(told(np.ones(24), RANKINGS, FALLING), LUCE),
    ),
    "AMPO is how often each answer is the best": (
        *(AMPO(0.0), towards(S), FIRST),
        *(told(np.ones(4), FIRST, np.tile([1.0, 0, 0, 0], (4, 1))), towards(S)),
    ),
    "TRPA of pairs is DPO": (
        *(TRPA(0.4, 2.0), towards(S / 0.8), ORDERS),
        *(told(np.ones(len(ORDERS)), ORDERS, WON), np.concatenate([LIKELY, 1 - LIKELY])),
    ),
}


@pytest.mark.parametrize(("loss", "policy", "groups", "labels", "weight"), DRAWN.values(), ids=DRAWN)
def test_policies_of_other_populations(loss, policy, groups, labels, weight):
    assert drift(loss, policy, groups, labels, weight) < 2e-6
    assert drift(loss, policy * np.exp(ASIDE), groups, labels, weight) > 1e-3
