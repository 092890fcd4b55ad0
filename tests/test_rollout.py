"""Rollouts: what is recorded is what the policy thinks, and what is drawn depends on the key and the prompt alone."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_models import ONE, mesh, place, tiny
from made_rollouts import prompt

from jaxalign.errors import DataError
from jaxalign.models.tabular import TabularPolicy
from jaxalign.rollouts.sample import Enumerate, Sample
from jaxalign.rollouts.samplers import Greedy, Temperature, TopK, TopP
from jaxalign.training.logps import Scorer, one_group_a_prompt, token_logps
from jaxalign.training.rows import RowShape, pack
from jaxalign.types import Rollouts

CLOSE = {"rtol": 2e-5, "atol": 2e-5}
"""Per token: the same fp32 products in another order, a few hundred roundings of 6e-8 through values of size 1 to 6."""

EOS = 2
LIMIT = 6
ASKED = ("Why is it?", "A", "Say more.", "What now", "Ho!")
"""20 to 29 tokens with the template: all prefilled 32 wide, with 3 to 12 columns of left padding."""
PROMPTS = tuple(prompt(text, f"p{index}") for index, text in enumerate(ASKED))


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
def model():
    return tiny()


@pytest.fixture(scope="module")
def params(model):
    return model.load()


@pytest.fixture(scope="module")
def roller(model):
    return SPEC.on(model, ONE, rows=ROWS)


@pytest.fixture(scope="module")
def rolled(roller, params) -> Rollouts:
    """Three batches of two prompts, the last one short."""
    return roller(params, PROMPTS, jax.random.key(7))


def assert_same(found: Rollouts, expected: Rollouts):
    """Everything equal; log-probs up to rounding."""
    for field in dataclasses.fields(Rollouts):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "logps":
            np.testing.assert_allclose(one, other, **CLOSE)
        else:
            np.testing.assert_array_equal(one, other, err_msg=field.name)


@pytest.fixture(scope="module")
def teacher_forced(model, params):
    """Rollouts → log-probs [b m t] of their tokens by one forward pass over packed rows."""
    score = jax.jit(partial(token_logps, model))

    def of(found: Rollouts) -> np.ndarray:
        batch = pack(found, one_group_a_prompt(found), np.arange(len(found.prompts)), RowShape(72, 24, 8), {})
        return np.asarray(score(params, batch.rows, batch.mask))[..., : found.tokens.shape[2]]

    return of


# ----------------------------------------------------------------------------------------------------------------------
# Pipeline identity


def test_recorded_log_probs_are_those_of_one_forward_pass(teacher_forced, rolled):
    np.testing.assert_allclose(teacher_forced(rolled), rolled.logps, **CLOSE)


def test_recorded_log_probs_are_the_policys_before_temperature_and_truncation(model, params, teacher_forced):
    found = Sample(5, 4, Each()).on(model, ONE, rows=25)(params, PROMPTS, jax.random.key(3))
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
    found = spec.on(model, ONE)(params, PROMPTS[:2], jax.random.key(0))
    jax.effects_barrier()
    assert found.finished.all()
    assert counter.count == found.lengths.max() < 30


def test_a_prompt_set_of_several_widths(params, roller, rolled, teacher_forced):
    """A longer prompt is prefilled in a wider batch of its own; the others answer as before."""
    longer = (*PROMPTS[:4], prompt("Tell me a longer story, please.", "long"))
    found = roller(params, longer, jax.random.key(7))
    assert found.prompt_tokens.shape == (5, 64)
    np.testing.assert_array_equal(found.tokens[:4], rolled.tokens[:4])
    np.testing.assert_allclose(teacher_forced(found), found.logps, **CLOSE)


# ----------------------------------------------------------------------------------------------------------------------
# Keys: what a row draws follows from the call's key, the prompt's index, the sample's index and the token's


def test_a_row_draws_the_same_alone(model, params, rolled):
    found = SPEC.on(model, ONE, rows=3)(params, PROMPTS, jax.random.key(7))
    assert_same(found, rolled)


def test_a_row_draws_the_same_in_larger_batches_and_whatever_the_number_of_samples(model, params, rolled):
    found = dataclasses.replace(SPEC, samples=1).on(model, ONE, rows=8)(params, PROMPTS, jax.random.key(7))
    np.testing.assert_array_equal(found.tokens, rolled.tokens[:, :1])
    np.testing.assert_array_equal(found.lengths, rolled.lengths[:, :1])
    np.testing.assert_allclose(found.logps, rolled.logps[:, :1], **CLOSE)


def test_eight_devices_draw_what_one_draws(model, params, rolled):
    on = mesh("2x2x2")
    assert_same(SPEC.on(model, on, rows=ROWS)(place(model, params, on), PROMPTS, jax.random.key(7)), rolled)


def test_the_same_key_draws_the_same_and_another_key_another(roller, params, rolled):
    assert_same(roller(params, PROMPTS, jax.random.key(7)), rolled)
    other = roller(params, PROMPTS, jax.random.key(8))
    assert (other.tokens != rolled.tokens).any(-1).mean() > 0.9


def test_samples_of_a_prompt_differ(rolled):
    assert all(len({tuple(row) for row in rows.tolist()}) == 3 for rows in rolled.tokens)


def test_a_prompt_at_its_index_draws_the_same_whatever_the_others_are(roller, params, rolled):
    others = (PROMPTS[3], PROMPTS[1], PROMPTS[0], prompt("New", "new"), PROMPTS[4])
    found = roller(params, others, jax.random.key(7))
    np.testing.assert_array_equal(found.tokens[[1, 4]], rolled.tokens[[1, 4]])
    # at another index a prompt has another key
    assert (found.tokens[0] != rolled.tokens[3]).any()
    assert (found.tokens[2] != rolled.tokens[0]).any()


def test_one_prompt_asked_twice_gets_different_answers(roller, params):
    found = roller(params, (PROMPTS[0], PROMPTS[0]), jax.random.key(7))
    assert (found.tokens[0] != found.tokens[1]).any(-1).all()


# ----------------------------------------------------------------------------------------------------------------------
# Committed parts, and prompts that do not fit


def test_committed_parts_are_not_made_again(roller, params, rolled):
    kept = {}

    def keep(part, numbers, make):
        kept[part] = (make(),)
        return kept[part]

    def stored(part, numbers, make):
        return kept[part]

    assert_same(roller(params, PROMPTS, jax.random.key(7), keep), rolled)
    assert [len(kept[part][0].numbers) for part in range(3)] == [2, 2, 1]
    assert_same(roller({}, PROMPTS, jax.random.key(7), stored), rolled)  # without parameters nothing could be made


def test_a_run_cut_between_parts_continues_to_the_same_rollouts(roller, params, rolled):
    kept = {}

    def keep_two(part, numbers, make):
        if len(kept) == 2:
            raise KeyboardInterrupt
        return kept.setdefault(part, (make(),))

    with pytest.raises(KeyboardInterrupt):
        roller(params, PROMPTS, jax.random.key(7), keep_two)
    made = []

    def go_on(part, numbers, make):
        if part not in kept:
            made.append(part)
            return (make(),)
        return kept[part]

    assert_same(roller(params, PROMPTS, jax.random.key(7), go_on), rolled)
    assert made == [2]


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
    found = Enumerate().on(model, ONE)(params, PROMPTS[:2], key)
    np.testing.assert_allclose(found.weights, np.tile(probabilities, (2, 1)), rtol=1e-6)
    np.testing.assert_allclose(found.weights.sum(-1), np.ones(2), rtol=1e-6)
    np.testing.assert_allclose(found.logps[..., 0], np.log(found.weights), rtol=1e-5)
    np.testing.assert_array_equal(found.tokens[..., 0], [[0, 1, 2], [0, 1, 2]])
    assert found.texts == (("a", "b", "c"),) * 2
    assert found.finished.all()
    assert (found.lengths == 1).all()
    np.testing.assert_allclose(Scorer(model, ONE, 2).rollouts(params, found), found.logps[..., 0], rtol=1e-5)


def test_enumeration_is_one_part(table, key):
    model, params, _ = table
    enumerator = Enumerate().on(model, ONE)
    kept = []
    found = enumerator(params, PROMPTS, key, lambda part, _, make: kept.append((part, make())) or (kept[-1][1],))
    assert [part for part, _ in kept] == [0]
    assert_same(enumerator({}, PROMPTS, key, lambda part, _, make: (kept[part][1],)), found)
    assert enumerator.check(PROMPTS) is None


def test_samples_of_a_table_come_as_often_as_its_probabilities(table, key):
    model, params, probabilities = table
    found = Sample(samples=500, max_tokens=1).on(model, ONE, rows=1000)(params, PROMPTS[:2], key)
    shares = np.bincount(found.tokens.reshape(-1), minlength=3) / 1000
    np.testing.assert_allclose(shares, probabilities, atol=4 * np.sqrt(0.25 / 1000))  # four standard errors
    np.testing.assert_allclose(found.logps[..., 0], np.log(probabilities)[found.tokens[..., 0]], rtol=1e-5)
    assert not found.finished.any()  # nothing ends a turn but the limit
