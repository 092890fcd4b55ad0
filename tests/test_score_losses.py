"""Losses of score models: the properties every one obeys, discovered per file, then hand-computed values."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_examples import examples, named
from made_scores import drawn, scores

import jaxalign.losses
from jaxalign.contracts.scores import Compares, ScoreLoss, agreement
from jaxalign.errors import DataError
from jaxalign.losses.bradley_terry import BradleyTerry
from jaxalign.losses.classes import Desirable, Ratings
from jaxalign.losses.general_preference import GeneralPreference

LOSSES = examples(jaxalign.losses, ScoreLoss, least=4)
PAIR_LOSSES = [BradleyTerry(), BradleyTerry(margin=0.5, centering=0.1), GeneralPreference(tau=0.5)]


@pytest.fixture(params=LOSSES.values(), ids=named)
def loss(request):
    return request.param


def test_one_value_a_group_and_jit_equals_eager(loss):
    x = drawn(loss)
    np.testing.assert_allclose(jax.jit(loss)(x), loss(x), rtol=1e-6)  # fusion may reassociate a sum
    assert loss(x).shape == (5,)
    assert loss(x).dtype == jnp.float32


def test_groups_do_not_see_each_other(loss):
    x, order = drawn(loss), np.array([3, 1, 4, 0, 2])
    permuted = jax.tree.map(lambda leaf: leaf[order], x)
    np.testing.assert_array_equal(loss(permuted), loss(x)[order])
    np.testing.assert_array_equal(loss.accuracies(permuted), loss.accuracies(x)[order])


def test_equal_instances_hash_equal_and_nothing_is_wrong_with_the_example(loss):
    twin = dataclasses.replace(loss)
    assert twin == loss
    assert hash(twin) == hash(loss)
    assert list(getattr(loss, "problems", list)()) == []


@pytest.mark.parametrize("nats", [-1e4, 1e4])
def test_finite_at_extreme_outputs(loss, nats):
    x = drawn(loss)
    x = dataclasses.replace(x, outputs=x.outputs.at[:, 0, 0].add(nats))
    value, grad = jax.value_and_grad(lambda o: loss(dataclasses.replace(x, outputs=o)).sum())(x.outputs)
    assert np.isfinite(value)
    assert np.isfinite(np.asarray(grad)).all()


def test_a_step_down_the_gradient_agrees_more_with_what_is_said(loss):
    x = drawn(loss, prefer=1.0)
    grad = jax.grad(lambda o: loss(dataclasses.replace(x, outputs=o)).sum())(x.outputs)
    stepped = dataclasses.replace(x, outputs=x.outputs - 0.1 * grad)
    assert (loss(stepped) < loss(x)).all()
    if isinstance(loss, Compares):
        assert (loss.log_odds(stepped.outputs) > loss.log_odds(x.outputs)).all()


@pytest.mark.parametrize("pair_loss", PAIR_LOSSES, ids=named)
def test_a_pair_and_its_label_may_be_swapped(pair_loss):
    outputs, margin = drawn(pair_loss).outputs, np.linspace(0, 2, 5)
    for prefer in (1.0, 0.7, 0.5):
        swapped = scores(outputs[:, ::-1], 1 - prefer, margin)
        np.testing.assert_allclose(pair_loss(scores(outputs, prefer, margin)), pair_loss(swapped), rtol=1e-5)


@pytest.mark.parametrize("pair_loss", PAIR_LOSSES, ids=named)
def test_a_soft_label_is_the_expectation_of_hard_ones(pair_loss):
    outputs = drawn(pair_loss).outputs
    hard, flipped, soft = (pair_loss(scores(outputs, prefer, 0.3)) for prefer in (1.0, 0.0, 0.7))
    np.testing.assert_allclose(soft, 0.7 * hard + 0.3 * flipped, rtol=1e-5)


def lowest(loss: BradleyTerry, prefer: float, margin: float = 0.0) -> float:
    """The difference of rewards with the smallest loss, by search."""
    ahead = np.linspace(-6, 6, 24001)
    outputs = np.stack([ahead / 2, -ahead / 2], -1)[..., None]
    return ahead[int(np.argmin(loss(scores(outputs, prefer, margin))))]


def test_bradley_terry_by_hand():
    (value,) = BradleyTerry()(scores([[[1.5], [0.5]]]))
    np.testing.assert_allclose(value, -math.log(1 / (1 + math.exp(-1.0))), rtol=1e-6)
    (value,) = BradleyTerry(margin=2.0)(scores([[[1.5], [0.5]]], 0.75, 0.25))
    np.testing.assert_allclose(
        value, 0.75 * math.log(1 + math.exp(-0.5)) + 0.25 * math.log(1 + math.exp(1.5)), rtol=1e-6
    )
    (value,) = BradleyTerry(centering=0.5)(scores([[[1.5], [0.5]]]))
    np.testing.assert_allclose(value, math.log(1 + math.exp(-1.0)) + 0.5 * 4.0, rtol=1e-6)


def test_what_bradley_terry_is_lowest_at():
    assert lowest(BradleyTerry(), 0.8) == pytest.approx(math.log(4), abs=1e-3)
    # a tie draws rewards together, whatever margin its winner would have had
    assert lowest(BradleyTerry(), 0.5) == pytest.approx(0, abs=2e-3)
    assert lowest(BradleyTerry(margin=1.0), 0.5, 2.0) == pytest.approx(0, abs=2e-3)
    # the slope is −p σ(m − Δ) + (1 − p) σ(m + Δ): at p = 0.8 its zero x = e^Δ solves 0.2 x² − 0.6 e^m x − 0.8 = 0
    root = (0.6 * math.e + math.sqrt(0.36 * math.e**2 + 4 * 0.2 * 0.8)) / (2 * 0.2)
    assert lowest(BradleyTerry(margin=1.0), 0.8, 1.0) == pytest.approx(math.log(root), abs=1e-3)


def test_a_reward_is_a_general_preference_in_the_plane():
    """v = (r, 1): the product of two is the difference of their rewards."""
    rewards = np.random.default_rng(1).normal(0, 1, (6, 2, 1))
    vectors = np.concatenate([rewards, np.ones_like(rewards)], -1)
    np.testing.assert_allclose(
        GeneralPreference()(scores(vectors, 0.7)), BradleyTerry()(scores(rewards, 0.7)), rtol=1e-5
    )


def test_general_preferences_by_hand():
    pair = [[[1.0, 2.0, 0.5, 0.0], [3.0, 1.0, 0.0, 2.0]]]  # 1·1 − 2·3 + 0.5·2 − 0·0 = −4
    loss = GeneralPreference(tau=2.0)
    np.testing.assert_allclose(loss.log_odds(jnp.asarray(pair)), [-2.0])
    np.testing.assert_allclose(loss(scores(pair)), [math.log(1 + math.exp(2.0))], rtol=1e-6)
    np.testing.assert_array_equal(loss.accuracies(scores(pair, 0.25)), [0.75])


def test_classes_by_hand():
    outputs = [[[0.0, math.log(2.0), 0.0], [math.log(3.0), 0.0, 0.0]]]  # softmax: 1/4 1/2 1/4, 3/5 1/5 1/5
    rated = scores(outputs, ratings=[[2.0, 3.1]])
    loss = Ratings((1.0, 2.0, 3.0))
    np.testing.assert_array_equal(loss.classes(rated), [[1, 2]])
    np.testing.assert_allclose(loss(rated), [-(math.log(0.5) + math.log(0.2)) / 2], rtol=1e-6)
    np.testing.assert_array_equal(loss.accuracies(rated), [0.5])
    lone = scores([[[0.0, math.log(3.0)]]], 0.9)
    np.testing.assert_allclose(Desirable()(lone), [-0.1 * math.log(0.25) - 0.9 * math.log(0.75)], rtol=1e-6)


def test_draws_agree_by_half():
    found = agreement(jnp.array([0.0, 2.0, -2.0, 2.0]), jnp.array([1.0, 0.5, 0.0, 0.25]))
    np.testing.assert_array_equal(found, [0.5, 0.5, 1.0, 0.25])


def test_what_is_not_said_is_refused_in_words():
    with pytest.raises(DataError, match="reads margins and there are none"):
        BradleyTerry(margin=1.0)(scores([[[1.0], [0.0]]]))
    with pytest.raises(DataError, match="reads ratings and there are none"):
        Ratings((0.0, 1.0))(scores([[[1.0, 0.0]]]))
    wrong = [BradleyTerry(margin=-1.0), GeneralPreference(tau=0.0), Ratings((2.0, 1.0))]
    assert [len(list(loss.problems())) for loss in wrong] == [1, 1, 1]
    assert list(BradleyTerry().misfits(2, 2)) == ["reads one output, a reward, and there are 2"]
    assert list(GeneralPreference().misfits(4, 4)) == ["reads pairs, and groups are of 4"]
    assert len(list(Desirable().misfits(3, 2))) == 2
