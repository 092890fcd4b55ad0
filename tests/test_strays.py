"""Answers that stray to another prompt: which, where they lie in a row, and what KTO makes of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_groups import rollouts
from made_models import ONE, nudged

from jaxalign.data.groups import RolledGroups
from jaxalign.data.strays import Strayed
from jaxalign.errors import DataError
from jaxalign.losses.anchored import APOAlone
from jaxalign.losses.kto import KTO
from jaxalign.training.logps import Scorer
from jaxalign.training.pair_scores import PairScorer
from jaxalign.training.row_plan import plan_rows
from jaxalign.training.rows import Sizes, pack, row_shape, stack_microbatches
from jaxalign.training.step import init_state, make_step
from jaxalign.training.views import group_logps, view_of
from jaxalign.types import Groups, Labels

DATA = rollouts(prompts=4, samples=2, longest=5)
PROMPTS = np.array([0, 0, 1, 2, 2, 3, 0])


def lone(prompts: np.ndarray = PROMPTS) -> RolledGroups:
    """Lone answers to these prompts, good and bad in turn."""
    count = len(prompts)
    good = (np.arange(count) % 2).astype(np.float32)
    labels = Labels(good, None, None, good[:, None], np.ones((count, 1), np.float32))
    groups = Groups(prompts, np.arange(count)[:, None] % 2, np.ones(count, np.float32), labels)
    return RolledGroups(DATA, groups)


def test_a_stray_answers_the_next_other_prompt():
    """The last group has the prompt of the first, and takes from the second prompt on."""
    assert Strayed(lone()).others.tolist() == [2, 2, 3, 5, 5, 6, 2]
    with pytest.raises(DataError, match="all groups have one prompt"):
        _ = Strayed(lone(np.array([1, 1, 1]))).others


def test_groups_of_one_prompt_have_strays_from_those_beside_them():
    """Those that are left out of a fit may be of a single prompt."""
    alone, others = lone(np.array([3, 3])), lone(np.array([1, 2]))
    strayed, chosen = Strayed(alone, others), np.array([0, 1])
    own, other = alone.take(chosen), others.take(np.zeros(2, np.int64))
    found = strayed.take(chosen)
    np.testing.assert_array_equal(found.lengths, np.concatenate([own.lengths, other.lengths], axis=1))
    np.testing.assert_array_equal(found.lengths, strayed.lengths)
    length = other.lengths[0, 0]
    np.testing.assert_array_equal(found.tokens[1, 1, :length], other.tokens[0, 0, :length])
    assert strayed.answers[0, 1] == others.answers[0, 0]
    assert Strayed(lone(), others).sources is not others


def test_groups_are_as_they_were_with_one_answer_more():
    own, strayed, chosen = lone(), Strayed(lone()), np.array([3, 0, 6])
    was, found, other = own.take(chosen), strayed.take(chosen), own.take(strayed.others[chosen])
    assert (strayed.responses, len(strayed)) == (2, 7)
    np.testing.assert_array_equal(strayed.lengths[chosen], np.concatenate([was.lengths, other.lengths], axis=1))
    np.testing.assert_array_equal(found.lengths, strayed.lengths[chosen])
    for group in range(3):
        for answer, taken in enumerate((was, other)):
            length = taken.lengths[group, 0]
            np.testing.assert_array_equal(found.tokens[group, answer, :length], taken.tokens[group, 0, :length])
    np.testing.assert_array_equal(found.prompt, was.prompt)
    np.testing.assert_array_equal(found.labels.prefer, was.labels.prefer)


def test_planned_rows_hold_the_stray_beside_all_answers_of_a_prompt():
    """Every answer by itself, four of a prompt a row: five branches, one of them for all four strays."""
    data, count = rollouts(prompts=3, samples=4, longest=5), 12
    groups = Groups(
        np.arange(count) // 4, np.arange(count)[:, None] % 4, np.ones(count, np.float32), Labels.unsaid(count, 1)
    )
    shape = plan_rows(Strayed(RolledGroups(data, groups)), 4).shape
    sizes = Sizes(int(data.prompt_lengths.max()), 5, responses=1, answers=4)
    assert sizes.strayed == Sizes(sizes.prompt, 5, responses=2, answers=5)
    assert sizes.strayed.shared(4).branches == shape.branches > sizes.shared(4).branches


@pytest.fixture(scope="module")
def anchor(params):
    return nudged(params, 0.05, 1)


def stacked(groups, columns, chosen, accumulate=1):
    parts = np.array(chosen).reshape(accumulate, -1)
    return stack_microbatches([pack(groups, part, row_shape(groups), columns) for part in parts])


def test_what_kto_sees_is_the_answer_and_how_far_the_stray_has_moved(model, params, anchor):
    groups, scorer = Strayed(lone()), Scorer(model, ONE, 8)
    columns = {"anchor": scorer.groups(anchor, groups)}
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), stacked(groups, columns, range(7)))
    seen = jax.jit(lambda params: group_logps(model, KTO(), params, {}, batch))(params)
    sums = scorer.groups(params, groups)
    assert seen.tokens.shape[1] == 1
    np.testing.assert_allclose(seen.sums, sums[:, :1], rtol=1e-4)
    np.testing.assert_allclose(seen.anchor, columns["anchor"][:, :1], rtol=1e-6)
    np.testing.assert_allclose(seen.stray, (sums - columns["anchor"])[:, 1], rtol=1e-3, atol=1e-4)


def test_a_step_is_the_same_in_microbatches(model, params, anchor):
    groups = Strayed(lone())
    columns = {"anchor": Scorer(model, ONE, 8).groups(anchor, groups)}
    step = jax.jit(make_step(view_of(model, KTO(1.0), 1), optax.sgd(1.0), optax.constant_schedule(1.0)))
    whole, halves = (
        step(init_state(params, optax.sgd(1.0)), {}, {}, stacked(groups, columns, [*range(7), -1], parts))
        for parts in (1, 2)
    )
    np.testing.assert_allclose(whole[1]["loss"], halves[1]["loss"], rtol=1e-5)
    np.testing.assert_allclose(whole[1]["grad_norm"], halves[1]["grad_norm"], rtol=1e-3)
    assert set(whole[1]) == set(halves[1])


@pytest.mark.parametrize("parts", [1, 2])
def test_what_a_fit_does_not_see_has_the_loss_of_its_step(model, params, anchor, parts):
    """With strays and without, a batch in microbatches or not."""
    loss, view = KTO(1.0), view_of(model, KTO(1.0), 1)
    groups, scorer = Strayed(lone()), PairScorer(view, ONE, 8 // parts, parts=parts)
    table = np.zeros((7, 2), np.float32)
    for numbers, sums in scorer.sums(anchor, {}, groups, {}):
        table[numbers] = sums
    np.testing.assert_allclose(table, Scorer(model, ONE, 8).groups(anchor, groups), rtol=1e-5)
    heard: list[int] = []
    scores = scorer(params, {}, groups, table, between=heard.append)
    assert (scores.sums.shape, scores.anchor.shape, scores.lengths.shape) == ((7, 1), (7, 1), (7, 1))
    assert heard == [7]
    # Where the policy has moved towards answers that stray, or else the anchor is the one that has.
    far = np.array([(Scorer(model, ONE, 8).groups(params, groups) - table)[:, 1].mean()])
    first, second = (params, table) if far > 0 else (anchor, Scorer(model, ONE, 8).groups(params, groups))
    step = jax.jit(make_step(view_of(model, loss, 1), optax.sgd(1.0), optax.constant_schedule(1.0)))
    begun = init_state(first, optax.sgd(1.0))
    _, metrics = step(begun, {}, {}, stacked(groups, {"anchor": second}, [*range(7), -1], 1))
    found = scorer(first, {}, groups, second).metrics()["loss"]
    np.testing.assert_allclose(found, metrics["loss"], rtol=1e-5)
    blind = PairScorer(view, ONE, 8)(first, {}, lone(), second[:, :1]).metrics()["loss"]
    assert abs(blind - found) > 1e-4, "there is a KL to tell"


def test_without_strays_z_is_0(model, params, anchor):
    groups = lone()
    columns = {"anchor": Scorer(model, ONE, 8).groups(anchor, groups)}
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), stacked(groups, columns, range(7)))
    seen = jax.jit(lambda params: group_logps(model, KTO(), params, {}, batch))(params)
    assert seen.stray is None
    np.testing.assert_allclose(KTO(0.1)(seen), APOAlone(0.1)(seen), rtol=1e-5)
    far = dataclasses.replace(seen, stray=jnp.full(7, -3.0))
    np.testing.assert_allclose(KTO(0.1)(far), APOAlone(0.1)(seen), rtol=1e-5)  # a KL is not negative
