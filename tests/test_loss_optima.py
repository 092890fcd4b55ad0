"""What losses are minimised by: on all pairs of four answers, the gradient is zero at the policy that theory names.

S are rewards and μ the reference, from which pairs are drawn; a policy is named by its log-ratio to μ but for a
constant.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.losses.composed import Composed
from jaxalign.losses.cpo import CPO
from jaxalign.losses.dno import DNO
from jaxalign.losses.dpo import DPO
from jaxalign.losses.exo_list import EXOList
from jaxalign.losses.f_dpo import FDPO
from jaxalign.losses.inpo import INPO
from jaxalign.losses.ipo import IPO
from jaxalign.losses.margin_soft_dpo import MarginSoftDPO
from jaxalign.losses.modpo import MODPO
from jaxalign.losses.nca_list import InfoNCA, NCAList
from jaxalign.losses.offset_dpo import OffsetDPO
from jaxalign.losses.parts.divergences import AlphaDivergence, ForwardKL, JensenShannon
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.scores import Logp
from jaxalign.losses.rebel import REBEL
from jaxalign.losses.reward_aware import RewardAwareBackward, RewardAwareForward, RewardAwareSquared
from jaxalign.losses.robust_dpo import RobustDPO
from jaxalign.losses.self_play_gradient import SelfPlayGradient
from jaxalign.losses.win_rate_regression import WinRateRegression
from jaxalign.types import GroupLogps, Labels, Loss

S = np.array([0.3, -0.8, 1.1, 0.0])
MU = np.array([0.1, 0.4, 0.2, 0.3])
ELSE = np.array([0.5, 0.2, -0.4, 0.9])
"""Rewards of another objective."""
CYCLE = 0.5 + np.array([[0, 0.3, -0.2, 0.1], [-0.3, 0, 0.4, -0.1], [0.2, -0.4, 0, 0.3], [-0.1, 0.1, -0.3, 0]])
"""Preferences that no reward explains."""
WIN = CYCLE @ MU
ASIDE = np.array([0.3, 0, 0, 0])


def odds(rewards: np.ndarray) -> np.ndarray:
    """P(i ≻ j) of Bradley and Terry."""
    return 1 / (1 + np.exp(rewards[None, :] - rewards[:, None]))


def flipped(prefer: np.ndarray, rate: float) -> np.ndarray:
    return (1 - rate) * prefer + rate * (1 - prefer)


def divergent(score: Callable[[np.ndarray], np.ndarray], beta: float) -> tuple[np.ndarray, np.ndarray]:
    """(log-ratio, preferences) of a policy whose reward is beta f′ of its ratio to μ."""
    tilted = MU * np.exp(S)
    ratio = tilted / tilted.sum() / MU
    return np.log(ratio), odds(beta * score(ratio))


FORWARD, JENSEN, ALPHA = (
    divergent(lambda t: 1 - 1 / t, 0.7),
    divergent(lambda t: np.log(2 * t / (1 + t)), 0.7),
    divergent(lambda t: (t**-0.5 - 1) / -0.5, 0.7),
)
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
}
LISTS: dict[str, tuple[Loss, np.ndarray]] = {
    "EXO": (EXOList(0.5, 0.7), ELSE / 0.5 / 0.7),
    "InfoNCA": (InfoNCA(0.5, 0.7), ELSE / 0.5 / 0.7),
}


def slope(
    loss: Loss, ratio: np.ndarray, prefer: np.ndarray, groups: np.ndarray, reference: np.ndarray = MU
) -> np.ndarray:
    """Gradient by the logits of the mean loss of groups of answers, by their probability under the reference."""
    weight = reference[groups].prod(-1)
    log_mu = jnp.asarray(np.log(reference)[groups], jnp.float32)
    labels = Labels.of_one(
        jnp.asarray(prefer[groups[:, 0], groups[:, 1]], jnp.float32),
        jnp.asarray(WIN[groups], jnp.float32),
        jnp.asarray(ELSE[groups], jnp.float32),
    )

    def mean(logits: jax.Array) -> jax.Array:
        tokens = jax.nn.log_softmax(logits)[groups][..., None]
        seen = GroupLogps(tokens, jnp.ones(tokens.shape, bool), log_mu, log_mu, labels)
        return (loss(seen) * jnp.asarray(weight / weight.sum(), jnp.float32)).sum()

    return np.asarray(jax.jit(jax.grad(mean))(jnp.asarray(np.log(reference) + ratio, jnp.float32)))


PAIRS = np.array([(i, j) for i in range(4) for j in range(4) if i != j])


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
