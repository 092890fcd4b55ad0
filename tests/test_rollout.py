"""Rollouts: what is recorded is what the policy thinks, and what is drawn depends on the key and the prompt alone."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_models import ONE, mesh, place, tiny
from made_rollouts import CLOSE, PROMPTS, assert_same_answers, prompt

from jaxalign.errors import ConfigError, DataError
from jaxalign.models.tabular import TabularPolicy
from jaxalign.rollouts import seam
from jaxalign.rollouts.enumerate import Enumerate
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.samplers import Greedy, Temperature, TopK, TopP
from jaxalign.rollouts.shares import in_order
from jaxalign.training.logps import Scorer, one_group_a_prompt, token_logps
from jaxalign.training.rows import RowShape, pack
from jaxalign.types import Rollouts

EOS = 2
LIMIT = 6


@dataclasses.dataclass(frozen=True)
class Hasty:
    """Ends the turn with probability `chance` at every token, else draws from the policy; counts calls in `steps`."""

    chance: float
    steps: tuple[SimpleNamespace, ...] = ()

    def __call__(self, logits, keys):
        for counter in self.steps:
            jax.debug.callback(lambda counter=counter: setattr(counter, "count", counter.count + 1))
        ends = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1)))(keys) < self.chance
        return jnp.where(ends, EOS, Temperature(1.0)(logits, keys))


@dataclasses.dataclass(frozen=True)
class Each:
    """Sample j of every prompt is drawn by sampler j: five samplers for the price of one compile."""

    samplers: tuple = (Temperature(1.0), Temperature(0.7), TopK(3, 0.9), TopP(0.5), Greedy())

    def __call__(self, logits, keys):
        drawn = jnp.stack([sampler(logits, keys) for sampler in self.samplers], axis=1)
        rows = jnp.arange(len(keys))
        return drawn[rows, rows % len(self.samplers)]


SPEC = Sample(samples=3, max_tokens=LIMIT, sampler=Hasty(0.2))
ROWS = 6
"""Two prompts at a time, three samples of each."""


@pytest.fixture(scope="module")
def roller(model):
    return SPEC.on(model, ONE, rows=ROWS)


@pytest.fixture(scope="module")
def rolled(roller, params) -> Rollouts:
    """Three batches of two prompts, the last one short."""
    return seam.rolled(roller, params, PROMPTS, jax.random.key(7))


@pytest.fixture(scope="module")
def teacher_forced(model, params):
    """Rollouts → log-probs [b m t] of their tokens by one forward pass over packed rows."""
    score = jax.jit(partial(token_logps, model))

    def of(found: Rollouts) -> np.ndarray:
        batch = pack(one_group_a_prompt(found), np.arange(len(found.prompts)), RowShape(72, 24, 8), {})
        return np.asarray(score(params, batch.rows, batch.mask))[..., : found.tokens.shape[2]]

    return of


# ----------------------------------------------------------------------------------------------------------------------
# Pipeline identity


def test_recorded_log_probs_are_those_of_one_forward_pass(teacher_forced, rolled):
    np.testing.assert_allclose(teacher_forced(rolled), rolled.logps, **CLOSE)


def test_recorded_log_probs_are_the_policys_before_temperature_and_truncation(model, params, teacher_forced):
    found = seam.rolled(Sample(5, 4, Each()).on(model, ONE, rows=25), params, PROMPTS, jax.random.key(3))
    np.testing.assert_allclose(found.logps, teacher_forced(found), **CLOSE)
    # the samplers did differ: greedy draws are likelier than those of the policy
    assert (found.logps[:, 4, 0] >= found.logps[:, :, 0].max(1) - 1e-5).all()
    assert found.logps[:, 4].sum(-1).mean() > found.logps[:, 0].sum(-1).mean() + 1


# ----------------------------------------------------------------------------------------------------------------------
# Lengths and ends


def test_a_response_stops_at_its_first_end_of_turn_which_counts(rolled):
    assert rolled.finished.any()
    assert not rolled.finished.all()
    for tokens, length, finished in zip(
        rolled.tokens.reshape(-1, LIMIT), rolled.lengths.flat, rolled.finished.flat, strict=True
    ):
        ends = np.flatnonzero(tokens == EOS)
        assert finished == bool(ends.size)
        assert length == (ends[0] + 1 if finished else LIMIT)
        assert not tokens[length:].any()


def test_nothing_is_recorded_beyond_the_end(rolled):
    real = np.arange(LIMIT) < rolled.lengths[..., None]
    np.testing.assert_array_equal(rolled.logps != 0, real)


def test_texts_are_the_tokens_without_the_end_of_turn(model, rolled):
    for row, (index, sample) in enumerate(np.ndindex(rolled.lengths.shape)):
        tokens = rolled.tokens[index, sample, : rolled.lengths[index, sample]]
        assert rolled.texts[index][sample] == model.chat.decode(tokens[tokens != EOS].tolist()), row
        assert "<|im_end|>" not in rolled.texts[index][sample]


def test_prompts_keep_their_order_and_their_tokens(model, rolled):
    assert rolled.prompts == PROMPTS
    for row, asked in enumerate(PROMPTS):
        encoded = model.chat.encode(asked.messages)
        assert rolled.prompt_lengths[row] == len(encoded)
        np.testing.assert_array_equal(rolled.prompt_tokens[row, : len(encoded)], encoded)
        assert not rolled.prompt_tokens[row, len(encoded) :].any()


def test_samples_weigh_alike(rolled):
    np.testing.assert_allclose(rolled.weights, np.full((5, 3), 1 / 3), rtol=1e-6)


def test_the_loop_ends_with_its_longest_response(model, params):
    counter = SimpleNamespace(count=0)
    spec = dataclasses.replace(SPEC, max_tokens=30, sampler=Hasty(0.8, (counter,)))
    found = seam.rolled(spec.on(model, ONE), params, PROMPTS[:2], jax.random.key(0))
    jax.effects_barrier()
    assert found.finished.all()
    assert counter.count == found.lengths.max() < 30


def test_a_prompt_set_of_several_widths(params, roller, rolled, teacher_forced):
    """A longer prompt is prefilled in a wider batch of its own; the others answer as before."""
    longer = (*PROMPTS[:4], prompt("Tell me a longer story, please.", "long"))
    found = seam.rolled(roller, params, longer, jax.random.key(7))
    assert found.prompt_tokens.shape == (5, 64)
    np.testing.assert_array_equal(found.tokens[:4], rolled.tokens[:4])
    np.testing.assert_allclose(teacher_forced(found), found.logps, **CLOSE)


# ----------------------------------------------------------------------------------------------------------------------
# Keys: what a row draws follows from the call's key, the prompt's index, the sample's index and the token's


def test_a_row_draws_the_same_alone(model, params, rolled):
    found = seam.rolled(SPEC.on(model, ONE, rows=3), params, PROMPTS, jax.random.key(7))
    assert_same_answers(found, rolled)


def test_a_row_draws_the_same_in_larger_batches_and_whatever_the_number_of_samples(model, params, rolled):
    found = seam.rolled(dataclasses.replace(SPEC, samples=1).on(model, ONE, rows=8), params, PROMPTS, jax.random.key(7))
    np.testing.assert_array_equal(found.tokens, rolled.tokens[:, :1])
    np.testing.assert_array_equal(found.lengths, rolled.lengths[:, :1])
    np.testing.assert_allclose(found.logps, rolled.logps[:, :1], **CLOSE)


def test_eight_devices_draw_what_one_draws(model, params, rolled):
    on = mesh("2x2x2")
    found = seam.rolled(SPEC.on(model, on, rows=ROWS), place(model, params, on), PROMPTS, jax.random.key(7))
    assert_same_answers(found, rolled)


def test_the_same_key_draws_the_same_and_another_key_another(roller, params, rolled):
    assert_same_answers(seam.rolled(roller, params, PROMPTS, jax.random.key(7)), rolled)
    other = seam.rolled(roller, params, PROMPTS, jax.random.key(8))
    assert (other.tokens != rolled.tokens).any(-1).mean() > 0.9


def test_samples_of_a_prompt_differ(rolled):
    assert all(len({tuple(row) for row in rows.tolist()}) == 3 for rows in rolled.tokens)


def test_a_prompt_at_its_index_draws_the_same_whatever_the_others_are(roller, params, rolled):
    others = (PROMPTS[3], PROMPTS[1], PROMPTS[0], prompt("New", "new"), PROMPTS[4])
    found = seam.rolled(roller, params, others, jax.random.key(7))
    np.testing.assert_array_equal(found.tokens[[1, 4]], rolled.tokens[[1, 4]])
    # at another index a prompt has another key
    assert (found.tokens[0] != rolled.tokens[3]).any()
    assert (found.tokens[2] != rolled.tokens[0]).any()


def test_one_prompt_asked_twice_gets_different_answers(roller, params):
    found = seam.rolled(roller, params, (PROMPTS[0], PROMPTS[0]), jax.random.key(7))
    assert (found.tokens[0] != found.tokens[1]).any(-1).all()


# ----------------------------------------------------------------------------------------------------------------------
# Committed parts, and prompts that do not fit


def pieces(roller, params, wanted) -> list:
    return list(seam.checked(roller, params, PROMPTS, np.array(wanted, np.int64), jax.random.key(7)))


def test_what_is_not_wanted_is_not_drawn_and_the_rest_keeps_its_bits(roller, params, rolled):
    """As a run goes on that has committed the first two pieces: the last one is the same to the last bit."""
    every = pieces(roller, params, range(5))
    assert [len(share.numbers) for share in every] == [2, 2, 1]
    (last,) = pieces(roller, params, every[2].numbers)
    for field in dataclasses.fields(Rollouts):
        np.testing.assert_array_equal(getattr(last.rollouts, field.name), getattr(every[2].rollouts, field.name))
    assert_same_answers(in_order([*every[:2], last]), rolled)


def test_what_another_mesh_has_committed_in_other_pieces_is_kept(model, params, rolled):
    whole = SPEC.on(model, ONE, rows=15)
    (share,) = pieces(whole, params, [3, 1])
    assert sorted(share.numbers.tolist()) == [1, 3]
    rest = pieces(SPEC.on(model, ONE, rows=ROWS), params, [0, 2, 4])
    assert_same_answers(in_order([*rest, share]), rolled)


def test_a_piece_is_drawn_when_it_is_asked_for(model, params):
    counter = SimpleNamespace(count=0)
    spec = dataclasses.replace(SPEC, max_tokens=1, sampler=Hasty(0.2, (counter,)))
    stream = spec.on(model, ONE, rows=ROWS)(params, PROMPTS, np.arange(5), jax.random.key(7))
    seen = []
    for _ in stream:
        jax.effects_barrier()
        seen.append(counter.count)
    assert seen == [1, 2, 3]


def test_nothing_is_computed_when_nothing_is_wanted(roller):
    assert pieces(roller, {}, []) == []  # without parameters nothing could be computed


def test_answers_that_leave_a_prompt_no_room_are_refused_as_such(model):
    with pytest.raises(
        ConfigError, match=r"max_tokens is 64, which leaves a prompt no room in the model's context of 64"
    ):
        dataclasses.replace(SPEC, max_tokens=64).on(model, ONE).check(())


def test_prompts_too_long_for_the_context_are_all_named(roller):
    """The context of 64 less 6 tokens of response leaves 58; the template takes 19."""
    fits, long, longer = prompt("x" * 39, "fits"), prompt("x" * 40, "long-7"), prompt("x" * 99, "long-9")
    roller.check((*PROMPTS, fits))
    with pytest.raises(
        DataError, match=r"2 prompts are longer than 58 tokens.*long-7 \(59 tokens\), long-9 \(118 tokens\)"
    ):
        roller.check((*PROMPTS, long, fits, longer))


@pytest.mark.parametrize("bad", ["samples", "max_tokens"])
def test_impossible_settings_are_named(bad):
    assert list(SPEC.problems()) == []
    assert any(bad in problem for problem in dataclasses.replace(SPEC, **{bad: 0}).problems())


# ----------------------------------------------------------------------------------------------------------------------
# Tables of answers


@pytest.fixture(scope="module")
def table():
    """A policy over three answers, moved away from its start."""
    model = TabularPolicy((0.2, 0.5, 0.3)).open()
    return model, {"table": jnp.float32([[0.3], [-1.0], [2.0]])}, np.exp([0.3, -1, 2]) / np.exp([0.3, -1, 2]).sum()


def test_every_answer_is_enumerated_with_its_probability(table, key):
    model, params, probabilities = table
    found = seam.rolled(Enumerate().on(model, ONE), params, PROMPTS[:2], key)
    np.testing.assert_allclose(found.weights, np.tile(probabilities, (2, 1)), rtol=1e-6)
    np.testing.assert_allclose(found.weights.sum(-1), np.ones(2), rtol=1e-6)
    np.testing.assert_allclose(found.logps[..., 0], np.log(found.weights), rtol=1e-5)
    np.testing.assert_array_equal(found.tokens[..., 0], [[0, 1, 2], [0, 1, 2]])
    assert found.texts == (("a", "b", "c"),) * 2
    assert found.finished.all()
    assert (found.lengths == 1).all()
    np.testing.assert_allclose(Scorer(model, ONE, 2).rollouts(params, found), found.logps[..., 0], rtol=1e-5)


def test_enumeration_is_one_piece_of_what_is_wanted(table, key):
    model, params, _ = table
    enumerator = Enumerate().on(model, ONE)
    (share,) = enumerator(params, PROMPTS, np.array([4, 2]), key)
    assert share.numbers.tolist() == [2, 4]
    assert share.rollouts.prompts == (PROMPTS[2], PROMPTS[4])
    assert list(enumerator({}, PROMPTS, np.zeros(0, np.int64), key)) == []


def test_enumeration_reads_prompts_of_one_length(table):
    enumerator = Enumerate().on(tiny(), ONE)
    Enumerate().on(table[0], ONE).check(PROMPTS)
    enumerator.check(PROMPTS[:1])
    with pytest.raises(DataError, match="prompts of one length, these have 20 to 29 tokens"):
        enumerator.check(PROMPTS)


def test_samples_of_a_table_come_as_often_as_its_probabilities(table, key):
    model, params, probabilities = table
    found = seam.rolled(Sample(samples=500, max_tokens=1).on(model, ONE, rows=1000), params, PROMPTS[:2], key)
    shares = np.bincount(found.tokens.reshape(-1), minlength=3) / 1000
    np.testing.assert_allclose(shares, probabilities, atol=4 * np.sqrt(0.25 / 1000))  # four standard errors
    np.testing.assert_allclose(found.logps[..., 0], np.log(probabilities)[found.tokens[..., 0]], rtol=1e-5)
    assert not found.finished.any()  # nothing ends a turn but the limit
