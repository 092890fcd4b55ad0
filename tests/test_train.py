"""The training step: the same whatever keeps the references, splits the batch or shards the arrays."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_examples import examples
from made_groups import groups, rollouts
from made_models import ONE, nudged

import jaxalign.losses
from jaxalign.data.groups import RolledGroups
from jaxalign.losses.aot import AOT, AOTUnpaired
from jaxalign.losses.dpo import DPO
from jaxalign.losses.ld_dpo import LDDPO
from jaxalign.losses.relative_po import RelativePO
from jaxalign.losses.sum_of import SumOf
from jaxalign.losses.wpo import WPO
from jaxalign.models.tabular import TabularPolicy
from jaxalign.training.logps import Scorer, sight_of
from jaxalign.training.optim import AdamW, GradientDescent, WarmupLinear
from jaxalign.training.rows import RowShape, pack, stack_microbatches
from jaxalign.training.step import NotFinite, check_finite, init_state, make_step
from jaxalign.training.views import group_logps, view_of
from jaxalign.types import Loss

KINDS = ("INPO", "DPO", "IPO", "SPPO", "WPO", "AOTUnpaired")
"""Each reads something that the others do not; what losses make of it is tested with the losses."""
LOSSES = {name: loss for name, loss in examples(jaxalign.losses, Loss, least=30).items() if name in KINDS}

RATE = 0.003
CLIPPED = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(RATE))
"""Embeddings start small (0.02) and are normalised, so their gradients are too large for plain descent."""
DESCENT = GradientDescent(0.1)
"""For tables of logits, whose gradients are of size 1."""

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
"""Metrics: fp32 log-probs of size 30 to 40, rounded in another order, and their differences."""
ALIKE = {"rtol": 1e-3, "atol": 1e-4}
"""Directions of length 1, got from parameters of size 1 that moved by 0.003: 6e-8 / 0.003 is lost in the difference."""

SHAPE = RowShape(row=24, scored=16, response=8)
DATA = rollouts(prompts=8)
PAIRS = groups([0, 1, 2, 3, 4, 5, 6, 7], [[0, 1], [3, 1], [2, 0], [0, 2], [3, 2], [1, 0], [2, 3], [1, 3]])
ALL = tuple(range(8))


@pytest.fixture(scope="module")
def policies(params):
    """Two references that are not the policy."""
    return {"last": nudged(params, 0.03, 1), "anchor": nudged(params, 0.03, 2)}


@pytest.fixture(scope="module")
def columns(model, policies):
    """The stored log-prob sums of both references."""
    scorer = Scorer(model, ONE, 8)
    return {role: scorer.groups(reference, RolledGroups(DATA, PAIRS)) for role, reference in policies.items()}


@pytest.fixture(scope="module")
def step(model):
    """INPO's step by clipped gradient descent: compiled once a shape, and its state is donated, as in a fit."""
    return jax.jit(make_step(view_of(model, LOSSES["INPO"]), CLIPPED, optax.constant_schedule(RATE)), donate_argnums=0)


def batch_of(chosen, columns, accumulate=1, pairs=PAIRS):
    micro = np.array(chosen).reshape(accumulate, -1)
    return stack_microbatches([pack(RolledGroups(DATA, pairs), part, SHAPE, columns) for part in micro])


def take(step, params, references, batch):
    """How one step moved the parameters (the clipped gradient), and its metrics."""
    state, metrics = step(init_state(params, CLIPPED), {}, references, batch)
    assert int(state.step) == 1
    moved = jax.tree.map(lambda after, before: (np.asarray(before) - np.asarray(after)) / RATE, state.params, params)
    return moved, jax.tree.map(np.asarray, metrics)


@pytest.fixture(scope="module")
def whole(step, params, columns):
    """A step on all groups at once."""
    return take(step, params, {}, batch_of(ALL, columns))


class Table:
    """A table of four answers and pairs of them: every loss compiles in no time, and runs without compiling."""

    def __init__(self):
        self.model = TabularPolicy((0.1, 0.2, 0.3, 0.4)).open()
        self.params = self.model.load()
        self.policies = {"last": nudged(self.params, 0.3, 1), "anchor": nudged(self.params, 0.3, 2)}
        self.data = dataclasses.replace(
            rollouts(prompts=2, samples=4, longest=1),
            prompt_tokens=np.zeros((2, 1), np.int32),
            prompt_lengths=np.ones(2, np.int32),
            tokens=np.tile(np.arange(4, dtype=np.int32).reshape(1, 4, 1), (2, 1, 1)),
        )
        self.pairs = groups([0, 1, 1], [[0, 1], [2, 1], [3, 0]])
        score = partial(Scorer(self.model, ONE, 3).groups, groups=RolledGroups(self.data, self.pairs))
        self.columns = {role: score(reference) for role, reference in self.policies.items()}
        self.start = init_state(self.params, DESCENT.build(1)[0])
        self.step = {name: jax.jit(self.eager(name)) for name in LOSSES}

    def eager(self, name):
        return make_step(view_of(self.model, LOSSES[name]), *DESCENT.build(1))

    def batch(self, columns):
        packed = pack(RolledGroups(self.data, self.pairs), np.arange(3), RowShape(4, 2, 1), columns)
        return jax.tree.map(jnp.asarray, stack_microbatches([packed]))


@pytest.fixture(scope="module")
def table():
    return Table()


def assert_same(found, expected):
    (moved, metrics), (as_moved, as_metrics) = found, expected
    jax.tree.map(partial(np.testing.assert_allclose, **ALIKE), moved, as_moved)
    jax.tree.map(partial(np.testing.assert_allclose, **CLOSE), metrics, as_metrics)


# ----------------------------------------------------------------------------------------------------------------------
# References


def test_live_references_equal_cached_columns(whole, step, params, policies):
    assert whole[1]["grad_norm"] > 1
    assert_same(take(step, params, policies, batch_of(ALL, {})), whole)


@pytest.mark.parametrize("name", LOSSES)
def test_live_references_equal_cached_columns_for_every_loss(name, table):
    live = {role: table.policies[role] for role in LOSSES[name].needs}
    stored = {role: table.columns[role] for role in LOSSES[name].needs}
    step = table.step[name]
    cached = step(table.start, {}, {}, table.batch(stored))
    assert cached[1]["grad_norm"] > 0.01
    jax.tree.map(partial(np.testing.assert_allclose, **CLOSE), step(table.start, {}, live, table.batch({})), cached)


@pytest.mark.parametrize("name", LOSSES)
def test_no_gradient_flows_into_references(name, table):
    loss, batch = LOSSES[name], jax.tree.map(lambda leaf: leaf[0], table.batch({}))

    @jax.jit
    def gradients(params, references):
        value = lambda *policies: loss(group_logps(table.model, loss, *policies, batch)).sum()  # noqa: E731
        return jax.grad(value, argnums=(0, 1))(params, references)

    policy, references = gradients(table.params, {role: table.policies[role] for role in loss.needs})
    assert np.abs(policy["table"]).max() > 0.01
    assert set(references) == set(loss.needs)
    for gradient in references.values():
        np.testing.assert_array_equal(gradient["table"], np.zeros((4, 1)))


# ----------------------------------------------------------------------------------------------------------------------
# Batches


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_equals_one_big_batch(accumulate, whole, step, params, columns):
    assert_same(take(step, params, {}, batch_of(ALL, columns, accumulate)), whole)


def test_the_order_of_groups_changes_nothing(whole, step, params, columns):
    assert_same(take(step, params, {}, batch_of(ALL[::-1], columns)), whole)


@pytest.mark.parametrize(
    "chosen", [(0, 1, 2, 3, -1, -1, -1, -1), (-1, -1, -1, -1, 3, 1, 0, 2), (0, -1, 1, -1, 2, -1, 3, -1)]
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_empty_groups_change_nothing(chosen, accumulate, step, params, columns):
    """A mean over groups does not change when each stands in the batch twice; nothing in that batch is empty."""
    full = take(step, params, {}, batch_of((0, 1, 2, 3, 0, 1, 2, 3), columns))
    assert_same(take(step, params, {}, batch_of(chosen, columns, accumulate)), full)


def test_groups_of_weight_0_change_nothing_whatever_they_hold(step, params, columns):
    weightless = dataclasses.replace(PAIRS, weight=np.float32([1, 2, 3, 4, 0, 0, 0, 0]))
    broken = {role: np.where(weightless.weight[:, None] > 0, sums, 1e30) for role, sums in columns.items()}
    found = take(step, params, {}, batch_of(ALL, broken, pairs=weightless))
    assert_same(found, take(step, params, {}, batch_of((0, 1, 2, 3, -1, -1, -1, -1), columns)))


def test_a_batch_of_nothing_moves_nothing(step, params, columns):
    moved, metrics = take(step, params, {}, batch_of((-1,) * 8, columns))
    assert not any(leaf.any() for leaf in jax.tree.leaves(moved))
    assert metrics["loss"] == metrics["grad_norm"] == 0


def test_only_the_ratios_of_weights_count(whole, step, params, columns):
    tenfold = dataclasses.replace(PAIRS, weight=10 * PAIRS.weight)
    assert_same(take(step, params, {}, batch_of(ALL, columns, pairs=tenfold)), whole)


def test_a_group_of_weight_2_counts_as_two(step, params, columns):
    once = dataclasses.replace(PAIRS, weight=np.float32([2, 1, 1, 1, 1, 1, 1, 1]))
    twice = dataclasses.replace(PAIRS, weight=np.ones(8, np.float32))
    found = take(step, params, {}, batch_of((0, 1, 2, 3, 4, 5, 6, -1), columns, pairs=once))
    assert_same(found, take(step, params, {}, batch_of((0, 1, 2, 3, 4, 5, 6, 0), columns, pairs=twice)))


def test_groups_see_all_microbatches(model, params, columns):
    """Also those of weight 0, which are no part of an order or a mean."""
    loss = SumOf((AOT(1.0), AOTUnpaired(1.0), RelativePO(own=0.3, beta=1.0)), (1.0, 1.0, 1.0))
    step = jax.jit(make_step(view_of(model, loss), CLIPPED, optax.constant_schedule(RATE)))
    chosen = (3, 1, 4, -1, 0, -1, 5, 2)
    at_once = take(step, params, {}, batch_of(chosen, columns))
    assert_same(take(step, params, {}, batch_of(chosen, columns, 4)), at_once)
    assert_same(take(step, params, {}, batch_of(sorted(chosen), columns)), at_once)


def test_the_anchor_token_by_token(model, params, policies, columns):
    """Whole tails counted, it is DPO; halved, another loss."""
    batch, live = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), batch_of(ALL, {})), {"anchor": policies["anchor"]}
    seen = jax.jit(lambda params, live: group_logps(model, LDDPO(), params, live, batch))(params, live)
    np.testing.assert_allclose(seen.anchor, columns["anchor"], rtol=1e-4)
    np.testing.assert_allclose(LDDPO(0.1, alpha=1.0)(seen), DPO(0.1)(seen), rtol=1e-4)
    assert np.abs(np.asarray(LDDPO(0.1, alpha=0.5)(seen) - DPO(0.1)(seen))).max() > 1e-3


def test_how_spread_the_policy_is(model, params, columns):
    """log Σ p² from logits by hand, of the prompt's last state and those of the response."""
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), batch_of(ALL, columns))
    seen = jax.jit(partial(group_logps, model, WPO()))(params, {}, batch)
    hidden = model.hidden(params, batch.rows.tokens, batch.rows.position, sight_of(batch.rows))
    logits = jnp.take_along_axis(hidden, batch.rows.source[..., None], axis=1) @ model.head(params).T
    spread = np.asarray(jax.scipy.special.logsumexp(2 * jax.nn.log_softmax(logits), axis=-1))
    slot = np.asarray(batch.rows.slot)
    np.testing.assert_allclose(np.asarray(seen.log_sum_p2).reshape(-1)[slot[slot >= 0]], spread[slot >= 0], rtol=1e-4)
    assert not np.asarray(seen.log_sum_p2)[~np.asarray(seen.mask)].any()


# ----------------------------------------------------------------------------------------------------------------------
# What the step reports


def test_metrics_have_the_names_that_users_of_trl_know_and_add_up(whole, step, params, policies, columns):
    _, metrics = whole
    rewards = {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"}
    assert set(metrics) == {
        "loss",
        "grad_norm",
        "update_norm",
        "learning_rate",
        "logps/chosen",
        "logps/rejected",
        *rewards,
    }
    assert all(value.shape == () and value.dtype == np.float32 for value in metrics.values())
    assert metrics["learning_rate"] == np.float32(RATE)
    margin = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    np.testing.assert_allclose(metrics["rewards/margins"], margin, rtol=1e-4, atol=1e-5)  # difference of larger sums
    assert 0 <= metrics["rewards/accuracies"] <= 1


def test_metrics_by_hand(model, whole, params, columns):
    """From the scorer's sums: weighted means of log-probs, rewards against the anchor, and the loss itself."""
    sums, share = Scorer(model, ONE, 8).groups(params, RolledGroups(DATA, PAIRS)), PAIRS.weight / PAIRS.weight.sum()
    reward, prefer = sums - columns["anchor"], PAIRS.labels.prefer
    margins = reward[:, 0] - reward[:, 1]
    h = (sums - 0.4 * columns["anchor"] - 0.6 * columns["last"]) @ np.float32([1, -1])  # INPO with tau / eta = 0.4
    expected = {
        "loss": share @ (prefer * (h - 1) ** 2 + (1 - prefer) * (h + 1) ** 2),
        "logps/chosen": share @ sums[:, 0],
        "logps/rejected": share @ sums[:, 1],
        "rewards/chosen": share @ reward[:, 0],
        "rewards/rejected": share @ reward[:, 1],
        "rewards/margins": share @ margins,
        "rewards/accuracies": share @ np.where(margins > 0, prefer, 1 - prefer),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(whole[1][name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_steps_on_one_batch_reduce_its_loss_and_leave_the_start_as_it_was(step, params, columns):
    before = jax.tree.map(np.array, params)
    state, batch, losses = init_state(params, CLIPPED), batch_of(ALL, columns), []
    for _ in range(6):
        state, metrics = step(state, {}, {}, batch)
        losses.append(float(metrics["loss"]))
    assert int(state.step) == 6
    assert losses[-1] < losses[0] / 2  # Adam may rise on the way
    jax.tree.map(np.testing.assert_array_equal, params, before)  # the donated state was a copy


@pytest.mark.parametrize("name", LOSSES)
def test_steps_reduce_every_loss(name, table):
    batch = table.batch({role: table.columns[role] for role in LOSSES[name].needs})
    first, metrics = table.step[name](table.start, {}, {}, batch)
    _, after = table.step[name](first, {}, {}, batch)
    assert after["loss"] < metrics["loss"]


@pytest.mark.parametrize(
    ("metrics", "seen"),
    [
        ({"loss": float("nan"), "grad_norm": 1.0, "update_norm": 0.1}, "loss is nan at step 17"),
        ({"loss": 0.5, "grad_norm": float("inf"), "update_norm": 0.1}, "grad_norm is inf at step 17"),
        ({"loss": 0.5, "grad_norm": 1.0, "update_norm": float("nan")}, "update_norm is nan at step 17"),
    ],
)
def test_what_is_not_finite_is_refused_with_the_step(metrics, seen):
    with pytest.raises(NotFinite, match=seen):
        check_finite(17, metrics)
    check_finite(17, {"loss": 0.5, "grad_norm": 0.0, "update_norm": 0.0})


def test_a_broken_reference_shows_in_the_loss(step, params, columns):
    broken = {**columns, "last": np.full((8, 2), np.nan, np.float32)}
    _, metrics = take(step, params, {}, batch_of(ALL, broken))
    with pytest.raises(NotFinite, match="loss is nan at step 3"):
        check_finite(3, {name: float(value) for name, value in metrics.items()})


def test_jit_equals_eager(table):
    arguments = table.start, {}, {}, table.batch(table.columns)
    compiled, eager = table.step["INPO"](*arguments), table.eager("INPO")(*arguments)
    jax.tree.map(partial(np.testing.assert_allclose, **CLOSE), compiled, eager)


def test_at_the_first_step_dpo_is_ln_2_and_every_reward_0(model, params):
    optimizer, schedule = AdamW(WarmupLinear(0.01)).build(2)
    step = jax.jit(make_step(view_of(model, LOSSES["DPO"]), optimizer, schedule))
    _, metrics = step(init_state(params, optimizer), {}, {"anchor": params}, batch_of(ALL, {}))
    np.testing.assert_allclose(metrics["loss"], np.log(2), rtol=1e-6)
    assert metrics["rewards/chosen"] == metrics["rewards/rejected"] == metrics["rewards/margins"] == 0  # one path
    np.testing.assert_allclose(metrics["rewards/accuracies"], 0.5, rtol=1e-6)  # no reward tells them apart
