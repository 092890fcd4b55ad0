"""Oracles: the properties that each one obeys, discovered per file."""

import dataclasses

import jax
import numpy as np
import pytest
from made_examples import examples, named
from made_judges import SITE
from made_oracles import ANSWER, OTHERS, QUESTION
from made_rollouts import permuted, rollouts

import jaxalign.oracles
from jaxalign.config.load import Checked
from jaxalign.contracts.oracle import checked
from jaxalign.contracts.scope import Named, OpenableOracle, opened
from jaxalign.oracles.among import among
from jaxalign.types import Oracle, Preferences

OPENABLE = examples(jaxalign.oracles, OpenableOracle, least=3)
ORACLES = examples(jaxalign.oracles, Oracle, least=3) | OPENABLE

CLOSE = {"rtol": 0, "atol": 2e-6}
"""Of judges with weights: the same fp32 products, in rows of another batch."""


@pytest.fixture(params=ORACLES.values(), ids=named)
def settings(request):
    """An oracle as configs have it."""
    return request.param


@pytest.fixture
def oracle(settings):
    """One that answers."""
    with opened(settings, SITE) as judge:
        yield judge


def three_answers(count: int = 4, seed: int = 0):
    """Three of the answers a prompt, tokens 0, 1, 2 in varying order, then what follows them."""
    rng = np.random.default_rng(seed)
    pool = [ANSWER, *OTHERS]
    texts = [[pool[index] for index in rng.integers(len(pool), size=3)] for _ in range(count)]
    tokens = np.stack([rng.permutation(3) for _ in range(count)])[:, :, None].astype(np.int32)
    return rollouts(
        texts, QUESTION, tokens=np.concatenate([tokens, tokens * 0], -1), lengths=np.ones((count, 3), np.int32)
    )


def assert_equal(left: Preferences, right: Preferences) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_probabilities_complement_each_other_exactly(oracle, key):
    given_rollouts = three_answers()
    answer = oracle(given_rollouts, key)
    assert answer.prefer.shape == (4, 3, 3)
    assert len(answer.annotators) == len(answer.weights)
    assert answer.by_annotator.shape == (4, len(answer.annotators), 3, 3)
    assert answer.scores is None or answer.scores.shape == (4, len(answer.annotators), 3)
    for table in (answer.prefer, *answer.by_annotator.swapaxes(0, 1)):
        assert table.dtype == np.float32
        assert ((table >= 0) & (table <= 1)).all()
        np.testing.assert_array_equal(table + table.swapaxes(1, 2), np.ones_like(table))
        np.testing.assert_array_equal(np.diagonal(table, axis1=1, axis2=2), np.full((4, 3), 0.5, np.float32))


def test_order_of_responses_only_reorders_the_answer(oracle, key):
    order = [2, 0, 1]
    straight, turned = oracle(three_answers(), key), oracle(permuted(three_answers(), order), key)
    np.testing.assert_array_equal(straight.prefer[:, order][:, :, order], turned.prefer)
    np.testing.assert_array_equal(straight.by_annotator[:, :, order][:, :, :, order], turned.by_annotator)
    assert (straight.scores is None) == (turned.scores is None)
    if straight.scores is not None:
        np.testing.assert_array_equal(straight.scores[:, :, order], turned.scores)


def test_same_rollouts_and_key_give_the_same_answer(oracle, key):
    assert_equal(oracle(three_answers(), key), oracle(three_answers(), jax.random.clone(key)))


def test_padding_changes_nothing(oracle, key):
    plain = three_answers()
    rubbish = np.pad(plain.tokens, ((0, 0), (0, 0), (0, 3)), constant_values=77)
    rubbish[:, :, 1] = 99
    padded = dataclasses.replace(
        plain,
        tokens=rubbish,
        logps=np.full(rubbish.shape, np.nan, np.float32),
        prompt_tokens=np.pad(plain.prompt_tokens, ((0, 0), (0, 5)), constant_values=9),
    )
    assert_equal(oracle(plain, key), oracle(padded, key))


def test_a_prompt_is_judged_by_itself(oracle, key):
    whole = three_answers()
    alone = rollouts(whole.texts[2:3], QUESTION, tokens=whole.tokens[2:3], lengths=whole.lengths[2:3])
    np.testing.assert_allclose(oracle(whole, key).prefer[2:3], oracle(alone, key).prefer, **CLOSE)


def test_what_is_said_of_some_prompts_among_others_is_what_is_said_of_them(oracle, key):
    whole, own = three_answers(), np.array([3, 1])
    np.testing.assert_allclose(among(oracle, whole, own, key).prefer, oracle(whole, key).prefer[own], **CLOSE)
    none = among(oracle, whole, own[:0], key)
    assert none.prefer.shape == (0, 3, 3)
    assert none.annotators == oracle(whole, key).annotators


def test_names_that_are_known_beforehand_are_those_of_the_answer(settings, oracle, key):
    assert isinstance(settings, Named)
    assert settings.names == oracle(three_answers(), key).annotators


def test_answers_keep_the_contract(settings, oracle, key):
    checked(oracle(three_answers(), key), three_answers(), type(settings).__name__)


def test_what_a_scope_held_is_freed(settings, key):
    before = len(jax.live_arrays())
    with opened(settings, SITE) as judge:
        judge(three_answers(), key)
    del judge
    assert len(jax.live_arrays()) == before


def test_equal_oracles_are_equal_values(settings):
    assert hash(settings) == hash(dataclasses.replace(settings))
    assert settings == dataclasses.replace(settings)
    assert not isinstance(settings, Checked) or list(settings.problems()) == []
