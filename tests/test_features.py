"""Features of a frozen trunk: each answer is read once, and a head learns from them as from whole rows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_groups import groups, rollouts
from made_models import ONE, mesh, place

from jaxalign.data.groups import RolledGroups
from jaxalign.losses.general_preference import GeneralPreference
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.headed import Headed
from jaxalign.models.low_rank import frozen, head_alone
from jaxalign.models.random_llama import RandomLlama
from jaxalign.training.features import Answers, Featured, FeatureReader, table_of
from jaxalign.training.rows import SHORTEST, pack, row_shape
from jaxalign.training.step import init_state, make_step
from jaxalign.training.views import group_scores, view_of

MODEL = Headed(RandomLlama(context=128), outputs=2, trunk="frozen").open()
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


@pytest.fixture(scope="module")
def pairs() -> RolledGroups:
    """Eighteen answers to each of two prompts, more than a row has, in 40 pairs; a third is asked about once."""
    rng = np.random.default_rng(0)
    chosen = [[*rng.choice(18, 2, replace=False)] for _ in range(40)]
    return RolledGroups(rollouts(samples=18), groups([0] * 28 + [1] * 12 + [2], [*chosen, [3, 3]]))


def featured(pairs: RolledGroups, params, model=MODEL, on=ONE, size: int = 2) -> Featured:
    answers, reader = Answers(pairs), FeatureReader(model, on, size)
    table = table_of(answers, reader.batch_size, lambda _, block: reader(params, answers, block))
    return Featured(pairs, table, answers.index)


def packed(compared, count: int = 41):
    return jax.tree.map(jnp.asarray, pack(compared, np.arange(count), row_shape(compared), {}))


def test_every_answer_is_read_once(pairs):
    answers = Answers(pairs)
    texts = {
        (int(pairs.groups.prompt[g]), bytes(pairs.take(np.array([g])).tokens[0, r, : pairs.lengths[g, r]]))
        for g in range(len(pairs))
        for r in range(2)
    }
    assert answers.count == len(texts)
    listed = answers.numbers[answers.numbers >= 0]
    assert sorted(listed) == list(range(answers.count))
    assert sorted(np.concatenate(answers.blocks(2))) == list(range(len(answers)))
    taken = answers.take(np.arange(len(answers)))
    np.testing.assert_array_equal(taken.lengths, answers.lengths)
    np.testing.assert_array_equal(taken.prompt_lengths, answers.prompt_lengths)


def test_features_score_as_whole_rows_do(pairs):
    params = MODEL.load()
    known = featured(pairs, params)
    np.testing.assert_allclose(
        group_scores(MODEL, params, packed(known)).outputs, group_scores(MODEL, params, packed(pairs)).outputs, **CLOSE
    )
    assert packed(known).rows.tokens.shape[1] == SHORTEST  # nothing is left to be read
    assert packed(pairs).features is None


def test_features_are_those_of_eight_devices(pairs):
    params = MODEL.load()
    on = mesh("2x2x2")
    model = MODEL.on(on, MeshShape().rules)
    spread = featured(pairs, place(model, params, on), model, on, size=4)
    np.testing.assert_allclose(spread.table, featured(pairs, params).table, **CLOSE)


def test_a_head_learns_from_features_what_it_learns_from_rows(pairs):
    params, optimizer = MODEL.load(), optax.sgd(0.5)
    step = jax.jit(make_step(view_of(MODEL, GeneralPreference()), optimizer, optax.constant_schedule(0.5)))
    found = []
    for compared in (pairs, featured(pairs, params)):
        state, batch = init_state(params, optimizer), jax.tree.map(lambda leaf: leaf[None], packed(compared))
        for _ in range(3):
            state, metrics = step(state, frozen(params), {}, batch)
        found.append((state.params, metrics["loss"]))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, **CLOSE), *found)


def test_a_process_that_has_no_row_of_a_batch_packs_an_empty_one(pairs):
    nothing = np.full(2, -1)
    for each in (Answers(pairs), featured(pairs, MODEL.load())):
        batch = pack(each, nothing, row_shape(each), {})
        assert (batch.rows.group == -1).all()
        assert not batch.mask.any()
        some = pack(each, np.array([0, -1]), row_shape(each), {})
        assert [leaf.shape for leaf in jax.tree.leaves(batch)] == [leaf.shape for leaf in jax.tree.leaves(some)]


def test_which_models_have_features():
    assert head_alone(MODEL.abstract())
    assert not head_alone(Headed(RandomLlama()).open().abstract())
    assert not head_alone(RandomLlama().open().abstract())
