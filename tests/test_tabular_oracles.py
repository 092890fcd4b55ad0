"""Oracles over a few actions: the tabular game, and the population that picks one of k + 1 answers."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest
from made_rollouts import rollouts

from jaxalign.errors import DataError
from jaxalign.evals.cycles import cycle_metrics
from jaxalign.evals.nash_gap import duality_gap
from jaxalign.games.universal import majority, robust_win_rate
from jaxalign.oracles.population import EXAMPLE as POPULATION
from jaxalign.oracles.tabular import THREE_ACTION, TabularGame


def test_actions_are_looked_up(key):
    tokens = np.array([[[2], [0], [1], [0]]], np.int32)
    answer = TabularGame()(rollouts([list("caba")], tokens=tokens), key)
    expected = np.array(THREE_ACTION)[np.ix_([2, 0, 1, 0], [2, 0, 1, 0])]
    np.testing.assert_allclose(answer.prefer[0], expected, atol=6e-8)  # fp32
    assert cycle_metrics(answer.prefer[:, :3, :3])["cycles/cyclic_triples"] == 1.0


def test_a_token_that_is_no_action_names_prompt_and_response(key):
    with pytest.raises(DataError, match=r"response 1 of prompt 'p0' is token 3, not one of the game's 3 actions"):
        TabularGame()(rollouts([["a", "d"]], tokens=np.array([[[0], [3]]], np.int32)), key)
    with pytest.raises(DataError, match="response 0"):
        TabularGame()(rollouts([["", "a"]], lengths=np.array([[0, 1]], np.int32)), key)


@pytest.mark.parametrize(
    ("matrix", "named"),
    [
        ((), "at least one action"),
        (((0.5, 0.5), (0.5,)), "row 1 has 1 cells of 2"),
        (((0.4,),), r"matrix\[0\]\[0\] = 0.4 must be 0.5"),
        (((0.5, 0.7), (0.2, 0.5)), r"matrix\[0\]\[1\] \+ matrix\[1\]\[0\] = 0.7 \+ 0.2 must be 1"),
        (((0.5, 1.2), (-0.2, 0.5)), r"matrix\[0\]\[1\] = 1.2 .* must lie in \[0, 1\]"),
        (((0.5, float("nan")), (0.5, 0.5)), "must lie in"),
    ],
)
def test_a_matrix_that_is_no_game_names_the_cell(matrix, named):
    assert any(re.search(named, sentence) for sentence in TabularGame(matrix).problems())


def test_a_population_prefers_what_it_picks_more_often_over_k_samples(key):
    """The gap of its preferences is what the policy's k samples lack of k / (k + 1)."""
    tokens, weights = np.array([[[0], [1], [2]]], np.int32), np.array([[0.2, 0.5, 0.3]], np.float32)
    answer = POPULATION(rollouts([list("abc")], tokens=tokens, weights=weights), key)
    game = POPULATION.game()
    gain = np.asarray(game.gain(jnp.asarray(weights[0])))
    np.testing.assert_allclose(answer.prefer[0] - 0.5, (gain[:, None] - gain[None]) / 2, atol=1e-6)
    lacking = 2 / 3 - float(robust_win_rate(game, jnp.log(jnp.asarray(weights[0]))))
    np.testing.assert_allclose(duality_gap(answer.prefer, weights)[0], lacking, atol=1e-6)


def test_of_one_sample_a_population_is_its_majority(key):
    tokens = np.array([[[2], [0], [2], [1]]], np.int32)
    one = dataclasses.replace(POPULATION, k=1)
    found = one(rollouts([list("caxb")], tokens=tokens), key)
    mass = np.array([0.25, 0.25, 0.5])
    win = majority(*one.users()) @ mass
    expected = 0.5 + (win[[2, 0, 2, 1]][:, None] - win[[2, 0, 2, 1]]) / 2
    np.testing.assert_allclose(found.prefer[0], expected, atol=1e-6)


def test_users_of_a_population_may_like_actions_alike(key):
    """Two users who rank as they will, and one who likes its two best as much as one another."""
    tied = dataclasses.replace(POPULATION, tied=((), (2,), ()))
    tokens, weights = np.array([[[0], [1], [2]]], np.int32), np.array([[0.2, 0.5, 0.3]], np.float32)
    found = tied(rollouts([list("abc")], tokens=tokens, weights=weights), key)
    below, alike = 0.2, 0.8  # that user's ranking is a, then c and b alike
    np.testing.assert_allclose(found.scores[0, 1, 1:], ((below + alike) ** 3 - below**3) / (3 * alike), atol=1e-6)
    np.testing.assert_allclose(found.scores[0, 1, 0], 0.2**2 / 3, atol=1e-6)
    np.testing.assert_array_equal(
        found.scores[0, [0, 2]],
        POPULATION(rollouts([list("abc")], tokens=tokens, weights=weights), key).scores[0, [0, 2]],
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rankings": ()}, "at least one user"),
        ({"rankings": ((1, 2), (2, 1), (1, 2))}, "every action 0, 1"),
        ({"rankings": ((2, 1, 0), (0, 2, 2), (1, 0, 2))}, r"rankings\[1\]"),
        ({"weights": (0.5, 0.5)}, "3 rankings and 2 weights"),
        ({"weights": (0.5, 0.5, 0.1)}, "sum to 1"),
        ({"weights": (1.5, -0.6, 0.1)}, "positive"),
        ({"k": 0}, r"k must lie in \[1, 63\]"),
        ({"tied": ((), ())}, "3 rankings and ties of 2 users"),
        ({"tied": ((), (0,), ())}, r"tied\[1\] = \(0,\) must be ranks from 1 to 2"),
    ],
)
def test_an_impossible_population_is_named(changes, named):
    assert any(re.search(named, sentence) for sentence in dataclasses.replace(POPULATION, **changes).problems())
