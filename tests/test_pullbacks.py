"""Steps of several objectives: what one pull-back each gives is what separate losses would, wherever arrays lie."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_groups import groups, rollouts
from made_models import ONE, nudged

from jaxalign.data.groups import RolledGroups
from jaxalign.losses.dpo import DPO
from jaxalign.losses.inpo import INPO
from jaxalign.models.tabular import TabularPolicy
from jaxalign.objectives.mixed import Mixed
from jaxalign.objectives.raco import RACO
from jaxalign.objectives.weighted_sum import WeightedSum
from jaxalign.training.logps import Scorer
from jaxalign.training.pullbacks import gram
from jaxalign.training.rows import RowShape, pack, stack_microbatches
from jaxalign.training.step import init_state, make_step
from jaxalign.training.views import group_logps, view_of
from jaxalign.types import Batch, Combiner, Labels, Loss, Params

MODEL = TabularPolicy((0.1, 0.2, 0.3, 0.4)).open()
POLICY = MODEL.load()
DATA = dataclasses.replace(
    rollouts(prompts=2, samples=4, longest=1),
    prompt_tokens=np.zeros((2, 1), np.int32),
    prompt_lengths=np.ones(2, np.int32),
    tokens=np.tile(np.arange(4, dtype=np.int32).reshape(1, 4, 1), (2, 1, 1)),
)
PAIRS = groups([0, 1, 1, 0], [[0, 1], [2, 1], [3, 0], [2, 3]])
VOTES = np.float32([[0.9, 0.2, 1.0], [0.5, 1.0, 0.7], [0.6, 0.5, 0.0], [1.0, 0.3, 0.5]])
"""Of three annotators, some of them ties."""
REFERENCES = {"last": nudged(POLICY, 0.3, 1), "anchor": nudged(POLICY, 0.3, 2)}
LOSS = INPO(eta=0.5, tau=0.2)
WEIGHTS = (0.2, 0.3, 0.5)

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
"""fp32 sums of four groups in another order."""


def votes_of(votes: np.ndarray) -> Labels:
    """The labels of those annotators; their mixture is certain of the first response, which no objective may see."""
    even = np.full((len(votes), 2), 0.5, np.float32)
    decided = (votes != 0.5).astype(np.float32)
    return Labels(np.ones(len(votes), np.float32), even, None, votes, decided)


def batch_of(labels: Labels, accumulate: int = 1) -> Batch:
    pairs = dataclasses.replace(PAIRS, labels=labels)
    columns = {
        role: Scorer(MODEL, ONE, 4).groups(policy, RolledGroups(DATA, PAIRS)) for role, policy in REFERENCES.items()
    }
    parts = np.arange(4).reshape(accumulate, -1)
    return stack_microbatches([pack(RolledGroups(DATA, pairs), part, RowShape(4, 2, 1), columns) for part in parts])


def taken(combiner: Combiner, batch: Batch, loss: Loss = LOSS) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The direction of one step and its metrics."""
    step = jax.jit(make_step(view_of(MODEL, loss), optax.sgd(1.0), optax.constant_schedule(1.0), combiner))
    state, metrics = step(init_state(POLICY, optax.sgd(1.0)), {}, {}, batch)
    return np.asarray(POLICY["table"] - state.params["table"])[:, 0], jax.tree.map(np.asarray, metrics)


def separate(votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient of each annotator's loss, each by a pass of its own: Σ weight · decided · loss / Σ weight."""
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), batch_of(votes_of(votes)))
    share = batch.weight / batch.weight.sum()

    def value(params: Params, index: int) -> jax.Array:
        labels = Labels.of_one(batch.labels.votes[:, index], batch.labels.win)
        of = LOSS(dataclasses.replace(group_logps(MODEL, LOSS, params, {}, batch), labels=labels))
        return (of * share * labels.decided[:, 0]).sum()

    found = [jax.value_and_grad(value)(POLICY, index) for index in range(votes.shape[1])]
    return np.array([value for value, _ in found]), np.array([each["table"][:, 0] for _, each in found])


@dataclasses.dataclass(frozen=True)
class Equalised:
    """Every gradient at length 1: coefficients that are no linear function of the gradients."""

    objectives: int = 3

    def __call__(self, gram: jax.Array) -> jax.Array:
        return 1 / jnp.sqrt(jnp.diagonal(gram))


@pytest.mark.parametrize("loss", [DPO(beta=0.5), LOSS], ids=lambda loss: type(loss).__name__)
def test_one_annotator_of_weight_1_is_the_mixture(loss):
    votes = np.float32([0.9, 0.8, 0.6, 1.0])
    labels = Labels.of_one(votes, np.full((4, 2), 0.5, np.float32))
    (moved, metrics), (as_moved, as_metrics) = (
        taken(combiner, batch_of(labels), loss) for combiner in (WeightedSum((1.0,)), Mixed())
    )
    assert as_metrics["grad_norm"] > 0.01
    np.testing.assert_allclose(moved, as_moved, **CLOSE)
    for name, value in as_metrics.items():
        np.testing.assert_allclose(metrics[name], value, **CLOSE, err_msg=name)
    added = {f"{name}/objective_0" for name in ("loss", "grad_norm", "coefficients")}
    assert set(metrics) == set(as_metrics) | added


def test_the_weighted_sum_is_the_gradient_of_the_weighted_sum_of_losses():
    values, gradients = separate(VOTES)
    moved, metrics = taken(WeightedSum(WEIGHTS), batch_of(votes_of(VOTES)))
    np.testing.assert_allclose(moved, np.array(WEIGHTS) @ gradients, **CLOSE)
    np.testing.assert_allclose(metrics["loss"], np.array(WEIGHTS) @ values, **CLOSE)
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(np.array(WEIGHTS) @ gradients), **CLOSE)
    for index in range(3):
        np.testing.assert_allclose(metrics[f"loss/objective_{index}"], values[index], **CLOSE)
        np.testing.assert_allclose(metrics[f"grad_norm/objective_{index}"], np.linalg.norm(gradients[index]), **CLOSE)
        np.testing.assert_allclose(metrics[f"coefficients/objective_{index}"], WEIGHTS[index], rtol=1e-6)


def test_a_combiner_sees_the_inner_products_of_all_gradients():
    _, gradients = separate(VOTES)
    moved, _ = taken(Equalised(), batch_of(votes_of(VOTES)))
    np.testing.assert_allclose(moved, (gradients / np.linalg.norm(gradients, axis=1, keepdims=True)).sum(0), **CLOSE)


def test_raco_is_that_of_separate_gradients_and_says_what_it_did():
    _, gradients = separate(VOTES)
    combiner, products = RACO(WEIGHTS, c=0.5), gradients @ gradients.T
    moved, metrics = taken(combiner, batch_of(votes_of(VOTES)))
    wanted = combiner.direction(jnp.asarray(products, jnp.float32))
    np.testing.assert_allclose(moved, np.asarray(wanted.coefficients) @ gradients, rtol=1e-4, atol=1e-6)
    for index in range(3):
        np.testing.assert_allclose(metrics[f"mixture/objective_{index}"], wanted.mixture[index], **CLOSE)
        np.testing.assert_allclose(metrics[f"clipped/objective_{index}"], wanted.used[index], **CLOSE)
    norms = np.linalg.norm(gradients, axis=1)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        np.testing.assert_allclose(metrics[f"cosine/objectives_{i}_{j}"], products[i, j] / norms[i] / norms[j], **CLOSE)
    np.testing.assert_allclose(metrics["descent"], 1 + 0.5 * metrics["alignment"], rtol=1e-6)


def test_gram_by_hand():
    gradients = {"a": jnp.asarray([[1.0, -4.0], [-1.0, 1.0]]), "b": {"c": jnp.asarray([[[2.0]], [[3.0]]])}}
    np.testing.assert_array_equal(gram(gradients), [[17.0 + 4.0, -5.0 + 6.0], [-5.0 + 6.0, 2.0 + 9.0]])


@pytest.mark.parametrize(
    "combiner", [WeightedSum(WEIGHTS), Equalised(), RACO(WEIGHTS, c=0.5)], ids=lambda each: type(each).__name__
)
@pytest.mark.parametrize("accumulate", [2, 4])
def test_objectives_are_combined_once_a_batch_however_many_parts_it_has(combiner, accumulate):
    """Microbatches of their own would give other unit gradients."""
    (moved, metrics), (as_moved, as_metrics) = (
        taken(combiner, batch_of(votes_of(VOTES), parts)) for parts in (accumulate, 1)
    )
    np.testing.assert_allclose(moved, as_moved, **CLOSE)
    jax.tree.map(partial(np.testing.assert_allclose, **CLOSE), metrics, as_metrics)


def test_a_tie_takes_no_part_in_its_objective_and_counts_in_the_mean():
    """As in the paper's loss, whose mean is over all pairs: an annotator that is often undecided pulls less."""
    _, gradients = separate(VOTES[:, :1])
    flat = VOTES[:, :1].copy()
    flat[0] = 0.5
    _, without = separate(flat)
    moved, metrics = taken(WeightedSum((1.0,)), batch_of(votes_of(flat)))
    np.testing.assert_allclose(moved, without[0], **CLOSE)
    assert np.abs(gradients[0] - without[0]).max() > 0.01
    undecided = np.full((4, 1), 0.5, np.float32)
    nothing, metrics = taken(WeightedSum((1.0,)), batch_of(votes_of(undecided)))
    np.testing.assert_array_equal(nothing, 0)
    assert metrics["loss"] == metrics["grad_norm/objective_0"] == 0


def test_the_mixture_is_what_rewards_are_reported_of():
    """Accuracies and margins are of the oracle's own labels, whichever way the gradients go."""
    shares: Callable[[dict], dict] = lambda metrics: {name: metrics[name] for name in metrics if "rewards" in name}  # noqa: E731
    apart, mixed = (taken(combiner, batch_of(votes_of(VOTES)))[1] for combiner in (WeightedSum(WEIGHTS), Mixed()))
    assert len(shares(mixed)) == 4
    jax.tree.map(partial(np.testing.assert_allclose, **CLOSE), shares(apart), shares(mixed))
