"""Groups of one prompt in one row: prompt and answers are computed once, and what is seen of a group is the same."""

import dataclasses
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_groups import groups, rollouts
from made_models import MESHES, ONE, mesh, place
from made_pairs import dpo
from made_runs import policy, run_here

from jaxalign.data.comparisons.by_prompt import said
from jaxalign.data.groups import RolledGroups
from jaxalign.data.strays import Strayed
from jaxalign.data.tables.strict import Tally
from jaxalign.losses.bradley_terry import BradleyTerry
from jaxalign.losses.dpo import DPO
from jaxalign.machine import Machine
from jaxalign.models.headed import Headed
from jaxalign.models.random_llama import RandomLlama
from jaxalign.rollouts.shares import given
from jaxalign.storage.rundir import read_run
from jaxalign.training.features import Featured
from jaxalign.training.logps import Scorer
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.pair_scores import PairScorer, PairScores
from jaxalign.training.row_plan import plan_rows, row_tokens
from jaxalign.training.rows import Sizes, abstract_batch, pack, row_shape
from jaxalign.training.step import init_state, make_step
from jaxalign.training.views import view_of

LLAMA = RandomLlama(context=128)
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
SIZES = (2, 3, 32)


@pytest.fixture(scope="module")
def pairs() -> RolledGroups:
    """All pairs of four answers, in no order; four of another prompt's; one of a third."""
    some = [[0, 1], [3, 2], [0, 2], [1, 3], [2, 1], [3, 0], [0, 1], [1, 2], [3, 1], [0, 2], [2, 3]]
    return RolledGroups(rollouts(), groups([0, 1, 0, 0, 1, 0, 1, 0, 0, 1, 2], some))


def together(pairs, groups_a_row: int, rows: slice = slice(None)):
    """The rows of a plan as a batch, and the numbers of their groups."""
    plan = plan_rows(pairs, groups_a_row)
    chosen = plan.rows[rows].reshape(-1)
    sums = np.arange(2.0 * len(pairs), dtype=np.float32).reshape(-1, 2)
    return jax.tree.map(jnp.asarray, pack(pairs, chosen, plan.shape, {"anchor": sums})), chosen


def alone(pairs):
    sums = np.arange(2.0 * len(pairs), dtype=np.float32).reshape(-1, 2)
    return jax.tree.map(jnp.asarray, pack(pairs, np.arange(len(pairs)), row_shape(pairs), {"anchor": sums}))


def test_a_plan_has_every_group_once_with_those_of_its_prompt(pairs):
    for size in SIZES:
        rows = plan_rows(pairs, size).rows
        assert sorted(rows[rows >= 0]) == list(range(len(pairs)))
        assert all(len(set(pairs.prompts[row[row >= 0]])) == 1 for row in rows)
        assert all((np.diff((row >= 0).astype(int)) <= 0).all() for row in rows), "none stands behind an empty place"
        assert len(rows) == sum(-(-count // size) for count in np.unique(pairs.prompts, return_counts=True)[1])


def test_responses_of_the_same_tokens_are_one_answer():
    """Whatever stands behind their ends; and only of one prompt."""
    tokens = np.array([[[1, 2, 9], [1, 2, 3], [1, 2, 8]], [[1, 2, 3], [1, 2, 3], [1, 2, 0]]], np.int32)
    lengths = np.array([[2, 3, 2], [3, 3, 2]], np.int32)
    made = RolledGroups(
        given(np.ones((2, 1), np.int32), np.ones(2, np.int32), tokens, lengths),
        groups([0, 0, 1, 1], [[0, 1], [2, 1], [0, 1], [2, 0]]),
    )
    assert made.answers.tolist() == [[0, 1], [0, 1], [3, 3], [5, 3]]


def test_rows_of_one_group_are_as_they_were(pairs):
    plan = plan_rows(pairs)
    assert (plan.rows[:, 0] == np.arange(len(pairs))).all()
    assert plan.shape == row_shape(pairs)
    assert pack(pairs, plan.rows.reshape(-1), plan.shape, {}).branch is None


def test_rows_of_several_shapes_stand_by_length(pairs):
    for size in (1, *SIZES):
        whole, plan = plan_rows(pairs, size), plan_rows(pairs, size, 3)
        assert {tuple(sorted(row)) for row in plan.rows} == {tuple(sorted(row)) for row in whole.rows}
        tokens = [row_tokens(pairs, row[None]) for row in plan.rows]
        assert tokens == sorted(tokens)
        assert plan.shape == whole.shape
        assert all(plan.shapes[k].row >= count for k, count in zip(plan.least, tokens, strict=True))
        rows, shape = plan.batch(np.array([0, -1]))
        assert (rows[0] == plan.rows[0]).all()
        assert (rows[1] == -1).all()
        assert shape == plan.shapes[0]


@pytest.mark.parametrize("size", [1, 2])
def test_rows_hold_groups_that_say_the_same_twice(size):
    """A group in a row of its own lies there as it is, each of two equal answers for itself: shapes are as wide."""
    rolled = rollouts(prompts=2, samples=4, longest=60)
    made = RolledGroups(rolled, groups([0, 1, 0, 1], [[0, 0], [1, 1], [2, 2], [0, 1]]))
    plan = plan_rows(made, size, 3)
    for number, row in enumerate(plan.rows):
        rows, shape = plan.batch(np.array([number]))
        batch = pack(made, rows.reshape(-1), shape, {})
        assert (batch.rows.group >= 0).sum() == row_tokens(made, row[None])
        real = row[row >= 0]
        found = batch.mask.sum(-1) if batch.branch is None else batch.mask.sum(-1)[0][batch.branch[: len(real)]]
        np.testing.assert_array_equal(found, made.lengths[real])


def test_all_pairs_of_one_answer_stand_together():
    """Five answers compared with a sixth and with a seventh: what two rows have in common are these two alone."""
    star = [[k, hub] for hub in (5, 6) for k in range(5)]
    pairs = RolledGroups(rollouts(samples=7), groups([0] * 10, star))
    rows = plan_rows(pairs, 4).rows
    assert [sorted({*pairs.groups.responses[row[row >= 0]].ravel()}) for row in rows] == [
        [0, 1, 5, 6],
        [2, 3, 5, 6],
        [4, 5, 6],
    ]


def test_a_row_has_its_prompt_and_each_answer_once(pairs):
    batch, chosen = together(pairs, 32)
    rows = chosen.reshape(-1, 32)
    expected = [
        pairs.prompt_lengths[row[0]] + sum(pairs.rollouts.lengths[pairs.prompts[row[0]], answer] for answer in answers)
        for row in rows
        for answers in [set(pairs.groups.responses[row[row >= 0]].ravel())]
    ]
    np.testing.assert_array_equal((batch.rows.group >= 0).sum(1), expected)
    assert row_tokens(pairs, rows) == sum(expected)
    assert row_tokens(pairs, np.full((2, 32), -1)) == 0


@pytest.mark.parametrize("size", SIZES)
def test_losses_see_of_shared_rows_what_they_see_of_rows_apart(pairs, size):
    view = view_of(model := LLAMA.open(), DPO())
    params = model.load()
    seen = view(params, {}, alone(pairs))
    batch, chosen = together(pairs, size)
    found = view(params, {}, batch)
    real = chosen >= 0
    for name in ("sums", "anchor", "prefer"):
        np.testing.assert_allclose(getattr(found, name)[real], getattr(seen, name)[chosen[real]], **CLOSE, err_msg=name)
    width = min(found.mask.shape[2], seen.mask.shape[2])
    np.testing.assert_array_equal(found.mask[real][..., :width], seen.mask[chosen[real]][..., :width])
    np.testing.assert_allclose(found.tokens[real][..., :width], seen.tokens[chosen[real]][..., :width], **CLOSE)
    np.testing.assert_array_equal(batch.weight[~real], 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_is_the_same(pairs, size, accumulate):
    """All groups at once, whatever the rows: the same loss, gradient norm and parameters."""
    import optax

    model = LLAMA.open()
    params, optimizer = model.load(), optax.sgd(0.1)
    step = jax.jit(make_step(view_of(model, DPO()), optimizer, lambda step: 0.1))

    def after(batches):
        return step(init_state(params, optimizer), {}, {}, batches)

    whole = after(jax.tree.map(lambda leaf: leaf[None], alone(pairs)))
    plan = plan_rows(pairs, size)
    count = -(-len(plan.rows) // accumulate)
    rows = np.full((accumulate * count, size), -1)
    rows[: len(plan.rows)] = plan.rows
    sums = np.arange(2.0 * len(pairs), dtype=np.float32).reshape(-1, 2)
    micros = [pack(pairs, micro.reshape(-1), plan.shape, {"anchor": sums}) for micro in np.split(rows, accumulate)]
    shared = after(jax.tree.map(lambda *leaves: jnp.stack(leaves), *micros))
    for ours, theirs in zip(*map(jax.tree.leaves, (shared, whole)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_score_models_see_the_same(pairs, size):
    model = Headed(LLAMA, outputs=1).open()
    params, view = model.load(), view_of(model, BradleyTerry())
    batch, chosen = together(pairs, size)
    real = chosen >= 0
    found, seen = (view(params, {}, each).outputs for each in (batch, alone(pairs)))
    np.testing.assert_allclose(found[real], seen[chosen[real]], **CLOSE)


@pytest.mark.parametrize("name", MESHES)
def test_scores_are_the_same_on_every_mesh(pairs, name):
    model = LLAMA.open()
    params, devices = model.load(), mesh(name)
    direct = Scorer(model, ONE, 4).groups(params, pairs)
    heard: list[int] = []
    found = Scorer(model, devices, 4).groups(place(model, params, devices), pairs, heard.append, plan_rows(pairs, 3, 2))
    np.testing.assert_allclose(found, direct, **CLOSE)
    assert heard[-1] == len(pairs)


def test_scores_of_groups_with_strays_are_the_same(pairs):
    model = LLAMA.open()
    score = partial(Scorer(model, ONE, 2).groups, model.load(), Strayed(pairs))
    np.testing.assert_allclose(score(plan=plan_rows(Strayed(pairs), 4)), score(), **CLOSE)


def test_held_out_pairs_are_scored_the_same(pairs):
    model = LLAMA.open()
    params = model.load()
    view, anchor = view_of(model, DPO()), np.zeros((len(pairs), 2), np.float32)
    shared, apart = (
        PairScorer(view, ONE, 3, None, partial(plan_rows, groups_a_row=size, shapes=shapes))(params, {}, pairs, anchor)
        for size, shapes in ((4, 2), (1, 1))
    )
    for name in ("loss", "sums", "prefer", "weight", "prompt"):
        np.testing.assert_allclose(getattr(shared, name), getattr(apart, name), **CLOSE, err_msg=name)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_planned_is_what_is_packed(pairs, size):
    batch, chosen = together(pairs, size)
    shape = plan_rows(pairs, size).shape
    planned = abstract_batch(shape, len(chosen), ("anchor",))
    for name in ("rows", "mask", "weight", "references", "branch"):
        ours, theirs = (jax.tree.leaves(getattr(each, name)) for each in (planned, batch))
        assert [(leaf.shape, leaf.dtype) for leaf in ours] == [(leaf.shape, leaf.dtype) for leaf in theirs], name
    allowed = Sizes(8, 6, 2, answers=4).shared(size)
    assert (allowed.groups, allowed.branches) == (size, 4)
    assert allowed.row >= shape.row
    assert Sizes(8, 6, 2).shared(size).branches == 4 * -(-2 * size // 4), "without a bound, all may be different"


def test_rows_are_counted_without_tokenising(pairs):
    """Fifty pairs, of which some prompts have several: what a plan expects is what a fit has."""
    experiment = dpo()
    machine = Machine(experiment.model.open(), experiment.placement, 0)
    prompts = Counter(said(each.prompt) for each in experiment.feedback.pairs.read(Tally()))
    for size in (1, *SIZES):
        assert experiment.feedback.count(machine, size) == sum(-(-count // size) for count in prompts.values())


def test_features_need_no_rows(pairs):
    """Where features are known, groups share rows of one token, and are what they were."""
    table = np.random.default_rng(0).standard_normal((12, 8)).astype(np.float32)
    known = Featured(pairs, table, np.asarray(pairs.answers))
    plan = plan_rows(known, 4)
    batch = pack(known, plan.rows.reshape(-1), plan.shape, {})
    real = plan.rows.reshape(-1) >= 0
    np.testing.assert_array_equal(batch.features[real], table[pairs.answers[plan.rows[plan.rows >= 0]]])


def test_a_run_whose_groups_share_rows_ends_with_the_same_policy(tmp_path):
    """Two steps of all pairs of two epochs; recorded pairs of which each prompt has several. Or those that are scored
    share rows alone."""
    settings = ("--fit.batch_size", "128", "--fit.epochs", "2", "--fit.evaluate_every", "none", "--fit.keep", "last")
    run_here(dpo(*settings), tmp_path / "apart")
    run_here(dpo(*settings, "--fit.rows.groups", "2"), tmp_path / "shared")
    scored = dpo(*settings, "--fit.rows.shapes", "2")
    scored = dataclasses.replace(scored, fit=dataclasses.replace(scored.fit, scored_rows=OnePrompt(4, shapes=2)))
    run_here(scored, tmp_path / "scored")
    apart, *others = (jax.tree.leaves(policy(tmp_path / name, 1)) for name in ("apart", "shared", "scored"))
    for one, other, third in zip(apart, *others, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(third, one, rtol=1e-3, atol=1e-4)
    found = [read_run(tmp_path / name).load(0, "heldout_pairs", PairScores) for name in ("apart", "shared", "scored")]
    for other in found[1:]:
        np.testing.assert_allclose(other.loss, found[0].loss, rtol=1e-3, atol=1e-3)


def test_batches_that_no_rows_make_are_refused():
    found = dpo("--fit.batch_size", "8", "--fit.rows.groups", "3").problems()
    assert list(found) == ["fit.batch_size 8 / placement.accumulate 1 must be a multiple of fit.rows.groups 3"]
