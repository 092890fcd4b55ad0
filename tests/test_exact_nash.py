"""Every answer of a transformer, listed: their probabilities, and exact distances from the Nash policy."""

import dataclasses

import jax
import numpy as np
import pytest
from made_heldout import held_out
from made_models import ONE, mesh, tiny
from made_rollouts import CLOSE, prompt, rollouts

from jaxalign.errors import ConfigError
from jaxalign.evals.exact_nash import ExactNash
from jaxalign.mesh.sharding import MeshShape, param_shardings
from jaxalign.models.letters import LetterLlama
from jaxalign.models.random_llama import RandomLlama
from jaxalign.oracles.cyclic_strings import CyclicStrings, all_strings
from jaxalign.rollouts import seam
from jaxalign.rollouts.enumerate import Enumerate, enumerated
from jaxalign.training.logps import Scorer
from jaxalign.types import Rollouts

PROMPTS = (prompt("ab", "p0"), prompt("ca", "p1"), prompt("bb", "p2"))
ORACLE = CyclicStrings(length=3, penalty=0.1)


@pytest.fixture(scope="module")
def policy():
    model = LetterLlama(llama=RandomLlama(tied=False, context=16)).open()
    return model, model.load()


@pytest.fixture(scope="module")
def answers(policy) -> Rollouts:
    return listed(*policy, ONE)


def listed(model, params, on) -> Rollouts:
    return seam.rolled(Enumerate(length=3).on(model, on), params, PROMPTS, jax.random.key(0))


def test_all_strings_are_answers_and_their_probabilities_sum_to_one(policy, answers):
    model, params = policy
    np.testing.assert_array_equal(answers.tokens, np.tile(all_strings(3, 3), (3, 1, 1)))
    np.testing.assert_allclose(answers.weights.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(answers.weights, np.exp(answers.logps.sum(-1)), rtol=1e-6)
    assert answers.texts[0][:4] == ("aaa", "aab", "aac", "aba")
    assert answers.weights.std() > 0.01, "a uniform policy would hide a wrong order"
    np.testing.assert_allclose(Scorer(model, ONE, 4).rollouts(params, answers), answers.logps.sum(-1), **CLOSE)
    assert enumerated(answers).all()


def test_listed_by_eight_devices_is_listed_by_one(policy, answers):
    model, params = policy
    on = mesh("2x2x2")
    model = model.on(on, MeshShape().rules)
    split = jax.device_put(params, param_shardings(on, MeshShape().rules, model.abstract(), model.axes))
    np.testing.assert_allclose(listed(model, split, on).logps, answers.logps, **CLOSE)


def test_answers_that_are_too_many_or_end_by_themselves_are_refused(policy):
    with pytest.raises(ConfigError, match="3 tokens make 19683 answers of 9, more than 10000"):
        Enumerate(length=9).on(policy[0], ONE)
    with pytest.raises(ConfigError, match="end by a token"):
        Enumerate(length=2).on(dataclasses.replace(policy[0], chat=tiny().chat), ONE)
    assert list(Enumerate(length=0).problems()) == ["length must be at least 1, got 0"]


def measured(answers: Rollouts) -> dict[str, float]:
    context = dataclasses.replace(held_out(1, ORACLE), prompts=answers.prompts, responses={"base": answers})
    return ExactNash()(context)


def test_gap_and_divergence_are_those_of_the_whole_game(answers):
    """Against sums written out one by one, with the Nash policy that the games were made with."""
    gaps, away = [], []
    for asked, weights in zip(PROMPTS, answers.weights.astype(np.float64), strict=True):
        game = ORACLE.game(asked.text)
        strings = [tuple(each) for each in all_strings(3, 3).tolist()]
        wrong = {s: sum(a != b for a, b in zip(s[1:], game.right[s[0]], strict=True)) for s in strings}
        best = max(
            sum(
                w * (game.margin[y[0], z[0]] - 0.1 * (wrong[y] - wrong[z]))
                for w, z in zip(weights, strings, strict=True)
            )
            for y in strings
        )
        gaps.append(2 * best)
        right = {s: game.shares[s[0]] for s in strings if not wrong[s]}
        away.append(sum(p * np.log(p / weights[strings.index(s)]) for s, p in right.items()))
    found = measured(answers)
    assert found["nash/gap"] == pytest.approx(np.mean(gaps), abs=1e-6)  # fp32 preferences
    assert found["nash/kl"] == pytest.approx(np.mean(away), abs=1e-5)
    assert found["nash/gap"] > 0.1


def test_the_nash_policy_itself_is_at_distance_zero(answers):
    nash = np.array([ORACLE.game(asked.text).nash(all_strings(3, 3)) for asked in PROMPTS], np.float32)
    with np.errstate(divide="ignore"):
        logps = np.stack([np.log(nash), np.zeros_like(nash), np.zeros_like(nash)], -1)
    found = measured(dataclasses.replace(answers, weights=nash, logps=logps))
    np.testing.assert_allclose([found["nash/gap"], found["nash/kl"]], 0.0, atol=1e-6)


def test_samples_are_no_enumeration():
    made = rollouts([["aaa", "aab"]] * 3, [each.text for each in PROMPTS], tokens=np.zeros((3, 2, 3), np.int32))
    with pytest.raises(ConfigError, match="needs every answer with its probability"):
        measured(made)
