"""Rows of many prompts: every group once, rows evenly full, and all that is seen of a group as of it alone."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_families import CHECKPOINTS, loaded
from made_groups import groups, rollouts
from made_models import MESHES, ONE, mesh, place

from jaxalign.data.groups import RolledGroups, with_logps
from jaxalign.data.order import GroupOrder
from jaxalign.errors import DataError
from jaxalign.losses.aot import AOTUnpaired
from jaxalign.losses.bradley_terry import BradleyTerry
from jaxalign.losses.dpo import DPO
from jaxalign.losses.sum_of import SumOf
from jaxalign.losses.wpo import WPO
from jaxalign.mesh.sharding import RULES, MeshShape, row_sharding
from jaxalign.models.headed import Headed
from jaxalign.models.random_llama import RandomLlama
from jaxalign.training.bins import evenly, fewest
from jaxalign.training.logps import Scorer, of_groups
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.packed import Packed, alone
from jaxalign.training.pair_scores import PairScorer
from jaxalign.training.row_plan import row_tokens
from jaxalign.training.rows import RowShape, Sizes, abstract_batch, pack, stack_microbatches
from jaxalign.training.step import init_state, make_step
from jaxalign.training.trees import grown
from jaxalign.training.views import view_of

LLAMA = RandomLlama(context=128)
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
LONGEST, TRUNK = 6, 7
"""Tokens of an answer and of a prompt, at most."""


def some(prompts: int = 7, count: int = 40, seed: int = 0) -> RolledGroups:
    """Pairs of four answers to each of a few prompts: some answers are in many, some prompts in none."""
    rng = np.random.default_rng(seed)
    asked = rng.integers(0, prompts, count).tolist()
    return RolledGroups(rollouts(prompts, 4), groups(asked, [rng.choice(4, 2, replace=False).tolist() for _ in asked]))


def columns(pairs) -> dict[str, np.ndarray]:
    return {"anchor": np.arange(2.0 * len(pairs), dtype=np.float32).reshape(-1, 2)}


# --------------------------------------------------------------------------------------------------------------
# Bins and trees


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(50, 120), st.integers(1, 4))
def test_bins_are_even_and_as_few_as_hold_everything(sizes, room, multiple):
    sizes = np.array(sizes)
    count = fewest(sizes, room, multiple)
    assert count % multiple == 0
    filled = np.bincount(evenly(sizes, count), sizes, count)
    assert filled.sum() == sizes.sum()
    assert filled.max() <= room
    assert filled.max() - filled.min() <= sizes.max(), "the next largest went into the emptiest"
    # Graham's bound: all in one bin fewer would be 4/3 too much for the best there is
    assert count == multiple or sizes.sum() > (count - multiple) * room * 2 / 3 - sizes.max()


def test_bins_by_hand():
    """5 | 5, then 4 to the first, 3 to the second, 2 there."""
    np.testing.assert_array_equal(evenly(np.array([3, 5, 5, 4, 2]), 2), [1, 0, 1, 0, 1])


@given(st.integers(8, 40), st.integers(0, 99))
def test_trees_hold_every_group_once_and_fit(most, seed):
    pairs = some(seed=seed)
    trees = grown(pairs, np.arange(len(pairs)), most)
    assert sorted(trees.numbers) == list(range(len(pairs)))
    for number in range(len(trees.sizes.row)):
        own = trees.numbers[trees.tree == number]
        assert len(set(pairs.prompts[own])) == 1
        answers = dict(zip(pairs.answers[own].ravel().tolist(), pairs.lengths[own].ravel().tolist(), strict=True))
        assert trees.sizes.scored[number] == sum(answers.values())
        assert trees.sizes.row[number] == pairs.prompt_lengths[own[0]] + sum(answers.values())
        assert (trees.sizes.branches[number], trees.sizes.response[number]) == (len(answers), max(answers.values()))
        assert trees.sizes.row[number] <= most or len(own) == 1


def test_a_prompt_is_one_tree_where_that_fits():
    pairs = some()
    assert len(grown(pairs, np.arange(len(pairs)), 100).sizes.row) == len(set(pairs.prompts))
    assert len(grown(pairs, np.arange(len(pairs)), 1).sizes.row) == len(pairs), "longer ones have a tree each"


# --------------------------------------------------------------------------------------------------------------
# Rows


@pytest.mark.parametrize("rule", [Packed(40), Packed(30, groups=3), Packed(64, shapes=3)])
@pytest.mark.parametrize("multiple", [1, 4])
def test_a_step_has_the_groups_of_its_batch_whatever_the_rows(rule, multiple):
    pairs = some()
    units = rule.units(pairs)
    order = GroupOrder(len(units.rows), 12 // rule.groups, 2, 0)
    steps = rule.steps(pairs, units, order, multiple)
    apart = OnePrompt(rule.groups).steps(pairs, OnePrompt(rule.groups).units(pairs), order, multiple)
    assert steps.rows % multiple == 0
    widths = set()
    for number in range(len(order)):
        (rows, shape), (plain, _) = steps[number], apart[number]
        assert sorted(rows[rows >= 0]) == sorted(plain[plain >= 0])
        assert rows.shape == (steps.rows, shape.groups)
        tokens = [row_tokens(pairs, row[None]) for row in rows]
        assert max(tokens) <= min(shape.row, rule.tokens)
        assert max(tokens) - min(tokens) <= 30, "rows, and so devices and hosts, have about the same to compute"
        batch = pack(pairs, rows.reshape(-1), shape, {})
        np.testing.assert_array_equal((batch.rows.group >= 0).sum(1), tokens)
        widths.add(shape)
    assert len(widths) <= rule.shapes
    assert max(widths, key=lambda shape: shape.row) == steps.shape


@pytest.mark.parametrize("size", [1, 2])
def test_a_pass_has_every_group_once_in_full_rows(size):
    pairs, rule = some(), Packed(40)
    plan = rule.passes(pairs, size)
    assert sorted(plan.rows[plan.rows >= 0]) == list(range(len(pairs)))
    assert len(plan.rows) % size == 0
    tokens = row_tokens(pairs, plan.rows)
    assert len(plan.rows) <= size * -(-tokens // (rule.tokens * size)) + size
    heard = [rows for rows, _ in plan.batches(size)]
    np.testing.assert_array_equal(np.concatenate(heard), plan.rows)
    known = np.isin(np.arange(len(pairs)), heard[0])
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in plan.batches(size, known)]), plan.rows[size:])


def test_a_pass_has_longer_rows_for_longer_groups():
    """Nothing is refused that is only scored: the long ones come last, in rows as wide as they need."""
    pairs = some()
    tokens = alone(pairs)
    limit = int(np.median(tokens))
    plan = Packed(limit).passes(pairs, 2)
    assert sorted(plan.rows[plan.rows >= 0]) == list(range(len(pairs)))
    long = [row for row in plan.rows if row_tokens(pairs, row[None]) > limit]
    assert long
    assert all((row >= 0).sum() == 1 for row in long)
    for rows, shape in plan.batches(2):
        pack(pairs, rows.reshape(-1), shape, {})


def test_what_is_planned_is_what_is_packed():
    pairs = some()
    order = GroupOrder(len(pairs), 12, 1, 0)
    steps = Packed(40).steps(pairs, Packed(40).units(pairs), order, 2)
    rows, shape = steps[0]
    batch = pack(pairs, rows.reshape(-1), shape, columns(pairs))
    planned = abstract_batch(shape, rows.size, ("anchor",))
    for name in ("rows", "mask", "weight", "references", "branch"):
        ours, theirs = (jax.tree.leaves(getattr(each, name)) for each in (planned, batch))
        assert [(leaf.shape, leaf.dtype) for leaf in ours] == [(leaf.shape, leaf.dtype) for leaf in theirs], name
    # twelve groups of 8 + 2 · 6 tokens, two in a row of 40: six rows, or three of twice the tokens
    sizes = Sizes(8, 6)
    assert Packed(40).planned(sizes, 12, 2).rows == Packed(40).planned(sizes, 12, 1).rows == 6
    assert Packed(80).planned(sizes, 12, 1).rows == 3
    assert Packed(80).planned(sizes, 12, 4).rows == 4
    assert Packed(80).full(sizes) == RowShape.holding(80, 48, 6).shared(4, 8)
    assert steps.rows <= Packed(40).planned(Sizes(TRUNK, LONGEST), 12, 2).rows


def test_groups_that_no_row_holds_are_refused_or_left_out_and_counted():
    pairs = some()
    longest = int(alone(pairs).max())
    assert Packed(longest).within(pairs) == (pairs, 0)
    assert OnePrompt().within(pairs) == (pairs, None)
    with pytest.raises(
        DataError, match=rf"groups are longer than a row of {longest - 1} tokens, the longest {longest}"
    ):
        Packed(longest - 1).within(pairs)
    kept, left_out = Packed(longest - 1, too_long="drop").within(pairs)
    assert left_out == (alone(pairs) == longest).sum() == len(pairs) - len(kept)
    with pytest.raises(DataError, match="nothing is left"):
        Packed(1, too_long="drop").within(pairs)


# --------------------------------------------------------------------------------------------------------------
# What is seen: log-probs, losses, gradients

ROOM = RowShape(row=96, scored=96, response=8, groups=12, branches=24)
"""Holds twelve groups whatever they are, so that one program sees them packed and apart."""


@cache
def seeing(name: str | None):
    """Parameters of a family, or of the tiny model, and (params, batch) → DPO's loss, its gradient, and log-probs of
    every token of each group."""
    model, params = (LLAMA.open(), LLAMA.open().load()) if name is None else loaded(name)[:2]
    view = view_of(model, DPO(beta=0.5))

    def loss(params, batch):
        seen = view(params, {}, batch)
        return (view.loss(seen) * batch.weight).sum(), seen.tokens

    return params, jax.jit(jax.value_and_grad(loss, has_aux=True))


def assert_seen_alike(pairs: RolledGroups, rows: np.ndarray, name: str | None = None) -> None:
    """Of groups in these rows what is seen of each in a row of its own, by one program."""
    params, see = seeing(name)
    count = len(pairs)
    apart, packed = np.full((2, count, ROOM.groups), -1)
    apart[:, 0] = np.arange(count)
    packed[: len(rows), : rows.shape[1]] = rows
    (whole, tokens), gradient = see(params, pack(pairs, apart.reshape(-1), ROOM, columns(pairs)))
    (found, ours), slope = see(params, pack(pairs, packed.reshape(-1), ROOM, columns(pairs)))
    np.testing.assert_allclose(found, whole, rtol=2e-5)
    where = np.argsort(np.where(packed.reshape(-1) < 0, count, packed.reshape(-1)), kind="stable")[:count]
    np.testing.assert_allclose(ours[where], tokens[:: ROOM.groups], **CLOSE)
    for one, other in zip(jax.tree.leaves(slope), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-5 * max(1.0, float(np.abs(other).max())))


@st.composite
def forests(draw):
    """Six groups of up to four prompts, sizes of one token up to the longest."""
    lengths = st.lists(st.integers(1, LONGEST), min_size=4, max_size=4)
    pair = st.lists(st.integers(0, 3), min_size=2, max_size=2)
    return {
        "trunks": draw(st.lists(st.integers(1, TRUNK), min_size=4, max_size=4)),
        "lengths": draw(st.lists(lengths, min_size=4, max_size=4)),
        "pairs": draw(st.lists(st.tuples(st.integers(0, 3), pair), min_size=6, max_size=6)),
        "tokens": draw(st.integers(TRUNK + 2 * LONGEST, ROOM.row)),
    }


def forest(drawn) -> RolledGroups:
    data = rollouts(4, 4, LONGEST)
    data = dataclasses.replace(
        data,
        prompt_tokens=1 + np.arange(4 * 8, dtype=np.int32).reshape(4, 8),
        prompt_lengths=np.int32(drawn["trunks"]),
        tokens=40 + np.arange(16 * LONGEST, dtype=np.int32).reshape(4, 4, LONGEST),
        lengths=np.int32(drawn["lengths"]),
    )
    return RolledGroups(data, groups([prompt for prompt, _ in drawn["pairs"]], [pair for _, pair in drawn["pairs"]]))


ONES = {"trunks": [1] * 4, "lengths": [[1] * 4] * 4, "tokens": 96}
FULL = {"trunks": [TRUNK] * 4, "lengths": [[LONGEST] * 4] * 4, "tokens": TRUNK + 2 * LONGEST}
MANY = [(k % 4, [k % 3, k % 3 + 1]) for k in range(6)]


@settings(deadline=None, max_examples=25)
@given(forests())
@example(ONES | {"pairs": MANY})
@example(FULL | {"pairs": MANY})
@example(ONES | {"pairs": [(0, [1, 1])] * 6})
@example(FULL | {"pairs": [(0, [0, 1]), (0, [2, 3]), (0, [1, 2]), (1, [0, 0]), (1, [3, 0]), (0, [0, 1])], "tokens": 96})
def test_packed_is_apart(drawn):
    """Single tokens, longest ones, one prompt's alone, groups that say the same twice, many in a row and few."""
    pairs = forest(drawn)
    assert_seen_alike(pairs, Packed(drawn["tokens"]).passes(pairs, 1).rows)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_packed_is_apart_of_every_family(name):
    """Windows, caps, experts, norms: a row of three prompts, two groups of one of them, and a row of two."""
    asked = [(0, [0, 1]), (1, [0, 1]), (2, [1, 3]), (0, [1, 2]), (3, [2, 0]), (1, [2, 3])]
    pairs = forest(FULL | {"trunks": [7, 1, 5, 3], "pairs": asked})
    known = {name: getattr(pairs.rollouts, name) % 60 for name in ("tokens", "prompt_tokens")}
    pairs = dataclasses.replace(pairs, rollouts=dataclasses.replace(pairs.rollouts, **known))
    assert_seen_alike(pairs, np.array([[1, 5, 2, 4], [0, 3, -1, -1]]), name)


def test_score_models_see_the_same():
    pairs = some()
    model = Headed(LLAMA, outputs=1).open()
    params, view = model.load(), view_of(model, BradleyTerry())
    found = {}
    for name, rule in (("packed", Packed(64)), ("apart", OnePrompt())):
        plan = rule.passes(pairs, 1)
        chosen = plan.rows.reshape(-1)
        seen = view(params, {}, jax.tree.map(jnp.asarray, pack(pairs, chosen, plan.shape, {}))).outputs
        found[name] = np.asarray(seen)[chosen >= 0][np.argsort(chosen[chosen >= 0])]
    np.testing.assert_allclose(found["packed"], found["apart"], **CLOSE)


def test_what_the_policy_logged_comes_to_its_tokens():
    pairs = with_logps(some())
    logged = np.random.default_rng(0).standard_normal(pairs.rollouts.tokens.shape).astype(np.float32)
    pairs = dataclasses.replace(pairs, rollouts=dataclasses.replace(pairs.rollouts, logps=logged))
    for rule in (Packed(64), OnePrompt(3), OnePrompt()):
        plan = rule.passes(pairs, 1)
        chosen = plan.rows.reshape(-1)
        batch = jax.tree.map(jnp.asarray, pack(pairs, chosen, plan.shape, {}))
        found, mask = (np.asarray(of_groups(batch, each)) for each in (batch.last_tokens, batch.mask))
        for number in np.flatnonzero(chosen >= 0):
            taken = pairs.take(chosen[number : number + 1])
            width = taken.logps.shape[2]
            said = np.arange(width) < taken.lengths[0][:, None]
            np.testing.assert_array_equal(found[number][:, :width], np.where(said, taken.logps[0], 0))
            np.testing.assert_array_equal(mask[number][:, :width], said)


EVERYTHING = SumOf((DPO(), WPO(), AOTUnpaired()), (1.0, 1.0, 1.0))
"""Pairs, log-probs by token, and the other groups of the batch."""


MESHED = {
    "data2 fsdp2 tensor2": MeshShape(data=2, fsdp=2, tensor=2),
    "fsdp4 context2": MeshShape(fsdp=4, context=2),
    "fsdp4 tensor2": MeshShape(fsdp=4, tensor=2),
}


@cache
def stepped(kind: str, accumulate: int, on: str | None):
    """State and metrics after a step of SGD on twelve groups, in rows of their own or packed."""
    pairs = some(count=12)
    model = LLAMA.open()
    devices = ONE if on is None else MESHED[on].build()
    params, optimizer = model.load(), optax.sgd(0.1)
    there = model if on is None else model.on(devices, RULES)
    step = jax.jit(make_step(view_of(there, EVERYTHING), optimizer, lambda step: 0.1))
    rule = {"apart": OnePrompt(), "packed": Packed(64)}[kind]
    multiple = accumulate * (1 if on is None else 4)
    order = [np.arange(12)]
    rows, shape = rule.steps(pairs, rule.units(pairs), order, multiple)[0]
    parts = np.split(rows, accumulate)
    batch = stack_microbatches([pack(pairs, part.reshape(-1), shape, columns(pairs)) for part in parts])
    batch = jax.device_put(batch, row_sharding(devices, leading=1))
    state, metrics = step(init_state(place(model, params, devices), optimizer), {}, {}, batch)
    return jax.tree.map(np.asarray, (state.params, metrics))


@pytest.mark.parametrize(
    ("accumulate", "on"),
    [(1, None), (2, None), (1, "data2 fsdp2 tensor2"), (2, "fsdp4 context2"), (1, "fsdp4 tensor2")],
)
def test_a_step_is_the_same(accumulate, on):
    """Loss, metrics and parameters; on one device and on meshes of eight, in microbatches, of losses that read all."""
    for ours, theirs in zip(
        *map(jax.tree.leaves, (stepped("packed", accumulate, on), stepped("apart", 1, None))), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", MESHES)
def test_scores_are_the_same_on_every_mesh(name):
    pairs, model = some(), LLAMA.open()
    params, devices = model.load(), mesh(name)
    direct = Scorer(model, ONE, 4).groups(params, pairs)
    scorer = Scorer(model, devices, 4)
    found = scorer.groups(place(model, params, devices), pairs, plan=Packed(48).passes(pairs, scorer.batch_size))
    np.testing.assert_allclose(found, direct, **CLOSE)


@pytest.mark.parametrize("loss", [DPO(), AOTUnpaired()], ids=["alone", "together"])
def test_held_out_groups_are_scored_the_same(loss):
    """Each for itself, or those of a step together."""
    pairs, model = some(), LLAMA.open()
    params, view = model.load(), view_of(model, loss)
    anchor = columns(pairs)["anchor"] / 10  # of each group its own, so that no two stand equally where they are sorted
    found = {}
    for name, rule in (("packed", Packed(64)), ("apart", OnePrompt())):

        def plan(pairs, rule=rule):
            return rule.together(pairs, 16, 2) if isinstance(loss, AOTUnpaired) else rule.passes(pairs, 8)

        found[name] = PairScorer(view, ONE, 8, None, plan, 2 if isinstance(loss, AOTUnpaired) else 1)(
            params, {}, pairs, anchor
        )
    for name in ("loss", "sums", "prefer", "weight", "prompt"):
        np.testing.assert_allclose(getattr(found["packed"], name), getattr(found["apart"], name), **CLOSE, err_msg=name)
