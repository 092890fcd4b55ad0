"""Samplers: distributions, truncation, independence of rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_examples import examples, named

import jaxalign.rollouts
from jaxalign.contracts.traced import drawn
from jaxalign.rollouts.samplers import Greedy, Temperature, TopK, TopP
from jaxalign.types import Sampler

SAMPLERS = examples(jaxalign.rollouts, Sampler, least=4)

LOGITS = jnp.array([2.0, 1.0, 0.0, -1.0, -3.0], jnp.float32)


def frequencies(sampler, draws: int = 20_000) -> np.ndarray:
    keys = jax.random.split(jax.random.key(1), draws)
    tokens = jax.jit(sampler)(jnp.tile(LOGITS[None], (draws, 1)), keys)
    return np.bincount(np.asarray(tokens), minlength=5) / draws


def softmax(values: np.ndarray) -> np.ndarray:
    shifted = np.exp(values - values.max())
    return shifted / shifted.sum()


# Four standard errors of a frequency from 20,000 draws are at most 4·0.5/√20000 = 0.0142.
TOLERANCE = 0.0142


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_draws_the_tempered_distribution(temperature):
    expected = softmax(np.asarray(LOGITS) / temperature)
    np.testing.assert_allclose(frequencies(Temperature(temperature)), expected, atol=TOLERANCE)


def chi_square(counts: np.ndarray, probs: np.ndarray) -> float:
    """How many standard deviations Pearson's statistic lies above its mean; tokens expected fewer than 5 times count
    as one."""
    expected = counts.sum() * probs
    rare = expected < 5
    seen = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    free = len(seen) - 1
    return (((seen - wanted) ** 2 / wanted).sum() - free) / np.sqrt(2 * free)


@pytest.mark.parametrize("vocab", [5, 257, 1000, 2048, 49152])
def test_any_vocabulary_is_drawn_by_its_softmax(vocab):
    """Blocks of one token and of many, padded and not; masses from 1e-6 to 1/2 in blocks at either end."""
    rng = np.random.default_rng(vocab)
    row = rng.normal(0, 2, vocab).astype(np.float32)
    row[[0, vocab // 2, vocab - 1]] += 6
    draws = 20_000
    draw = jax.jit(lambda keys: Temperature(1.0)(jnp.tile(jnp.asarray(row)[None], (len(keys), 1)), keys))
    keys = jax.random.split(jax.random.key(3), draws).reshape(-1, 500)
    tokens = np.concatenate([np.asarray(draw(some)) for some in keys])
    counts = np.bincount(tokens, minlength=vocab)
    assert len(counts) == vocab
    # the statistic of a right sampler lies so far up once in some thousand keys
    assert chi_square(counts, softmax(row.astype(np.float64))) < 4


def test_a_vocabulary_of_one_token_has_one_draw(key):
    np.testing.assert_array_equal(Temperature()(jnp.zeros((9, 1)), jax.random.split(key, 9)), np.zeros(9))


@pytest.mark.parametrize("vocab", [5, 257, 2048])
def test_what_is_masked_is_never_drawn(vocab):
    """Whole blocks are, and all but one token of another, at either end and in the middle."""
    keys = jax.random.split(jax.random.key(4), 3000)
    for left in (0, vocab // 2, vocab - 1):
        alone = jnp.full((3000, vocab), -jnp.inf).at[:, left].set(-40.0)
        assert (Temperature(1.0)(alone, keys) == left).all()
    two = jnp.full((3000, vocab), -jnp.inf).at[:, 1].set(3.0).at[:, vocab - 2].set(3.0)
    np.testing.assert_allclose((Temperature(1.0)(two, keys) == 1).mean(), 0.5, atol=4 * 0.5 / np.sqrt(3000))


def test_the_far_tail_keeps_its_proportions():
    """A token 60 nats below the likeliest is not drawn; among tokens that are all as far down, each has its share."""
    keys = jax.random.split(jax.random.key(5), 2000)
    row = jnp.full((2000, 2048), -60.0).at[:, 7].set(0.0)
    assert (Temperature(1.0)(row, keys) == 7).all()
    down = jnp.full((2000, 2048), -1e4).at[:, 3].set(-1e4 + 9.0)  # e^9 of 2,047 + e^9
    share = np.exp(9) / (2047 + np.exp(9))
    np.testing.assert_allclose((Temperature(1.0)(down, keys) == 3).mean(), share, atol=4 * 0.5 / np.sqrt(2000))


def test_top_k_draws_only_from_the_k_likeliest():
    expected = np.append(softmax(np.asarray(LOGITS[:2])), [0, 0, 0])
    np.testing.assert_allclose(frequencies(TopK(k=2)), expected, atol=TOLERANCE)


def test_top_p_keeps_the_smallest_set_with_that_mass():
    # Cumulative masses: .636, .870, .956, .988, 1. Mass .9 needs three tokens, mass .6 one.
    expected = np.append(softmax(np.asarray(LOGITS[:3])), [0, 0])
    np.testing.assert_allclose(frequencies(TopP(p=0.9)), expected, atol=TOLERANCE)
    assert frequencies(TopP(p=0.6), draws=500)[0] == 1.0
    assert frequencies(TopP(p=1e-9), draws=500)[0] == 1.0


@pytest.mark.parametrize("wide", [TopK(k=5), TopK(k=99), TopP(p=1.0)])
def test_no_truncation_is_plain_temperature(wide, key):
    logits, keys = jnp.tile(LOGITS[None], (300, 1)), jax.random.split(key, 300)
    np.testing.assert_array_equal(wide(logits, keys), Temperature(1.0)(logits, keys))


def test_top_1_and_tiny_temperature_are_greedy(key):
    logits, keys = jax.random.normal(key, (50, 9)), jax.random.split(key, 50)
    np.testing.assert_array_equal(TopK(k=1)(logits, keys), Greedy()(logits, keys))
    np.testing.assert_array_equal(Temperature(1e-6)(logits, keys), Greedy()(logits, keys))


@pytest.fixture(params=SAMPLERS.values(), ids=named)
def sampler(request):
    return request.param


def test_a_token_a_row_and_equal_samplers_are_equal_values(sampler, key):
    logits, keys = jax.random.normal(key, (8, 33)), jax.random.split(key, 8)
    tokens = drawn(sampler, logits, keys)
    assert ((tokens >= 0) & (tokens < 33)).all()
    np.testing.assert_array_equal(jax.jit(sampler)(logits, keys), tokens)
    assert (sampler, hash(sampler)) == (dataclasses.replace(sampler), hash(dataclasses.replace(sampler)))
    assert list(getattr(sampler, "problems", list)()) == []


@pytest.mark.parametrize("vocab", [1, 33, 2048])
def test_a_row_draws_the_same_in_any_company(sampler, key, vocab):
    logits, keys = jax.random.normal(key, (8, vocab)), jax.random.split(key, 8)
    together = sampler(logits, keys)
    alone = jnp.concatenate([sampler(logits[i : i + 1], keys[i : i + 1]) for i in range(8)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(
    ("bad", "word"),
    [(Temperature(0.0), "Greedy"), (TopK(k=0), "k must"), (TopP(p=0.0), "p must"), (TopP(p=1.1), "p must")],
)
def test_impossible_settings_are_named(bad, word):
    assert any(word in problem for problem in bad.problems())
