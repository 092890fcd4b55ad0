"""Group-robust preference optimisation: its weights by hand, in fits, and the policy that they come to."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_groups import groups, rollouts
from made_logps import logps
from made_models import nudged
from made_populations import LIKELY, PAIRS, S, odds, seen_of, told
from made_runs import CONFIGS, lines_of, run_here

from jaxalign.config.load import load, validate
from jaxalign.contracts.remembering import begun, recalling
from jaxalign.data.groups import RolledGroups
from jaxalign.errors import ConfigError, DataError
from jaxalign.losses.aot import AOT
from jaxalign.losses.dpo import DPO
from jaxalign.losses.group_robust import GroupRobust
from jaxalign.losses.kto import KTO
from jaxalign.losses.sum_of import SumOf
from jaxalign.losses.weighted_votes import WeightedVotes
from jaxalign.models.tabular import TabularPolicy
from jaxalign.objectives.mixed import Mixed
from jaxalign.training.rows import RowShape, pack, stack_microbatches
from jaxalign.training.step import init_state, make_step
from jaxalign.training.views import view_of
from jaxalign.types import GroupLogps

MODEL = TabularPolicy((0.1, 0.2, 0.3, 0.4)).open()
SGD, RATE = optax.sgd(1.0), optax.constant_schedule(1.0)
EVEN = np.full(4, 0.25)


def of_groups(x: GroupLogps, decided: list[list[float]], weight: list[float] | None = None) -> GroupLogps:
    """The same pairs, of the groups that have decided them: the first answer, whoever is asked."""
    there = jnp.asarray(decided, jnp.float32)
    labels = dataclasses.replace(x.labels, votes=jnp.where(there > 0, 1.0, 0.5), decided=there)
    return dataclasses.replace(x, labels=labels, weight=x.weight if weight is None else jnp.asarray(weight))


def test_two_steps_by_hand():
    """Pairs of groups 0, 0, 1 with weights 1, 3, 2; nobody has decided the last one."""
    loss, x = GroupRobust(DPO(0.5), 2, step=0.7), logps(groups=4)
    x = of_groups(x, [[1, 0], [1, 0], [0, 1], [0, 0]], [1.0, 3.0, 2.0, 2.0])
    each = np.asarray(DPO(0.5)(x), np.float64)
    means, memory, before = np.array([(each[0] + 3 * each[1]) / 4, each[2]]), begun(loss), np.full(2, 0.5)
    for _ in range(2):
        seen = recalling(x, memory)
        before = before * np.exp(0.7 * means)
        before /= before.sum()
        values = np.asarray(loss(seen), np.float64)
        np.testing.assert_allclose((values * [1, 3, 2, 2]).sum() / 8, before @ means, rtol=1e-5)
        assert values[3] == 0
        memory = loss.remember(seen)
        np.testing.assert_allclose(list(memory.values()), before, rtol=1e-5)
        assert list(memory) == ["weight_0", "weight_1"]


def test_a_group_that_a_batch_has_not_fares_well_in_it():
    loss, x = GroupRobust(DPO(0.5), 2, step=1.0), of_groups(logps(groups=3), [[1, 0], [1, 0], [1, 0]])
    found = loss.remember(recalling(x, begun(loss)))
    mean = float(DPO(0.5)(x).mean())
    np.testing.assert_allclose(float(found["weight_0"]), 1 / (1 + math.exp(-mean)), rtol=1e-5)
    np.testing.assert_allclose(loss(recalling(x, begun(loss))), found["weight_0"] * DPO(0.5)(x), rtol=1e-5)


def test_without_steps_it_is_the_even_sum_of_votes():
    loss, x = GroupRobust(DPO(0.5), 2, step=0.0), of_groups(logps(), [[1, 1]] * 5)
    np.testing.assert_allclose(loss(recalling(x, begun(loss))), WeightedVotes(DPO(0.5), (0.5, 0.5))(x), rtol=1e-6)
    alone = of_groups(logps(), [[1, 0]] * 2 + [[0, 1]] * 2 + [[0, 0]])  # held out: whoever decides has the say
    np.testing.assert_allclose(loss(alone), np.where(np.arange(5) < 4, DPO(0.5)(alone), 0.0), rtol=1e-6)


def test_no_gradient_flows_through_weights():
    loss, x = GroupRobust(DPO(0.5), 2, step=5.0), of_groups(logps(groups=2), [[1, 0], [0, 1]])
    memory = begun(loss)
    weights = np.array([float(each) for each in loss.remember(recalling(x, memory)).values()])

    def mean(tokens, of):
        at = dataclasses.replace(x, tokens=tokens)
        return of(recalling(at, memory)).mean()

    found = jax.grad(mean)(x.tokens, loss)
    alone = jax.grad(mean)(x.tokens, lambda seen: DPO(0.5)(seen) * jnp.asarray(2 * weights, jnp.float32))
    np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-7)


def test_what_means_nothing_is_refused():
    said = [
        *GroupRobust(DPO(), 1).problems(),
        *GroupRobust(DPO(), 2, step=-1.0).problems(),
        *GroupRobust(KTO(), 2).problems(),
        *GroupRobust(AOT(), 2).problems(),
        *SumOf((GroupRobust(DPO(), 2), DPO()), (1.0, 1.0)).problems(),
    ]
    words = ("at least 2", "must not be", "lone answers", *["compares groups"] * 2, "no memory")
    for line, word in zip(said, words, strict=True):
        assert word in line
    with pytest.raises(DataError, match="votes of 2 annotators and 3 weights"):
        GroupRobust(DPO(), 3)(logps())


def fitted(microbatches: int):
    """Policy and memory after four steps of pairs that two groups have decided in turn."""
    data = dataclasses.replace(
        rollouts(prompts=2, samples=4, longest=1),
        prompt_tokens=np.zeros((2, 1), np.int32),
        prompt_lengths=np.ones(2, np.int32),
        tokens=np.tile(np.arange(4, dtype=np.int32).reshape(1, 4, 1), (2, 1, 1)),
    )
    made = groups([0, 1, 1, 0, 0, 1], [[0, 1], [2, 1], [3, 0], [1, 3], [2, 0], [3, 2]])
    turn = np.tile(np.eye(2, dtype=np.float32), (3, 1))
    votes = np.where(turn > 0, 1.0, 0.5).astype(np.float32)
    pairs = RolledGroups(
        data, dataclasses.replace(made, labels=dataclasses.replace(made.labels, votes=votes, decided=turn))
    )
    chosen = np.arange(6).reshape(microbatches, -1)
    batch = stack_microbatches([pack(pairs, micro, RowShape(4, 2, 1), {}) for micro in chosen])
    loss = GroupRobust(DPO(1.0), 2, step=0.5)
    step = jax.jit(make_step(view_of(MODEL, loss), SGD, RATE))
    state, anchor = init_state(MODEL.load(), SGD, loss=loss), {"anchor": nudged(MODEL.load(), 0.3, 1)}
    for _ in range(4):
        state, metrics = step(state, {}, anchor, batch)
    return state, metrics


def test_weights_are_the_same_however_a_batch_is_split():
    (one, metrics), (other, _) = fitted(1), fitted(3)
    np.testing.assert_allclose(one.params["table"], other.params["table"], rtol=1e-5, atol=1e-6)
    for name, value in one.memory.items():
        np.testing.assert_allclose(float(value), float(other.memory[name]), rtol=1e-5)
        assert float(value) == float(metrics[f"memory/{name}"])
    assert abs(float(one.memory["weight_0"]) - 0.5) > 1e-3


def test_a_run_tells_its_weights(tmp_path):
    """Of recorded pairs on which two annotators do not agree: the one that is served worse has come to weigh more."""
    made = load(CONFIGS / "raco" / "raco_tiny.py")
    robust = dataclasses.replace(made, loss=GroupRobust(DPO(0.2), 2, step=0.2))
    with pytest.raises(ConfigError, match="RACO keeps objectives apart; take combiner=Mixed"):
        validate(robust)
    run_here(dataclasses.replace(robust, combiner=Mixed()), tmp_path)
    steps = lines_of(tmp_path, "fit")
    told = np.array([[line["memory/weight_0"], line["memory/weight_1"]] for line in steps])
    np.testing.assert_allclose(told.sum(1), 1, rtol=1e-5)
    assert np.abs(told[0] - told[-1]).max() > 1e-3
    assert np.isfinite([line["loss"] for line in steps]).all()


def test_group_robust_weights_come_to_the_least_of_the_worst_losses():
    """Two groups want contrary things, and twice as many pairs are of the first; the best even mean serves it first."""
    among, wanted = np.tile(PAIRS, (3, 1)), np.concatenate([LIKELY, LIKELY, odds(-2 * S)[PAIRS[:, 0], PAIRS[:, 1]]])
    of = np.repeat([0, 0, 1], len(PAIRS))
    decided = (of[:, None] == np.arange(2)).astype(np.float32)
    votes = np.where(decided > 0, wanted[:, None], 0.5).astype(np.float32)
    labels = dataclasses.replace(told(wanted, among), votes=jnp.asarray(votes), decided=jnp.asarray(decided))

    def worst(loss: GroupRobust) -> tuple[np.ndarray, np.ndarray]:
        """Losses of both groups, and their weights, where it comes to."""

        def mean(free, memory):
            return loss(recalling(seen_of(free, among, labels, EVEN), memory)).mean()

        def one(both, _):
            free, memory = both
            after = loss.remember(recalling(seen_of(free, among, labels, EVEN), memory))
            return (free - 2.0 * jax.grad(mean)(free, memory), after), None

        (free, memory), _ = jax.lax.scan(one, (jnp.zeros(4), begun(loss)), None, 3000)
        each = DPO(1.0)(seen_of(free, among, labels, EVEN))
        return np.array([each[of == g].mean() for g in (0, 1)]), np.array(list(memory.values()))

    losses, weights = worst(GroupRobust(DPO(1.0), 2, step=0.05))
    even, unmoved = worst(GroupRobust(DPO(1.0), 2, step=0.0))
    np.testing.assert_allclose(unmoved, [0.5, 0.5])
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-3)
    assert losses.max() < even.max() - 1e-2
    assert weights[np.argmax(even)] > 0.5
