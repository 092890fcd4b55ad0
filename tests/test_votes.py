"""Losses of several annotators: what each says counts by its weight, and what it does not decide counts nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_logps import logps, one_pair

from jaxalign.contracts.traced import check_loss
from jaxalign.errors import DataError
from jaxalign.losses.amopo import AMoPO
from jaxalign.losses.aot import AOT
from jaxalign.losses.dpo import DPO
from jaxalign.losses.inpo import INPO
from jaxalign.losses.modpo import MODPO
from jaxalign.losses.simpo import SimPO
from jaxalign.losses.weighted_votes import WeightedVotes
from jaxalign.losses.xpo import XPO
from jaxalign.objectives.mixed import Mixed
from jaxalign.objectives.weighted_sum import WeightedSum
from jaxalign.references.mixture import Mixture
from jaxalign.references.of_run import OfRun
from jaxalign.types import GroupLogps, Labels

WEIGHTS = (0.5, 0.3, 0.2)
VOTES = np.float32([[1.0, 0.0, 0.5], [0.9, 0.5, 0.5], [0.5, 0.2, 1.0], [0.5, 0.5, 0.5]])
BOTH = [(WeightedVotes(DPO(0.3), WEIGHTS), DPO(0.3)), (AMoPO(WEIGHTS, beta=0.7), SimPO(beta=0.7, gamma_ratio=0.0))]
IDS = ["DPO", "SimPO without margin"]


def voted(votes: np.ndarray = VOTES) -> GroupLogps:
    """Four pairs; of all together the label is certain, which no annotator may see."""
    x = logps(groups=len(votes))
    labels = dataclasses.replace(x.labels, votes=jnp.asarray(votes), decided=jnp.asarray(votes != 0.5, jnp.float32))
    return dataclasses.replace(x, labels=labels)


@pytest.mark.parametrize(("loss", "alone"), BOTH, ids=IDS)
def test_each_vote_counts_by_its_weight(loss, alone):
    x = voted()
    wanted = sum(
        weight
        * np.asarray(alone(dataclasses.replace(x, labels=Labels.of_one(x.labels.votes[:, index], x.win))))
        * (VOTES[:, index] != 0.5)
        for index, weight in enumerate(WEIGHTS)
    )
    np.testing.assert_allclose(loss(x), wanted, rtol=1e-6)


@pytest.mark.parametrize(("loss", "alone"), BOTH, ids=IDS)
def test_ties_have_no_gradient_wherever_the_policy_is(loss, alone):
    x = voted()
    far = dataclasses.replace(x, tokens=x.tokens.at[:, 0, 0].add(-1e4))
    for seen in (x, far):
        slopes = jax.grad(lambda tokens, seen=seen: loss(dataclasses.replace(seen, tokens=tokens)).sum())(seen.tokens)
        assert np.isfinite(slopes).all()
        np.testing.assert_array_equal(slopes[3], 0)
        assert np.abs(slopes[:3]).max((1, 2)).min() > 0


@pytest.mark.parametrize(("loss", "alone"), BOTH, ids=IDS)
def test_annotators_who_disagree_by_the_same_weight_cancel_where_the_pair_is_even(loss, alone):
    pair = one_pair(-1.0, -1.0)
    votes = jnp.array([[1.0, 0.0]])
    labels = dataclasses.replace(pair.labels, votes=votes, decided=jnp.ones_like(votes))
    even, pair = dataclasses.replace(loss, weights=(0.5, 0.5)), dataclasses.replace(pair, labels=labels)
    slopes = jax.grad(lambda tokens: even(dataclasses.replace(pair, tokens=tokens)).sum())(pair.tokens)
    np.testing.assert_allclose(slopes, 0, atol=1e-8)


def test_numbers_by_hand():
    """Rewards −1 and −3 a token: objective 0 has the first chosen, objective 1 the second; beta 0.5."""
    pair = one_pair(-1.0, -3.0)
    votes = jnp.array([[1.0, 0.0]])
    pair = dataclasses.replace(pair, labels=dataclasses.replace(pair.labels, votes=votes, decided=jnp.ones_like(votes)))
    wanted = 0.8 * np.log1p(np.exp(-1.0)) + 0.2 * np.log1p(np.exp(1.0))
    np.testing.assert_allclose(AMoPO((0.8, 0.2), beta=0.5)(pair), [wanted], rtol=1e-6)
    np.testing.assert_allclose(WeightedVotes(DPO(0.5), (0.8, 0.2))(pair), [wanted], rtol=1e-6)


def test_other_numbers_of_annotators_and_objectives_that_are_apart_already_are_refused():
    loss, three, two = WeightedVotes(DPO(), WEIGHTS), Labels.unsaid(2, 2, 3), Labels.unsaid(2, 2, 2)
    check_loss(loss, Mixed(), three)
    with pytest.raises(DataError, match="WeightedVotes: there are votes of 2 annotators and 3 weights"):
        check_loss(loss, Mixed(), two)
    with pytest.raises(DataError, match="votes of 1 annotators and 3 weights"):
        check_loss(loss, WeightedSum(WEIGHTS), three)
    with pytest.raises(DataError, match="reads scores and there are none"):
        check_loss(WeightedVotes(MODPO(), WEIGHTS), Mixed(), three)


def test_settings_that_mean_nothing_are_named():
    assert "weights must be at least 0" in "".join(AMoPO((0.0,)).problems())
    assert "weights must be at least 0" in "".join(WeightedVotes(DPO(), (0.5, -0.5)).problems())
    assert "AOT compares groups with one another" in "".join(WeightedVotes(AOT(), (1.0,)).problems())
    assert "XPO reads groups of 3 answers" in "".join(WeightedVotes(XPO(), (1.0,)).problems())
    assert "beta must be positive" in "".join(AMoPO((1.0,), beta=0.0).problems())
    assert WeightedVotes(INPO(eta=0.1, tau=0.02), (1.0,)).needs == ("last", "anchor")


def test_a_reward_that_is_implicit_in_another_policy_makes_the_anchor_a_mixture():
    """MODPO's S = beta log π_other/π_base is DPO(beta/w) against w log π_base + (1 − w) log π_other."""
    x, share, beta = logps(groups=6), 0.7, 0.2
    other = x.anchor + jnp.asarray(np.random.default_rng(2).normal(0, 2, x.anchor.shape), jnp.float32)
    kept = dataclasses.replace(x, labels=dataclasses.replace(x.labels, score=beta * (other - x.anchor)))
    mixture = Mixture(base=share, anchor=0.0, guides=(OfRun("runs/dpo"),), weights=(1 - share,))
    mixed = mixture.blend(np.stack([x.anchor, other]).astype(np.float64))
    against = dataclasses.replace(x, anchor=jnp.asarray(mixed, jnp.float32))
    np.testing.assert_allclose(MODPO(beta, share)(kept), DPO(beta / share)(against), rtol=1e-5)
