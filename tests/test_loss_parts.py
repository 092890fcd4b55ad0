"""What losses are composed of: limits in which one part is another, and compositions that are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_examples import examples, named
from made_logps import logps

import jaxalign.losses.parts.absolute_links
import jaxalign.losses.parts.divergences
import jaxalign.losses.parts.links
import jaxalign.losses.parts.scores
from jaxalign.contracts.group_size import misfit
from jaxalign.contracts.pairing import third_of
from jaxalign.contracts.votes import annotators_of
from jaxalign.losses.alpha_po import AlphaPO
from jaxalign.losses.ampo import AMPO
from jaxalign.losses.bmc import BMC
from jaxalign.losses.composed import Composed
from jaxalign.losses.cpo import CPO
from jaxalign.losses.dpo import DPO
from jaxalign.losses.dro import DRO
from jaxalign.losses.drpo import DRPO
from jaxalign.losses.exo import EXO
from jaxalign.losses.exo_list import EXOList
from jaxalign.losses.gpo import GPO
from jaxalign.losses.hinge import HingePO
from jaxalign.losses.hypo import HyPO
from jaxalign.losses.inpo import INPO
from jaxalign.losses.kto import KTO
from jaxalign.losses.ld_dpo import LDDPO
from jaxalign.losses.likelihood import Likelihood, TokenLikelihood
from jaxalign.losses.mappo import MaPPO
from jaxalign.losses.modpo import MODPO
from jaxalign.losses.nca import NCA
from jaxalign.losses.nca_list import InfoNCA, NCAList
from jaxalign.losses.offset_dpo import OffsetDPO
from jaxalign.losses.parts.contract import Link, Score
from jaxalign.losses.parts.divergences import AlphaDivergence, ForwardKL, JensenShannon
from jaxalign.losses.parts.links import Hinge, Logistic, Robust, Squared
from jaxalign.losses.parts.scores import EditedTokens, LogOdds, Logp, LogRatio, LongTail, PowerMean, TokenMean
from jaxalign.losses.parts.weights import OnPolicy
from jaxalign.losses.plackett_luce import PlackettLuce
from jaxalign.losses.pmpo import PMPO
from jaxalign.losses.pro import PRO
from jaxalign.losses.relative_po import RelativePO
from jaxalign.losses.repo import RePO
from jaxalign.losses.reward_aware import RewardAwareSquared
from jaxalign.losses.robust_dpo import RobustDPO
from jaxalign.losses.simpo import SimPO
from jaxalign.losses.sppo import SPPO, SPPOHard
from jaxalign.losses.sum_of import SumOf
from jaxalign.losses.swepo import SWEPO
from jaxalign.losses.trpa import TRPA
from jaxalign.losses.vpo import VPO
from jaxalign.losses.weighted_votes import WeightedVotes
from jaxalign.losses.win_rate_regression import WinRateRegression
from jaxalign.losses.xpo import XPO
from jaxalign.types import Loss

SCORES = examples(jaxalign.losses.parts.scores, Score, least=6) | examples(
    jaxalign.losses.parts.divergences, Score, least=3
)
LINKS = examples(jaxalign.losses.parts.links, Link, least=6) | examples(
    jaxalign.losses.parts.absolute_links, Link, least=5
)
LEGAL = {
    (score, link): Composed(SCORES[score], LINKS[link])
    for score in SCORES
    for link in LINKS
    if not list(Composed(SCORES[score], LINKS[link]).problems())
}


def test_most_compositions_mean_something():
    """What does not: five absolute links of four scores without a reference, the difference squared of three scores
    that grow exponentially, and each squared of the two of them that have a reference."""
    assert len(LEGAL) == len(SCORES) * len(LINKS) - 5 * 4 - 3 - 2


@pytest.mark.parametrize("score", SCORES)
def test_what_is_legal_is_finite_however_far_the_policy_has_gone(score):
    """Either answer or both ten thousand nats up or down, weighed or not; values and slopes."""
    x = logps(groups=1)
    far = jnp.array([[[a], [b]] for a in (-1e4, 0.0, 1e4) for b in (-1e4, 0.0, 1e4)], jnp.float32)
    moved = jax.tree.map(lambda leaf: jnp.repeat(leaf, len(far), axis=0), x)
    spread = moved.mask.astype(jnp.float32) / moved.lengths[..., None].astype(jnp.float32)
    tokens = moved.tokens + far * spread
    for (_, link), loss in ((each, loss) for each, loss in LEGAL.items() if each[0] == score):
        for weight in (None, OnPolicy(1.0), OnPolicy(None)):
            weighed = dataclasses.replace(loss, weight=weight)
            if list(weighed.problems()):
                assert weight == OnPolicy(None)
                continue
            run = lambda tokens, loss=weighed: loss(dataclasses.replace(moved, tokens=tokens)).sum()  # noqa: E731
            value, slopes = jax.value_and_grad(run)(tokens)
            assert np.isfinite(value), (link, weight)
            assert np.isfinite(np.asarray(slopes)).all(), (link, weight)


def test_every_part_has_finite_values_and_slopes():
    """Each score with one link and each link with one score, in one program: enough to see all of them."""
    x = logps()
    some = [("LogRatio", link) for link in LINKS] + [(score, "ReverseCrossEntropy") for score in SCORES]

    @jax.jit
    def slopes(tokens):
        at = lambda loss: lambda tokens: loss(dataclasses.replace(x, tokens=tokens)).sum()  # noqa: E731
        return [jax.value_and_grad(at(LEGAL[each]))(tokens) for each in some]

    for name, (value, slope) in zip(some, slopes(x.tokens), strict=True):
        assert np.isfinite(value), name
        assert np.isfinite(np.asarray(slope)).all(), name


@pytest.mark.parametrize(
    ("nonsense", "why"),
    [
        (Composed(Logp(), jaxalign.losses.parts.absolute_links.UpAndDown(0.1)), "log-probs are negative"),
        (Composed(TokenMean(Logp()), jaxalign.losses.parts.absolute_links.Classifier(0.1)), "TokenMean has none"),
        (Composed(ForwardKL(), Squared(0.1)), "fp32 ends there"),
        (Composed(TokenMean(ForwardKL()), Squared(0.1)), "fp32 ends there"),
        (Composed(AlphaDivergence(2.0), Logistic(), OnPolicy()), "has no bound"),
        (SumOf((DPO(), KTO()), (1.0, 1.0)), "same number of answers: DPO reads 2, KTO reads 1"),
        (SumOf((HyPO(), Likelihood()), (1.0, 1.0)), "HyPO reads 3, Likelihood reads 2"),
        (SumOf((HyPO(), XPO()), (1.0, 1.0)), "same third answer: HyPO reads policy, XPO reads anchor"),
        (
            SumOf((WeightedVotes(DPO(), (0.5, 0.5)), WeightedVotes(DPO(0.2), (0.2, 0.3, 0.5))), (1.0, 1.0)),
            "same number of annotators",
        ),
        (TokenMean(LogOdds()), "LogOdds is a mean over tokens already"),
        (TokenMean(TokenMean(LogRatio())), "TokenMean is a mean over tokens already"),
        (AlphaDivergence(1.0), "take LogRatio"),
        (LongTail(1.5), "alpha must lie in"),
        (Robust(0.1, 0.5), "flips must lie in"),
        (OnPolicy(0.0), "most must be positive"),
        (SumOf((DPO(0.1),), (1.0, 2.0)), "1 losses and 2 weights"),
        (SumOf((DPO(0.1),), (-1.0,)), "weights must be positive"),
        (CPO(alpha=-1.0), "alpha must not be negative"),
        (RelativePO(own=2.0), "own must lie in"),
        (MaPPO(span=0.0), "span must be positive"),
        (PMPO(alpha=1.5), "alpha must lie in"),
        (PMPO(beta=0.0), "beta must be positive"),
        (DRPO(most=0.5), "most must be at least 1"),
        (DRPO(beta=-1.0), "beta must not be negative"),
        (HyPO(kl=-1.0), "kl must not be negative"),
        (DRO(tau=0.0), "tau must be positive"),
        (GPO(beta=0.0), "beta must be positive"),
        (SWEPO(0.0, beta=0.0), "beta must be positive"),
    ],
)
def test_what_means_nothing_is_refused_with_its_reason(nonsense, why):
    assert any(why in problem for problem in nonsense.problems())


def test_sums_read_the_groups_that_their_terms_do():
    assert SumOf((PlackettLuce(), InfoNCA(0.5)), (1.0, 1.0)).responses is None
    assert SumOf((PlackettLuce(), DPO()), (1.0, 1.0)).responses == 2
    third = SumOf((HyPO(), HyPO(kl=0.1)), (1.0, 1.0))
    assert (third.responses, third.third) == (3, "policy")
    assert misfit(third, 2) == "reads groups of 3 answers, and the feedback gives pairs"
    assert third_of(SumOf((DPO(),), (1.0,))) is None
    votes = SumOf((WeightedVotes(DPO(), (0.5, 0.5)), Likelihood()), (1.0, 1.0))
    assert annotators_of(votes) == 2


def test_needs_and_extras_are_those_of_the_parts():
    both = SumOf((INPO(0.5, 0.2), Composed(LogRatio(), Hinge(), OnPolicy()), LDDPO()), (1.0, 1.0, 1.0))
    assert set(both.needs) == {"last", "anchor"}
    assert set(both.extras) == {"log_sum_p2", "anchor_tokens"}
    assert Composed(TokenMean(LongTail()), Logistic()).extras == ("anchor_tokens",)
    assert Composed(EditedTokens(), Hinge()).extras == ("anchor_tokens", "edited")
    assert Composed(Logp(), Logistic()).needs == ()


SAME = {
    "no smoothing": (DPO(0.1, 0.0), DPO(0.1)),
    "no flips": (RobustDPO(0.1, 0.0), DPO(0.1)),
    "no offset": (OffsetDPO(0.1, 0.0), DPO(0.1)),
    "all of the weight on the label": (MODPO(0.1, 1.0), DPO(0.1)),
    "all of the tail": (LDDPO(0.1, 1.0), DPO(0.1)),
    "no more of what was edited": (BMC(0.1, 1e-30), DPO(0.1)),
    "all tokens ignored": (BMC(0.1, 2.0, tuple(range(9))), DPO(0.1)),
    "no value": (VPO(0.0, 0.1), DPO(0.1)),
    "composed": (Composed(LogRatio(), Logistic(0.1)), DPO(0.1)),
    "composed hinge": (Composed(LogRatio(), Hinge(0.1)), HingePO(0.1)),
    "composed SimPO": (Composed(TokenMean(Logp()), Logistic(2.0, 0.5)), SimPO(2.0, 0.5)),
    "no likelihood": (CPO(0.1, 0.0), Composed(Logp(), Logistic(0.1))),
    "the value of two answers": (DRO(0.5), SumOf((RewardAwareSquared(0.5, 1.0),), (0.125,))),
    "a sum of one": (SumOf((DPO(0.1),), (2.0,)), SumOf((DPO(0.1), DPO(0.1)), (1.0, 1.0))),
    "INPO against the anchor alone": (INPO(0.5, 0.5), Composed(LogRatio(), Squared(0.5))),
    "INPO against the last policy alone": (INPO(0.5, 0.0), Composed(LogRatio("last"), Squared(0.5))),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_limits(one: Loss, other: Loss):
    x = logps(prefer=0.9)
    np.testing.assert_allclose(one(x), other(x), rtol=1e-5, atol=1e-6)


def test_a_rejected_answer_that_counts_in_full_and_a_good_one_of_two_are_dpo():
    x = logps()
    np.testing.assert_allclose(MaPPO(0.1, span=1e-6)(x), DPO(0.1)(x), rtol=1e-5)
    np.testing.assert_allclose(SWEPO(alpha=0.0, beta=0.1)(x), DPO(0.1)(x), rtol=1e-4)


def test_a_rejected_answer_that_is_as_good_is_spared():
    x = logps()
    np.testing.assert_allclose(MaPPO(0.1, span=1e9)(x), -jax.nn.log_sigmoid(0.1 * LogRatio()(x)[:, 0]), rtol=1e-5)


def test_the_labels_order_says_who_is_worse():
    """Of the label that contradicts the ratings the answer that is rated better is not pushed down."""
    np.testing.assert_allclose(
        MaPPO(0.1, span=1e-6)(logps(prefer=0.0)), -jax.nn.log_sigmoid(0.1 * LogRatio()(logps())[:, 1]), rtol=1e-5
    )


def test_one_good_answer_without_a_reference_is_ampo():
    x = logps(responses=4)
    score = jnp.tile(jnp.array([[2.0, 0.0, 0.3, 0.1]], jnp.float32), (5, 1))
    free = dataclasses.replace(x, anchor=jnp.zeros_like(x.anchor), labels=dataclasses.replace(x.labels, score=score))
    np.testing.assert_allclose(SWEPO(0.0, beta=1.0)(free), AMPO(0.0)(free), rtol=1e-5)
    alike = dataclasses.replace(free, labels=dataclasses.replace(x.labels, score=jnp.ones((5, 4))))
    slopes = jax.grad(lambda t: SWEPO(0.5)(dataclasses.replace(alike, tokens=t)).sum())(x.tokens)
    np.testing.assert_array_equal(slopes, jnp.zeros_like(slopes))


def test_answers_far_from_the_mean_count_most_on_both_sides():
    """Of likely alike ones: the pull on an answer is its share of the weights, among good ones and among all."""
    x = logps(groups=1, responses=4)
    score = jnp.array([[3.0, 1.0, -0.5, -3.5]], jnp.float32)
    alike = dataclasses.replace(x, anchor=x.sums, labels=dataclasses.replace(x.labels, score=score))
    slopes = jax.grad(lambda t: SWEPO(0.5)(dataclasses.replace(alike, tokens=t)).sum())(x.tokens)[0, :, 0]
    weight = np.exp(0.5 * np.array([3.0, 1.0, 0.5, 3.5]))
    wanted = 0.1 * (weight / weight.sum() - weight * [1, 1, 0, 0] / weight[:2].sum())
    np.testing.assert_allclose(slopes, wanted, rtol=1e-4)


def test_scores_that_are_win_rates_make_sppo_of_gpo():
    x = logps()
    linear = dataclasses.replace(x, labels=dataclasses.replace(x.labels, score=x.win - 0.5))
    np.testing.assert_allclose(GPO(0.1)(linear), SPPO(10.0)(x), rtol=1e-5)


def test_without_a_kl_or_a_surprise_third_answers_and_labels_say_nothing():
    x = logps(responses=3)
    np.testing.assert_array_equal(HyPO(0.1, kl=0.0)(x), DPO(0.1)(x))
    likely = jax.nn.sigmoid(x.score[:, 0] - x.score[:, 1])
    known = dataclasses.replace(x, labels=dataclasses.replace(x.labels, prefer=likely))
    slopes = jax.grad(lambda t: DRPO()(dataclasses.replace(known, tokens=t)).sum())(x.tokens)
    np.testing.assert_allclose(slopes[:, :2], jnp.zeros_like(slopes[:, :2]), atol=1e-6)


def test_good_answers_alone_are_a_likelihood():
    x = logps(responses=1)
    good = dataclasses.replace(x, labels=dataclasses.replace(x.labels, prefer=jnp.ones(5)))
    np.testing.assert_allclose(PMPO(1.0, 0.5)(good), -x.sums[:, 0] - 0.5 * LogRatio()(x)[:, 0], rtol=1e-5)
    np.testing.assert_allclose(PMPO(0.0, 0.5)(good), -0.5 * LogRatio()(x)[:, 0], rtol=1e-5)


def test_orders_near_1_are_nearly_the_reverse_kl():
    x = logps()
    np.testing.assert_allclose(AlphaDivergence(1.002)(x), LogRatio()(x), rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(AlphaDivergence(0.0)(x), ForwardKL()(x), rtol=1e-5, atol=1e-6)


def test_a_small_power_is_nearly_the_mean_log_prob():
    x = logps()
    np.testing.assert_allclose(PowerMean(2e-3)(x), TokenMean(Logp())(x), rtol=1e-2)
    np.testing.assert_allclose(AlphaPO(2e-3)(x), SimPO()(x), rtol=1e-2)


@pytest.mark.parametrize("score", [ForwardKL(), JensenShannon(), AlphaDivergence(0.5)], ids=named)
def test_divergences_agree_near_the_anchor(score):
    """f″(1) says all there: 1 for these but for Jensen and Shannon's, which has 1/2."""
    x = logps()
    near = dataclasses.replace(x, anchor=x.sums - 1e-2)
    scale = 0.5 if isinstance(score, JensenShannon) else 1.0
    np.testing.assert_allclose(score(near), np.full((5, 2), scale * 1e-2), rtol=2e-2)


def test_its_own_pair_alone_is_dpo():
    np.testing.assert_allclose(RelativePO(own=1.0, beta=0.1)(logps()), DPO(0.1)(logps()), rtol=1e-5)
    alone = jnp.array([0.0, 0.0, 2.0, 0.0, 0.0], jnp.float32)
    one = dataclasses.replace(logps(), weight=alone)
    np.testing.assert_allclose(RelativePO(own=0.3, beta=0.1)(one)[2], DPO(0.1)(one)[2], rtol=1e-5)


def test_the_first_level_of_trpa_is_the_best_of_a_group_or_what_a_rule_says():
    x = logps(responses=3)
    score = jnp.tile(jnp.array([[1.0, 0.0, 0.0]], jnp.float32), (5, 1))
    x = dataclasses.replace(x, labels=dataclasses.replace(x.labels, score=score))
    np.testing.assert_array_equal(TRPA(0.3, 2.5, top=1.0)(x), TRPA(0.3, 2.5)(x))
    np.testing.assert_array_equal(TRPA(0.3, 2.5, top=2.0)(x), TRPA(0.3, 1.0)(x))


def test_robust_is_unbiased_under_flips():
    """(1 − e) of the losses as they are and e of the flipped ones make the loss of true labels."""
    right, wrong = (np.asarray(RobustDPO(0.1, 0.2)(logps(prefer=p))) for p in (1.0, 0.0))
    np.testing.assert_allclose(0.8 * right + 0.2 * wrong, DPO(0.1)(logps()), rtol=1e-5)


def test_sppo_of_certain_win_rates_is_the_hard_one():
    x = logps()
    certain = dataclasses.replace(x.labels, win=jnp.tile(jnp.array([[1.0, 0.0]], jnp.float32), (5, 1)))
    np.testing.assert_allclose(SPPO(10.0)(dataclasses.replace(x, labels=certain)), SPPOHard(10.0)(x), rtol=1e-6)


def test_win_rates_of_two_answers_are_what_inpo_expects_of_their_label():
    """Of a pair that met nobody else: P(0 ≻ π) − P(1 ≻ π) = ((1/2 + p) − (1/2 + 1 − p)) / 2 = p − 1/2."""
    x = logps(prefer=0.8)
    win = jnp.tile(jnp.array([[0.65, 0.35]], jnp.float32), (5, 1))
    x = dataclasses.replace(x, labels=dataclasses.replace(x.labels, win=win))
    slope = lambda loss: jax.grad(lambda t: loss(dataclasses.replace(x, tokens=t)).sum())(x.tokens)  # noqa: E731
    np.testing.assert_allclose(slope(WinRateRegression(0.5, 0.2)), slope(INPO(0.5, 0.2)), rtol=1e-4, atol=1e-5)


def test_a_sharp_simpo_has_the_slopes_of_repo():
    x = logps()
    slope = lambda loss: jax.grad(lambda t: loss(dataclasses.replace(x, tokens=t)).sum())(x.tokens)  # noqa: E731
    np.testing.assert_allclose(slope(SimPO(1e4, 0.6)) / 1e4, slope(RePO(0.6)), atol=1e-3)


def test_exo_without_smoothing_is_least_where_the_label_is_met():
    """With a label of 1 − e its minimum, 0, is at log-odds log((1 − e)/e)."""
    x = logps(groups=1)
    asked = np.log(0.8 / 0.2)
    met = dataclasses.replace(x, anchor=jnp.stack([x.sums[:, 0] - asked / 0.1, x.sums[:, 1]], axis=1))
    np.testing.assert_allclose(EXO(0.1, 0.2)(met), [0.0], atol=1e-5)


def rated(prefer: float):
    """Pairs whose scores are log-odds of their label, for losses of lists."""
    x = logps(prefer=prefer)
    odds = jnp.full(5, np.log(prefer / (1 - prefer)), jnp.float32)
    return dataclasses.replace(
        x, labels=dataclasses.replace(x.labels, score=jnp.stack([odds, jnp.zeros_like(odds)], axis=1))
    )


def test_lists_of_two_are_pairs():
    x, sure = rated(0.8), rated(1 - 1e-6)
    np.testing.assert_allclose(InfoNCA(1.0)(x), DPO(0.1)(x), rtol=1e-5)
    np.testing.assert_allclose(NCAList(1.0)(sure), NCA(0.1)(sure), rtol=1e-4)
    np.testing.assert_allclose(PlackettLuce(0.1)(sure), DPO(0.1)(sure), rtol=1e-4)
    certain = dataclasses.replace(x, labels=dataclasses.replace(x.labels, prefer=jnp.ones(5)))
    np.testing.assert_allclose(EXOList(1.0)(x), EXO(0.1, 0.2)(certain), rtol=1e-4, atol=1e-6)


def test_the_order_within_a_list_does_not_matter():
    x, order = logps(responses=4), jnp.array([2, 0, 3, 1])
    mixed = jax.tree.map(lambda leaf: leaf[:, order] if leaf.ndim > 1 and leaf.shape[1] == 4 else leaf, x)
    for loss in (InfoNCA(0.5), NCAList(0.5), EXOList(0.5), PlackettLuce(), PRO()):
        np.testing.assert_allclose(loss(mixed), loss(x), rtol=1e-5)


def test_lists_may_go_by_win_rates():
    x = logps(responses=3)
    by_win = dataclasses.replace(x, labels=dataclasses.replace(x.labels, score=x.win))
    np.testing.assert_allclose(PRO(by="win")(x), PRO()(by_win), rtol=1e-6)


def test_a_likelihood_is_of_the_answer_that_is_chosen():
    x = logps(prefer=0.0)
    np.testing.assert_allclose(Likelihood()(x), -np.asarray(x.sums)[:, 1] / np.asarray(x.lengths)[:, 1], rtol=1e-6)


def test_tokens_count_alike_whoever_says_them():
    """The mean over groups, each by its weight, is that over all tokens of chosen answers; groups of weight 0 say
    nothing."""
    x = logps(prefer=0.7)
    weight = np.array([1.0, 2.0, 0.0, 0.5, 1.5], np.float32)
    shares = weight[:, None] * np.array([0.7, 0.3])
    by_token = -(shares * np.asarray(x.sums)).sum() / (shares * np.asarray(x.lengths)).sum()
    values = np.asarray(TokenLikelihood()(dataclasses.replace(x, weight=jnp.asarray(weight))))
    np.testing.assert_allclose((weight * values).sum() / weight.sum(), by_token, rtol=1e-6)
    alike = dataclasses.replace(x, mask=jnp.ones_like(x.mask))
    np.testing.assert_allclose(TokenLikelihood()(alike), Likelihood()(alike), rtol=1e-6)
