"""Answers of a policy and its anchor together: every token has the mixture's probability, whoever draws it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_engines import few
from made_feedback import fed
from made_models import ONE, mesh, nudged, place
from made_rollouts import CLOSE, PROMPTS
from made_runs import policy, run_here

from jaxalign.errors import ConfigError
from jaxalign.rollouts import seam
from jaxalign.rollouts.geometric_mixture import GeometricMixture
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.samplers import TopK
from jaxalign.rollouts.served import Served
from jaxalign.served.server import Server
from jaxalign.storage.rundir import read_run
from jaxalign.types import Rollouts

KEY = jax.random.key(7)
SPEC = Sample(samples=3, max_tokens=5)
SHARE = 0.3


@pytest.fixture(scope="module")
def anchor(params):
    return nudged(params, 0.3, seed=1)


def roller(model, share, spec=SPEC, on=ONE):
    return GeometricMixture(spec, share).on(model, on, None, 9)


@pytest.fixture(scope="module")
def mixed(model, params, anchor) -> Rollouts:
    return seam.rolled(roller(model, SHARE).beside(anchor), params, PROMPTS, KEY)


@pytest.fixture(scope="module")
def following(model):
    return reading(model)


def reading(model):
    """(params, rollouts) → log-probs [b m t v] of every next token, by one forward pass over rows that begin at 0."""
    score = jax.jit(
        lambda params, tokens: jax.nn.log_softmax(model.logits(params, model.hidden(params, *rows(tokens))))
    )

    def of(params, found: Rollouts) -> np.ndarray:
        count, answers, limit = found.tokens.shape
        table = np.zeros((count, answers, limit, model.config.vocab), np.float32)
        for row, length in enumerate(found.prompt_lengths):
            whole = np.zeros((answers, found.prompt_tokens.shape[1] + limit), np.int32)
            whole[:, :length] = found.prompt_tokens[row, :length]
            whole[:, length : length + limit] = found.tokens[row]
            table[row] = np.asarray(score(params, whole))[:, length - 1 : length - 1 + limit]
        return table

    return of


def rows(tokens):
    """Tokens, positions and a causal mask."""
    count, width = tokens.shape
    causal = jnp.tril(jnp.ones((width, width), bool))
    return tokens, jnp.tile(jnp.arange(width)[None], (count, 1)), jnp.tile(causal[None], (count, 1, 1))


def mixture(own: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    raised = (1 - share) * own.astype(np.float64) + share * other
    return raised - np.logaddexp.reduce(raised, axis=-1, keepdims=True)


def said(found: Rollouts, following: np.ndarray) -> np.ndarray:
    chosen = np.take_along_axis(following, found.tokens[..., None], -1)[..., 0]
    return np.where(np.arange(found.tokens.shape[2]) < found.lengths[..., None], chosen, 0)


def test_recorded_log_probs_are_those_of_the_mixture(mixed, following, params, anchor):
    exact = said(mixed, mixture(following(params, mixed), following(anchor, mixed), SHARE))
    np.testing.assert_allclose(mixed.logps, exact, **CLOSE)
    assert np.abs(exact - said(mixed, following(params, mixed))).max() > 0.1


def test_nothing_of_the_anchor_is_the_policy_token_by_token(model, params, anchor):
    truth = seam.rolled(SPEC.on(model, ONE, None, 9), params, PROMPTS, KEY)
    found = seam.rolled(roller(model, 0.0).beside(anchor), params, PROMPTS, KEY)
    alone = seam.rolled(roller(model, SHARE), params, PROMPTS, KEY)
    whole = seam.rolled(roller(model, 1.0).beside(params), anchor, PROMPTS, KEY)
    for each in (found, whole):
        np.testing.assert_array_equal(each.tokens, truth.tokens)
        np.testing.assert_allclose(each.logps, truth.logps, **CLOSE)
    # beside itself it is itself, but for the rounding of (1 - share) z + share z
    np.testing.assert_allclose(alone.logps, truth.logps, **CLOSE)
    np.testing.assert_array_equal(alone.tokens, truth.tokens)


def test_rows_draw_the_same_in_any_company_and_on_eight_devices(model, params, anchor, mixed):
    alone = seam.rolled(GeometricMixture(SPEC, SHARE).on(model, ONE, None, 3).beside(anchor), params, PROMPTS[:2], KEY)
    np.testing.assert_array_equal(alone.tokens, mixed.tokens[:2])
    on = mesh("2x2x2")
    spread = roller(model, SHARE, on=on).beside(place(model, anchor, on))
    found = seam.rolled(spread, place(model, params, on), PROMPTS, KEY)
    np.testing.assert_array_equal(found.tokens, mixed.tokens)
    np.testing.assert_allclose(found.logps, mixed.logps, **CLOSE)


def test_a_sampler_sees_the_mixture(model, params, anchor, following):
    """The likeliest token of it, which neither of the two need hold for that."""
    found = seam.rolled(
        roller(model, 0.5, dataclasses.replace(SPEC, sampler=TopK(k=1))).beside(anchor), params, PROMPTS, KEY
    )
    both = mixture(following(params, found), following(anchor, found), 0.5)
    np.testing.assert_allclose(said(found, both), np.where(said(found, both) != 0, both.max(-1), 0), atol=1e-5)


def test_a_run_mixes_in_the_anchor_of_the_iteration(tmp_path):
    experiment = few("--iterations", "2", "--optimizer.learning_rate.peak", "0.05")
    run_here(fed(experiment, rollout=GeometricMixture(experiment.feedback.rollout, 0.5)), tmp_path)
    found, of = read_run(tmp_path).load(1, "rollouts", Rollouts), reading(experiment.model.open())
    own, other = (of(policy(tmp_path, number), found) for number in (1, 0))
    exact = said(found, mixture(own, other, 0.5))
    np.testing.assert_allclose(found.logps, exact, **CLOSE)
    assert np.abs(exact - said(found, own)).max() > 1e-2


def test_no_server_speaks_for_two(model):
    engine = Served(Server("http://localhost:1/v1", "m", answers="a"), exports="e")
    with pytest.raises(ConfigError, match="a server draws from one policy"):
        roller(model, 0.5, dataclasses.replace(SPEC, engine=engine))
