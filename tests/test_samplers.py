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


def test_a_row_draws_the_same_in_any_company(sampler, key):
    logits, keys = jax.random.normal(key, (8, 33)), jax.random.split(key, 8)
    together = sampler(logits, keys)
    alone = jnp.concatenate([sampler(logits[i : i + 1], keys[i : i + 1]) for i in range(8)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(
    ("bad", "word"),
    [(Temperature(0.0), "Greedy"), (TopK(k=0), "k must"), (TopP(p=0.0), "p must"), (TopP(p=1.1), "p must")],
)
def test_impossible_settings_are_named(bad, word):
    assert any(word in problem for problem in bad.problems())
