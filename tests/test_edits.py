"""What the answers of a pair differ in: which tokens, whatever rows they come into, and what a loss is shown of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_groups import groups, rollouts

from jaxalign.data.edits import Edited, edits, without_edits
from jaxalign.data.groups import PickedGroups, RolledGroups
from jaxalign.data.strays import Strayed
from jaxalign.data.trained import as_trained
from jaxalign.losses.bmc import BMC
from jaxalign.losses.dpo import DPO
from jaxalign.training.packed import Packed
from jaxalign.training.row_plan import plan_rows
from jaxalign.training.rows import Sizes, abstract_batch, pack, row_shape
from jaxalign.training.views import group_logps


@pytest.mark.parametrize(
    ("chosen", "rejected", "ours", "theirs"),
    [
        ([1, 2, 3], [1, 2, 3], [], []),
        ([1, 9, 3], [1, 2, 3], [1], [1]),  # replaced
        ([1, 2, 7, 8, 3], [1, 2, 3], [2, 3], []),  # put in
        ([1, 3], [1, 2, 3], [], [1]),  # taken out
        ([4, 5], [6, 7, 8], [0, 1], [0, 1, 2]),  # nothing in common
        ([2, 1], [1, 2], [0], [1]),  # of two runs of one length the one that the rejected answer has first is kept
        ([], [3], [], [0]),
    ],
)
def test_places_by_hand(chosen, rejected, ours, theirs):
    found = edits(chosen, rejected)
    assert found == (ours, theirs)
    assert [x for at, x in enumerate(chosen) if at not in found[0]] == [
        x for at, x in enumerate(rejected) if at not in found[1]
    ]


def test_in_long_answers_no_match_begins_at_a_frequent_token():
    """Of answers that loop what they begin with does; what is rare among frequent tokens carries them along."""
    one, other = [5] * 300, [5] * 150 + [6] + [5] * 149
    assert edits(one, one) == ([], [])
    assert edits(one, other) == (list(range(150, 300)), list(range(150, 300)))
    assert edits(other, [*other, 7]) == ([], [300])
    assert edits(one[:150], other[:150]) == ([], [])


def drawn() -> RolledGroups:
    """Pairs of answers to three prompts, some in several; of two tokens, so that they have many in common."""
    rolled = rollouts()
    some = [[0, 1], [3, 2], [0, 2], [1, 3], [2, 1], [3, 0], [0, 1], [1, 2]]
    return RolledGroups(
        dataclasses.replace(rolled, tokens=rolled.tokens % 2 + 1), groups([0, 1, 0, 0, 1, 0, 2, 2], some)
    )


def expected(pairs: RolledGroups, number: int) -> list[list[int]]:
    """Of each answer of a pair its ids where they differ, -1 elsewhere."""
    prompt, both = pairs.groups.prompt[number], pairs.groups.responses[number]
    said = [pairs.rollouts.tokens[prompt, each, : pairs.rollouts.lengths[prompt, each]].tolist() for each in both]
    places = edits(*said)
    return [[x if at in places[k] else -1 for at, x in enumerate(said[k])] for k in (0, 1)]


@pytest.mark.parametrize("size", [1, 2, 4, 16])
def test_each_group_has_its_own_whatever_its_row(size):
    """An answer that is in several groups of a row differs in each from another one."""
    pairs = drawn()
    plan = plan_rows(pairs, size)
    chosen = plan.rows.reshape(-1)
    batch = pack(Edited(pairs), chosen, plan.shape, {})
    assert batch.edited.shape == (len(chosen), 2, plan.shape.response)
    for number, found in zip(chosen, batch.edited, strict=True):
        for response in (0, 1):
            wanted = expected(pairs, number)[response] if number >= 0 else []
            assert found[response, : len(wanted)].tolist() == wanted
            assert (found[response, len(wanted) :] == -1).all()
    assert pack(pairs, chosen, plan.shape, {}).edited is None


def test_only_a_loss_that_reads_it_has_it():
    pairs = drawn()
    assert as_trained(DPO(), pairs) is pairs
    made = as_trained(BMC(), pairs)
    assert isinstance(made, Edited)
    assert (made.responses, len(made)) == (2, len(pairs))
    assert without_edits(made) is pairs
    some = without_edits(PickedGroups(made, np.array([2, 0])))
    assert some.take(np.arange(2)).edited is None
    np.testing.assert_array_equal(some.lengths, pairs.lengths[[2, 0]])
    for name in ("prompts", "prompt_lengths", "lengths", "answers"):
        np.testing.assert_array_equal(getattr(made, name), getattr(pairs, name))


def test_strays_differ_from_nothing():
    pairs = drawn()
    found = Edited(Strayed(pairs)).take(np.arange(len(pairs)))
    assert found.edited.shape[1] == 3
    assert (found.edited[:, 2] == -1).all()
    width = pairs.take(np.arange(len(pairs))).tokens.shape[2]
    own = Edited(pairs).take(np.arange(len(pairs))).edited
    np.testing.assert_array_equal(found.edited[:, :2, :width], own)


def test_a_plan_has_its_shape():
    pairs = Edited(drawn())
    for size in (1, 4):
        shape = Sizes(8, 6, 2, 4).shared(size)
        chosen = plan_rows(pairs, size).rows[:2].reshape(-1)
        made, planned = pack(pairs, chosen, shape, {}), abstract_batch(shape, 2 * size, (), edited=True)
        assert (planned.edited.shape, planned.edited.dtype) == (made.edited.shape, made.edited.dtype)


@pytest.mark.parametrize("rule", ["a group a row", "groups of a prompt share rows", "packed"])
def test_a_loss_is_the_same_whatever_its_rows(rule, model, params):
    """The loss of every pair, from rows of each kind; and DPO's where nothing counts more."""
    pairs = as_trained(BMC(0.5), drawn())
    apart = pack(pairs, np.arange(len(pairs)), row_shape(pairs), {})
    wanted = loss_of(model, params, BMC(0.5), apart)
    a_row = 1 if rule == "a group a row" else 4
    plan = Packed(64).passes(pairs, 1) if rule == "packed" else plan_rows(pairs, a_row)
    chosen = plan.rows.reshape(-1)
    found = loss_of(model, params, BMC(0.5), pack(pairs, chosen, plan.shape, {}))
    np.testing.assert_allclose(found[chosen >= 0], wanted[chosen[chosen >= 0]], rtol=2e-5)
    plain = loss_of(model, params, DPO(0.5), apart)
    assert np.abs(wanted - plain).max() > 1e-3
    np.testing.assert_allclose(loss_of(model, params, BMC(0.5, ignored=(1, 2)), apart), plain, rtol=2e-5)


def loss_of(model, params, loss, batch) -> np.ndarray:
    """Of each group, against an anchor that is another policy."""
    anchor = {"anchor": jax.tree.map(lambda leaf: leaf * 1.1, params)}
    return np.asarray(loss(group_logps(model, loss, params, anchor, jax.tree.map(jnp.asarray, batch))))
