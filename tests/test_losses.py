"""Losses: the properties every one obeys, discovered per file, then hand-computed values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_examples import examples, named

import jaxalign.losses
from jaxalign.errors import DataError
from jaxalign.losses.dpo import DPO
from jaxalign.losses.inpo import INPO
from jaxalign.losses.ipo import IPO
from jaxalign.losses.mirror import MirrorStep, mirror_step
from jaxalign.losses.sppo import SPPO
from jaxalign.types import GroupLogps, Labels, Loss

LOSSES = examples(jaxalign.losses, Loss, least=4)
PAIR_LOSSES = [DPO(beta=0.1), INPO(eta=0.1, tau=0.03), IPO(tau=0.1)]
"""Of the label alone, in expectation over it."""


def logps(groups: int = 5, tokens: int = 7, prefer: float = 1.0, seed: int = 0, shift: float = 0.0) -> GroupLogps:
    rng = np.random.default_rng(seed)
    mask = np.arange(tokens)[None, None, :] < rng.integers(1, tokens + 1, (groups, 2, 1))
    values = np.where(mask, -rng.exponential(1.0, (groups, 2, tokens)) - shift, 0.0).astype(np.float32)
    return GroupLogps(
        tokens=jnp.asarray(values),
        mask=jnp.asarray(mask),
        last=jnp.asarray(values.sum(-1) + rng.normal(0, 0.5, (groups, 2)).astype(np.float32)),
        anchor=jnp.asarray(values.sum(-1) + rng.normal(0, 0.5, (groups, 2)).astype(np.float32)),
        labels=Labels.of_one(
            jnp.full(groups, prefer, jnp.float32), jnp.asarray(np.tile(np.float32([0.8, 0.3]), (groups, 1)))
        ),
    )


@pytest.fixture(params=LOSSES.values(), ids=named)
def loss(request):
    return request.param


def test_what_game_a_loss_solves():
    """INPO's eta multiplies the KL: it is the inverse of the step."""
    assert mirror_step(INPO(eta=0.25, tau=0.1)) == MirrorStep(step=4.0, tau=0.1)
    assert mirror_step(INPO(eta=0.25, tau=0.1)).regularised
    assert not mirror_step(INPO(eta=0.25, tau=0.0)).regularised
    assert [mirror_step(loss) for name, loss in LOSSES.items() if name != "INPO"] == [None] * (len(LOSSES) - 1)


def test_one_value_a_group_and_jit_equals_eager(loss):
    x = logps()
    np.testing.assert_allclose(jax.jit(loss)(x), loss(x), rtol=1e-6)  # fusion may reassociate a sum
    assert loss(x).shape == (5,)
    assert loss(x).dtype == jnp.float32


def test_groups_do_not_see_each_other(loss):
    x, order = logps(), np.array([3, 1, 4, 0, 2])
    permuted = jax.tree.map(lambda leaf: leaf[order], x)
    np.testing.assert_array_equal(loss(permuted), loss(x)[order])


def test_equal_instances_hash_equal_and_nothing_is_wrong_with_the_example(loss):
    twin = dataclasses.replace(loss)
    assert twin == loss
    assert hash(twin) == hash(loss)
    assert list(getattr(loss, "problems", list)()) == []


@pytest.mark.parametrize("nats", [-1e4, 1e4])
def test_finite_at_extreme_margins(loss, nats):
    x = logps()
    x = dataclasses.replace(x, tokens=x.tokens.at[:, 0, 0].add(nats))
    value, grad = jax.value_and_grad(lambda t: loss(dataclasses.replace(x, tokens=t)).sum())(x.tokens)
    assert np.isfinite(value)
    assert np.isfinite(np.asarray(grad)).all()


def at_indifference(prefer: float = 1.0) -> GroupLogps:
    x = logps(prefer=prefer)
    return dataclasses.replace(x, last=x.sums, anchor=x.sums)


def test_at_indifference_the_gradient_raises_chosen_and_lowers_rejected(loss):
    x = at_indifference()
    grad = np.asarray(jax.grad(lambda t: loss(dataclasses.replace(x, tokens=t)).sum())(x.tokens))
    mask = np.asarray(x.mask)
    assert (grad[:, 0][mask[:, 0]] < 0).all()  # descending raises what has a negative gradient
    assert (grad[:, 1][mask[:, 1]] > 0).all()


def test_masked_tokens_do_not_count(loss):
    x = logps()
    noisy = dataclasses.replace(x, tokens=jnp.where(x.mask, x.tokens, 99.0))
    np.testing.assert_array_equal(loss(noisy), loss(x))


@pytest.mark.parametrize("pair_loss", PAIR_LOSSES, ids=named)
def test_a_certain_loss_for_the_other_order_is_the_swapped_pair(pair_loss):
    x = logps(prefer=0.0)
    tokens, mask, last, anchor, win = (leaf[:, ::-1] for leaf in (x.tokens, x.mask, x.last, x.anchor, x.win))
    swapped = GroupLogps(tokens, mask, last, anchor, Labels.of_one(1 - x.prefer, win))
    np.testing.assert_allclose(pair_loss(x), pair_loss(swapped), rtol=1e-6)


@pytest.mark.parametrize("pair_loss", PAIR_LOSSES, ids=named)
def test_a_soft_label_is_the_expectation_of_hard_ones(pair_loss):
    hard, flipped, soft = (pair_loss(logps(prefer=p)) for p in (1.0, 0.0, 0.7))
    np.testing.assert_allclose(soft, 0.7 * hard + 0.3 * flipped, rtol=1e-5)


def test_inpo_with_tau_eta_is_ipo_and_with_tau_0_is_ipo_against_last():
    x = logps()
    np.testing.assert_allclose(INPO(eta=0.1, tau=0.1)(x), IPO(tau=0.1)(x), rtol=1e-5)
    against_last = dataclasses.replace(x, anchor=x.last)
    np.testing.assert_allclose(INPO(eta=0.1, tau=0.0)(x), IPO(tau=0.1)(against_last), rtol=1e-5)


def one_pair(
    chosen: float, rejected: float, last=(0.0, 0.0), anchor=(0.0, 0.0), prefer=1.0, win=(0.5, 0.5)
) -> GroupLogps:
    return GroupLogps(
        tokens=jnp.array([[[chosen], [rejected]]], jnp.float32),
        mask=jnp.ones((1, 2, 1), bool),
        last=jnp.array([last], jnp.float32),
        anchor=jnp.array([anchor], jnp.float32),
        labels=Labels.of_one(jnp.array([prefer], jnp.float32), jnp.array([win], jnp.float32)),
    )


def test_values_by_hand():
    # r = 1/3: h = (-1) - (-1/3 - 2·(-2)/3)… chosen: -1 - (1/3)(-3) - (2/3)(-3) = 2; rejected: -4 - 0 - 0 = -4; margin 6
    x = one_pair(-1.0, -4.0, last=(-3.0, 0.0), anchor=(-3.0, 0.0))
    np.testing.assert_allclose(INPO(eta=0.3, tau=0.1)(x), [(6 - 1 / 0.6) ** 2], rtol=1e-6)
    # IPO: margin 2 − (−4) = 6, target 1/(2·0.5) = 1
    np.testing.assert_allclose(IPO(tau=0.5)(x), [25.0], rtol=1e-6)
    # DPO: −log σ(0.1 · 6) = log(1 + e^−0.6)
    np.testing.assert_allclose(DPO(beta=0.1)(x), [np.log1p(np.exp(-0.6))], rtol=1e-6)
    # SPPO: (2 − 10·0.25)² + (−4 + 10·0.25)² = 0.25 + 2.25
    x = one_pair(-1.0, -4.0, last=(-3.0, 0.0), anchor=(-3.0, 0.0), win=(0.75, 0.25))
    np.testing.assert_allclose(SPPO(eta=10.0)(x), [2.5], rtol=1e-6)


def test_a_loss_that_reads_what_nobody_said_is_told_so():
    x = logps()
    with pytest.raises(DataError, match="the loss reads win rates and there are none"):
        SPPO()(dataclasses.replace(x, labels=dataclasses.replace(x.labels, win=None)))
    with pytest.raises(DataError, match="the loss reads scores and there are none"):
        _ = x.score


def test_dpo_starts_at_ln_2():
    np.testing.assert_allclose(DPO()(at_indifference()), np.full(5, np.log(2.0)), rtol=1e-6)


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (INPO(eta=0.0, tau=0.0), "eta"),
        (INPO(eta=0.1, tau=0.2), "tau"),
        (IPO(tau=-1.0), "tau"),
        (DPO(beta=0.0), "beta"),
        (SPPO(eta=0.0), "eta"),
    ],
)
def test_impossible_hyper_parameters_are_named(bad, word):
    assert any(word in problem for problem in bad.problems())
