"""Losses: the properties every one obeys, discovered per file, then hand-computed values."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_examples import examples, named
from made_logps import at_indifference, logps, one_pair, responses_of

import jaxalign.losses
from jaxalign.contracts.extras import extras_of
from jaxalign.contracts.remembering import begun, recalling
from jaxalign.errors import DataError
from jaxalign.losses.dpo import DPO
from jaxalign.losses.inpo import INPO
from jaxalign.losses.ipo import IPO
from jaxalign.losses.mirror import MirrorStep, mirror_step
from jaxalign.losses.sppo import SPPO
from jaxalign.models.tabular import TabularPolicy
from jaxalign.training.rows import RowShape, abstract_batch
from jaxalign.training.views import LogpView
from jaxalign.training.whole_batch import whole
from jaxalign.types import Batch, GroupLogps, Labels, Loss, Params

LOSSES = examples(jaxalign.losses, Loss, least=30)
PAIR_LOSSES = [DPO(beta=0.1), INPO(eta=0.1, tau=0.03), IPO(tau=0.1)]
"""Of the label alone, in expectation over it."""


@pytest.fixture(params=LOSSES.values(), ids=named)
def loss(request):
    return request.param


def test_what_game_a_loss_solves():
    """INPO's eta multiplies the KL: it is the inverse of the step."""
    assert mirror_step(INPO(eta=0.25, tau=0.1)) == MirrorStep(step=4.0, tau=0.1)
    assert mirror_step(INPO(eta=0.25, tau=0.1)).regularised
    assert not mirror_step(INPO(eta=0.25, tau=0.0)).regularised
    assert {name for name, loss in LOSSES.items() if mirror_step(loss)} == {"INPO", "WinRateRegression"}


FAR = ("-1e4 nats", "1e4 nats", "the last -1e4 nats", "the last 1e4 nats", "all -1e4 nats", "all 1e4 nats")
VARIANTS = ("as it is", "permuted", *FAR, "indifferent", "noise where nothing is said")
ORDER = np.array([3, 1, 4, 0, 2])


@cache
def variants(responses: int) -> GroupLogps:
    """Stacked, so that each loss is compiled once."""
    x = logps(responses=responses)
    far = [
        dataclasses.replace(x, tokens=x.tokens.at[:, which, 0].add(nats))
        for which in (0, -1, slice(None))
        for nats in (-1e4, 1e4)
    ]
    noisy = dataclasses.replace(x, tokens=jnp.where(x.mask, x.tokens, 99.0))
    permuted = jax.tree.map(lambda leaf: leaf[ORDER], x)
    equal = at_indifference(responses=responses)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), x, permuted, *far, equal, noisy)


@pytest.fixture(scope="module", params=LOSSES.values(), ids=named)
def found(request):
    """(loss, its values and gradients by variant)."""

    def one(x: GroupLogps):
        summed = lambda tokens: ((values := request.param(dataclasses.replace(x, tokens=tokens))).sum(), values)  # noqa: E731
        (_, values), slopes = jax.value_and_grad(summed, has_aux=True)(x.tokens)
        return values, slopes

    values, slopes = jax.jit(lambda x: jax.lax.map(one, x))(variants(responses_of(request.param)))
    return request.param, dict(zip(VARIANTS, zip(np.asarray(values), np.asarray(slopes), strict=True), strict=True))


def test_one_value_a_group_and_jit_equals_eager(found):
    loss, made = found
    eager = loss(logps(responses=responses_of(loss)))
    assert eager.shape == (5,)
    assert eager.dtype == jnp.float32
    np.testing.assert_allclose(made["as it is"][0], eager, rtol=2e-6, atol=1e-7)  # fusion may reassociate a sum


def test_the_order_of_groups_does_not_matter(found):
    loss, made = found
    for here, there in zip(made["as it is"], made["permuted"], strict=True):
        np.testing.assert_allclose(there, here[ORDER], rtol=1e-6, atol=1e-7)
    if "batch" not in extras_of(loss):
        np.testing.assert_array_equal(made["permuted"][0], made["as it is"][0][ORDER])


def test_equal_instances_hash_equal_and_nothing_is_wrong_with_the_example(loss):
    twin = dataclasses.replace(loss)
    assert twin == loss
    assert hash(twin) == hash(loss)
    assert list(getattr(loss, "problems", list)()) == []


def test_finite_at_extreme_margins(found):
    _, made = found
    for nats in FAR:
        assert all(np.isfinite(each).all() for each in made[nats])


ALONE = {name: loss for name, loss in LOSSES.items() if "batch" not in extras_of(loss)}
TOGETHER = {name: loss for name, loss in LOSSES.items() if name not in ALONE}


@pytest.mark.parametrize("loss", ALONE.values(), ids=named)
def test_what_reads_no_batch_makes_of_each_group_what_it_makes_of_it_alone(loss):
    """So microbatches and devices may have any of them."""
    x = logps(responses=responses_of(loss))
    parts = [loss(jax.tree.map(lambda leaf, at=at: leaf[at], x)) for at in (slice(0, 1), slice(1, None))]
    np.testing.assert_allclose(jnp.concatenate(parts), loss(x), rtol=2e-6, atol=1e-7)


def of_a_step(loss: Loss, microbatches: int, devices: int = 1) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Gradient and metrics of a step of eight groups, whose policy has a number to add to the log-prob of each place;
    one of them has no weight, and there is a memory where the loss has one."""
    count, responses = 8, responses_of(loss)
    x, memory = logps(groups=count, responses=responses, prefer=0.8), begun(loss)

    def seen_of(params: Params, batch: Batch) -> GroupLogps:
        mine: GroupLogps = jax.tree.map(lambda leaf: leaf[batch.references["number"][:, 0].astype(jnp.int32)], x)
        tokens = jnp.where(mine.mask, mine.tokens + params["by_place"][None, None], 0.0)
        mine = dataclasses.replace(mine, tokens=tokens, weight=batch.weight)
        return recalling(mine, memory) if memory else mine

    empty = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        abstract_batch(RowShape(4, 2, 1), count, ("number",), responses=responses),
    )
    batch = dataclasses.replace(
        empty,
        weight=jnp.asarray([1, 2, 0.5, 1, 0, 1, 3, 1], jnp.float32),
        references={"number": jnp.tile(jnp.arange(count, dtype=jnp.float32)[:, None], responses)},
    )
    mesh = jax.make_mesh((devices,), ("rows",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices])
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "rows"))
    stacked = jax.tree.map(lambda leaf: leaf.reshape(microbatches, -1, *leaf.shape[1:]), batch)
    view = LogpView(TabularPolicy((0.5, 0.5)).open(), loss)
    start = {"by_place": jnp.zeros(7, jnp.float32)}
    gradient, metrics = jax.jit(partial(whole, view, seen_of))(start, jax.device_put(stacked, split))
    return np.asarray(gradient["by_place"]), jax.tree.map(np.asarray, metrics)


@pytest.mark.parametrize("loss", TOGETHER.values(), ids=named)
def test_groups_of_a_step_see_one_another_however_they_are_split(loss):
    gradient, metrics = of_a_step(loss, 1)
    assert np.abs(gradient).max() > 1e-4
    for split in ({"microbatches": 4}, {"microbatches": 1, "devices": 8}):
        again, told = of_a_step(loss, **split)
        np.testing.assert_allclose(again, gradient, rtol=2e-5, atol=2e-6 * np.abs(gradient).max())
        assert told.keys() == metrics.keys()
        for name, value in told.items():
            np.testing.assert_allclose(value, metrics[name], rtol=2e-5, atol=1e-6, err_msg=name)


RISING = {"DiscoPOP", "APODown", "GPO"}
"""Do neither at the anchor: DiscoPOP's modulation has its hump there, APODown lets both answers down, and GPO raises
what has a score above 0, which both may have."""


def test_at_indifference_the_gradient_raises_chosen_and_lowers_rejected(found):
    """Descending raises what has a negative gradient. A likelihood alone says nothing of the rejected answer, and the
    KL that HyPO has of the last one is least there."""
    loss, made = found
    slopes, mask = made["indifferent"][1], np.asarray(at_indifference(responses=responses_of(loss)).mask)
    if responses_of(loss) == 1:
        assert (slopes[mask] < 0).all()  # all of them are good ones
        return
    chosen, rejected = slopes[:, 0][mask[:, 0]], slopes[:, -1][mask[:, -1]]
    assert ((chosen < 0).all() and (rejected >= 0).all()) == (named(loss) not in RISING)
    assert (rejected > 0).all() or named(loss) in {"Likelihood", "TokenLikelihood", "DiscoPOP", "HyPO", "GPO"}


def test_masked_tokens_do_not_count(found):
    _, made = found
    for here, there in zip(made["as it is"], made["noise where nothing is said"], strict=True):
        np.testing.assert_array_equal(here, there)


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


@pytest.mark.parametrize("loss", [INPO(eta=0.002, tau=0.0), IPO(tau=0.002)], ids=named)
def test_even_labels_of_small_eta_pull_as_exactly_as_they_are_known(loss):
    """Certain labels want 250 nats either way; the difference of their pulls is off by up to 5e-5 nats in fp32."""
    for prefer in (0.5, 0.5007, 0.497):
        x = logps(prefer=prefer)
        slopes = jax.grad(lambda tokens: loss(dataclasses.replace(x, tokens=tokens)).sum())(x.tokens)  # noqa: B023
        label = np.float64(np.float32(prefer))
        pull = 2 * (np.float64(loss.margins(x)) - (2 * label - 1) * 250)
        np.testing.assert_allclose(slopes[:, 0, 0], pull, rtol=1e-6, atol=2e-6)


def test_inpo_with_tau_eta_is_ipo_and_with_tau_0_is_ipo_against_last():
    x = logps()
    np.testing.assert_allclose(INPO(eta=0.1, tau=0.1)(x), IPO(tau=0.1)(x), rtol=1e-5)
    against_last = dataclasses.replace(x, anchor=x.last)
    np.testing.assert_allclose(INPO(eta=0.1, tau=0.0)(x), IPO(tau=0.1)(against_last), rtol=1e-5)


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
        _ = dataclasses.replace(x, labels=dataclasses.replace(x.labels, score=None)).score


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
