"""What losses are minimised by where more than the label counts: margins, added terms, batches, votes, sets.

Where two terms pull, or a link is no likelihood, the labels are made for a policy and not the policy for the labels:
those of which it is said that the loss is at rest there.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from made_logps import logps
from made_populations import (
    ASIDE,
    ELSE,
    EVERY,
    LIKELY,
    MU,
    ORDERS,
    PAIRS,
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

from jaxalign.contracts.remembering import begun, recalling
from jaxalign.losses.amopo import AMoPO
from jaxalign.losses.anchored import APODown, APOZero
from jaxalign.losses.aot import AOT, AOTUnpaired
from jaxalign.losses.beta_dpo import BetaDPO
from jaxalign.losses.discopop import DiscoPOP
from jaxalign.losses.dpo import DPO
from jaxalign.losses.dro import DRO
from jaxalign.losses.drpo import DRPO
from jaxalign.losses.gpo import GPO
from jaxalign.losses.hypo import HyPO
from jaxalign.losses.likelihood import Likelihood
from jaxalign.losses.mappo import MaPPO
from jaxalign.losses.omni_dpo import OmniDPO
from jaxalign.losses.orpo import ORPO
from jaxalign.losses.pmpo import PMPO
from jaxalign.losses.pro import PRO
from jaxalign.losses.relative_po import RelativePO
from jaxalign.losses.repo import RePO
from jaxalign.losses.simpo import SimPO
from jaxalign.losses.sum_of import SumOf
from jaxalign.losses.swepo import SWEPO
from jaxalign.losses.vpo import VPO
from jaxalign.losses.weighted_votes import WeightedVotes
from jaxalign.types import GroupLogps, Loss

POLICY = np.array([0.15, 0.35, 0.3, 0.2])
EVEN = np.full(4, 0.25)
FIRSTS, SECONDS = PAIRS.T


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def labels_of(falls: np.ndarray) -> np.ndarray:
    """P(i ≻ j) at which a pair is at rest, of how fast its loss falls with the margin of i over j."""
    return falls.T / (falls + falls.T)


def modulated(z: np.ndarray) -> np.ndarray:
    """How fast DiscoPOP's loss falls with its z, by finite differences."""

    def loss(z: np.ndarray) -> np.ndarray:
        m = sigmoid(z / 0.05)
        return (1 - m) * np.logaddexp(0, -z) + m * np.exp(-z)

    return (loss(z - 1e-6) - loss(z + 1e-6)) / 2e-6


def apart(values: np.ndarray) -> np.ndarray:
    return values[:, None] - values[None, :]


SURE = 0.6 * np.array([0.0, 1.0, 2.0, 3.0])
"""Log-ratios so far apart that DiscoPOP has left its hump."""
THEORY: dict[str, tuple[Loss, np.ndarray, np.ndarray]] = {
    "SimPO asks for more than the label's odds": (
        *(SimPO(0.7, 0.5), np.log(POLICY / MU)),
        labels_of(sigmoid(0.35 - 0.7 * apart(np.log(POLICY)))),
    ),
    "DiscoPOP beyond its hump": (DiscoPOP(0.5, 0.05), SURE, labels_of(modulated(0.5 * apart(SURE)))),
    "Omni-DPO adds the ratings to the reward": (
        *(OmniDPO(9.0, 0.7, eta=0.4, gamma=0.0, lift=0.0), (S + 0.4 * ELSE) / 0.7),
        odds(S),
    ),
}


@pytest.mark.parametrize(("loss", "ratio", "prefer"), THEORY.values(), ids=THEORY)
def test_pairs_of_the_reference(loss, ratio, prefer):
    np.testing.assert_allclose(slope(loss, ratio, prefer, PAIRS), np.zeros(4), atol=2e-6)
    assert np.abs(slope(loss, ratio + ASIDE, prefer, PAIRS)).max() > 1e-3


def test_direct_rewards_need_no_pairs():
    loss, every = DRO(0.7), np.arange(4)[None]
    np.testing.assert_allclose(slope(loss, ELSE / 0.7, odds(S), every), np.zeros(4), atol=2e-6)
    assert np.abs(slope(loss, ELSE / 0.7 + ASIDE, odds(S), every)).max() > 1e-3


def test_general_preferences_are_regressed_on_scores():
    labels = told(np.ones(len(PAIRS)), PAIRS, ELSE[PAIRS])
    assert steepest(GPO(0.5), ELSE / 0.5, PAIRS, labels, EVERY) < 2e-6
    assert steepest(GPO(0.5), ELSE / 0.5 + ASIDE, PAIRS, labels, EVERY) > 1e-3


# ----------------------------------------------------------------------------------------------------------------------
# Likelihoods beside a label


def chosen_as_said(prefer: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """Weights of the ordered pairs, label i ≻ j of probability `prefer`, by which answers are chosen in the proportions
    of `policy`."""
    wins = np.array([[p * (i == k) + (1 - p) * (j == k) for k in range(4)] for i, j, p in rows(prefer)])
    weight, left = scipy.optimize.nnls(wins.T, policy)
    assert left < 1e-12
    return weight


def rows(prefer: np.ndarray) -> list[tuple[int, int, float]]:
    return [(i, j, prefer[i, j]) for i, j in PAIRS.tolist()]


RIVALS = np.log(POLICY / (1 - POLICY))
BESIDE: dict[str, tuple[Loss, np.ndarray, float]] = {
    "ORPO goes by odds": (ORPO(0.4), odds(RIVALS), 0.0),
    "DPO with a likelihood": (SumOf((DPO(0.7), Likelihood()), (1.0, 0.5)), odds(0.7 * np.log(POLICY)), 0.0),
}


@pytest.mark.parametrize(("loss", "prefer", "score"), BESIDE.values(), ids=BESIDE)
def test_both_terms_are_at_rest(loss, prefer, score):
    """Where implicit preferences are the labels, and answers are as likely as they are chosen."""
    labels = told(prefer[FIRSTS, SECONDS], PAIRS, np.full(PAIRS.shape, score))
    weight = chosen_as_said(prefer, POLICY)
    assert drift(loss, POLICY, PAIRS, labels, weight) < 2e-6
    assert drift(loss, POLICY * np.exp(ASIDE), PAIRS, labels, weight) > 1e-3


@pytest.mark.parametrize("alpha", [-0.4, 0.3])
def test_the_value_mixes_the_policys_own_preference_into_labels(alpha):
    """Of pairs that are met as often as either answer is said, t = π_i/(π_i + π_j) being its own preference:
    σ(z) = (1 − alpha) p + alpha t."""
    own = POLICY[:, None] / (POLICY[:, None] + POLICY[None, :])
    prefer = (odds(0.7 * np.log(POLICY)) - alpha * own) / (1 - alpha)
    labels, weight = told(prefer[FIRSTS, SECONDS], PAIRS), POLICY[FIRSTS] + POLICY[SECONDS]
    assert drift(VPO(alpha, 0.7), POLICY, PAIRS, labels, weight) < 2e-6
    assert drift(VPO(0.0, 0.7), POLICY, PAIRS, labels, weight) > 1e-3


def test_mappo_of_answers_rated_alike_has_no_rejected_ones():
    """It draws every chosen answer up against its reference: π (π + μ)/μ is how often each is chosen."""
    often = POLICY * (POLICY + EVEN) / EVEN
    labels = told(np.ones(len(PAIRS)), PAIRS, np.zeros(PAIRS.shape))
    assert drift(MaPPO(1.0), POLICY, PAIRS, labels, often[FIRSTS]) < 2e-6
    assert drift(DPO(1.0), POLICY, PAIRS, labels, often[FIRSTS]) > 1e-3


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_pmpo_takes_bad_answers_out_of_the_anchor_and_puts_good_ones_in(alpha):
    good, alone = np.array([0.2, 0.8, 0.3, 0.7]), np.arange(4)[:, None]
    kinds = [EVEN * each / (EVEN * each).sum() for each in (good, 1 - good)]
    best = alpha * kinds[0] - (1 - alpha) * kinds[1] + 2.0 * EVEN
    loss, labels = PMPO(alpha, 2.0), told(good, alone)
    assert drift(loss, best / best.sum(), alone, labels, EVEN) < 2e-6
    assert drift(loss, best / best.sum() * np.exp(ASIDE), alone, labels, EVEN) > 1e-3


# ----------------------------------------------------------------------------------------------------------------------
# Of sets, of votes and of the batch


def test_pro_of_pairs_goes_by_odds():
    labels, weight = told(np.ones(len(ORDERS)), ORDERS, WON), np.concatenate([LIKELY, 1 - LIKELY])
    assert drift(PRO(0.0), towards(S), ORDERS, labels, weight) < 2e-6
    assert drift(PRO(0.0), towards(S) * np.exp(ASIDE), ORDERS, labels, weight) > 1e-3


def test_sets_are_as_likely_together_as_they_are_good():
    """Answers 0 and 2 or 1 and 3, .45 to .55: as POLICY has it, and any other policy with these sums."""
    sets = np.tile(np.arange(4), (2, 1))
    labels = told(np.ones(2), sets, np.array([[1.0, 0, 1, 0], [0, 1.0, 0, 1]]))
    for policy in (POLICY, np.array([0.4, 0.5, 0.05, 0.05])):
        assert drift(SWEPO(0.0, 1.0), policy, sets, labels, np.array([0.45, 0.55])) < 2e-6
    assert drift(SWEPO(0.0, 1.0), POLICY * np.exp(ASIDE), sets, labels, np.array([0.45, 0.55])) > 1e-3


@pytest.mark.parametrize("loss", [WeightedVotes(DPO(0.7), (0.6, 0.4)), AMoPO((0.6, 0.4), 0.7)], ids=["DPO", "AMoPO"])
def test_votes_count_as_the_mixture_of_them(loss):
    """Two annotators who are off to either side of Bradley and Terry, by as much as they weigh."""
    off = 0.05 * np.sign(FIRSTS - SECONDS)
    votes = np.stack([LIKELY + 0.4 * off, LIKELY - 0.6 * off], 1).astype(np.float32)
    labels = dataclasses.replace(told(LIKELY, PAIRS), votes=jnp.asarray(votes), decided=jnp.ones(votes.shape))
    assert drift(loss, towards(S / 0.7), PAIRS, labels, EVERY) < 2e-6
    assert drift(loss, towards(S / 0.7) * np.exp(ASIDE), PAIRS, labels, EVERY) > 1e-3


def test_against_all_of_a_batch_answers_go_by_the_odds_of_being_chosen():
    """Each pair (i, j) n_ij times, chosen first; `own` 1/n makes the mean one over all n rejected answers."""
    often = np.array([[0, 2, 1, 3], [1, 0, 2, 1], [4, 1, 0, 1], [1, 3, 1, 0]])
    groups = np.repeat(PAIRS, often[FIRSTS, SECONDS], axis=0)
    ratio = np.log(often.sum(1) / often.sum(0)) / 0.7
    loss, labels = RelativePO(1 / len(groups), 0.7), told(np.ones(len(groups)), groups)
    assert steepest(loss, ratio, groups, labels, np.ones(len(groups))) < 2e-6
    assert steepest(loss, ratio + ASIDE, groups, labels, np.ones(len(groups))) > 1e-3


@pytest.mark.parametrize("loss", [AOT(0.5, 0.2), AOTUnpaired(0.5, 0.2)], ids=["AOT", "AOTUnpaired"])
def test_transport_ends_where_every_rank_is_as_far_ahead_as_labels_are_doubted(loss):
    """log(.8/.2)/beta of upper over lower, rank by rank: whichever pair has which rank."""
    x, ahead = logps(groups=6), np.log(0.8 / 0.2) / 0.5
    lower = np.array([0.3, -1.0, 2.0, 0.1, -0.4, 1.2])
    upper = lower[np.array([4, 2, 0, 5, 1, 3])] + ahead
    sums, anchor = np.zeros((6, 2)), np.zeros((6, 2))
    if isinstance(loss, AOT):
        sums[:, 0], anchor[:, 0] = upper, lower
    else:
        sums[:, 0], sums[:, 1] = upper, lower

    def steep(sums: np.ndarray) -> float:
        tokens, mask = jnp.asarray(sums, jnp.float32)[..., None], jnp.ones((6, 2, 1), bool)
        at = GroupLogps(tokens, mask, None, jnp.asarray(anchor, jnp.float32), x.labels, weight=x.weight)
        slopes = jax.grad(lambda tokens: loss(dataclasses.replace(at, tokens=tokens)).sum())(tokens)
        return float(jnp.abs(slopes).max())

    assert steep(sums) < 2e-6
    assert steep(sums + np.array([0.3, 0.0])) > 1e-3


def test_a_beta_of_the_batch_is_dpo_with_that_beta():
    """Margins of both orders of every pair are 0 on average, .9 · .5 = .45 below what was usual before."""
    loss = BetaDPO(0.7, alpha=0.6, drop=0.0)
    beta = 0.7 * (1 - 0.6 * 0.45)
    memory = {**begun(loss), "margin_mean": jnp.float32(0.5)}
    labels, weight = told(np.concatenate([LIKELY * 0 + 1, LIKELY * 0]), ORDERS), np.concatenate([LIKELY, 1 - LIKELY])

    def remembering(seen):
        return loss(recalling(seen, memory))

    assert steepest(remembering, S / beta, ORDERS, labels, weight) < 2e-6
    assert steepest(remembering, S / 0.7, ORDERS, labels, weight) > 1e-3


# ----------------------------------------------------------------------------------------------------------------------
# Utilities and ends


def test_zero_anchored_goes_to_the_likelier_side_however_far():
    value = lambda free: APOZero(0.7)(seen_of(free, PAIRS[:1], told([0.8], PAIRS[:1]), MU)).sum()  # noqa: E731
    for far in (-2.0, 0.0, 2.0):
        np.testing.assert_array_equal(jnp.sign(jax.grad(value)(jnp.full(4, far))), [-1, 1, 0, 0])


def test_down_anchored_has_the_rejected_answer_twice_as_far_down():
    """There the chosen one is at rest, as σ is as steep at r_w as at r_w − r_l = −r_w; the rejected one still falls."""
    slopes = jax.grad(lambda free: APODown(0.7)(seen_of(free, PAIRS[:1], told([1.0], PAIRS[:1]), MU)).sum())
    found = slopes(jnp.array([-1.5, -3.0, 0.0, 0.0]))
    np.testing.assert_allclose(found[0], 0, atol=1e-7)
    assert found[1] > 1e-2
    assert slopes(jnp.array([-1.0, -3.0, 0.0, 0.0]))[0] > 1e-2 > -1e-2 > slopes(jnp.array([-2.0, -3.0, 0.0, 0.0]))[0]


def test_repo_ends_at_its_margin():
    """Of a label that is right seven times of ten, as of one that always is."""
    margins = np.linspace(-2, 2, 81)
    for prefer in (0.7, 1.0):
        at = [seen_of(jnp.array([each, 0, 0, 0]), PAIRS[:1], told([prefer], PAIRS[:1]), EVEN) for each in margins]
        assert margins[int(np.argmin([float(RePO(0.6)(x)[0]) for x in at]))] == pytest.approx(0.6)


# ----------------------------------------------------------------------------------------------------------------------
# What the policy says itself


ANCHOR = np.array([0.3, 0.2, 0.1, 0.4])
TRIPLES = np.array(list(itertools.product(range(4), repeat=3)))
PREFER = odds(ELSE)


def surrogate(loss: Loss, scores: np.ndarray) -> np.ndarray:
    """Gradient by logits at POLICY, of pairs that the anchor says and a third answer that the policy says."""
    weight = jnp.asarray(ANCHOR[TRIPLES[:, 0]] * ANCHOR[TRIPLES[:, 1]] * POLICY[TRIPLES[:, 2]], jnp.float32)
    labels = told(PREFER[TRIPLES[:, 0], TRIPLES[:, 1]], TRIPLES, scores[TRIPLES])

    def mean(logits: jax.Array) -> jax.Array:
        ratio = jax.nn.log_softmax(logits) - jnp.asarray(np.log(ANCHOR), jnp.float32)
        return (loss(seen_of(ratio, TRIPLES, labels, ANCHOR)) * weight).sum()

    return np.asarray(jax.grad(mean)(jnp.asarray(np.log(POLICY), jnp.float32)))


def penalty(logits: jax.Array) -> jax.Array:
    policy = jax.nn.softmax(logits)
    return policy @ (jnp.log(policy) - jnp.asarray(np.log(ANCHOR), jnp.float32))


@pytest.mark.parametrize(
    ("loss", "scores"),
    [(DRPO(0.2, most=1.0), ELSE), (DRPO(0.2, most=1.5), ELSE), (DRPO(0.2, most=1e3), S), (DRPO(0.2, 3.0, 1e3), ELSE)],
    ids=["the model is right", "and weights are cut off", "the model is wrong", "and of another temperature"],
)
def test_doubly_robust_is_the_gradient_of_the_win_rate(loss, scores):
    """−P(π ≻ anchor) + beta KL(π ‖ anchor), by its definition."""

    def game(logits: jax.Array) -> jax.Array:
        return -jax.nn.softmax(logits) @ jnp.asarray(PREFER @ ANCHOR, jnp.float32) + 0.2 * penalty(logits)

    np.testing.assert_allclose(surrogate(loss, scores), jax.grad(game)(jnp.log(jnp.asarray(POLICY))), atol=1e-6)


def test_where_the_model_is_wrong_and_labels_do_not_correct_it_the_gradient_is_another():
    assert np.abs(surrogate(DRPO(0.2, most=1.0), S) - surrogate(DRPO(0.2, most=1e3), S)).max() > 1e-2


def test_hybrid_adds_the_gradient_of_the_kl():
    found = surrogate(HyPO(0.7, 0.3), ELSE) - surrogate(HyPO(0.7, 0.0), ELSE)
    np.testing.assert_allclose(found, 0.3 * jax.grad(penalty)(jnp.log(jnp.asarray(POLICY))), atol=1e-6)
