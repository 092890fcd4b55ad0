"""The game over strings: its Nash policy by hand, by construction and by linear programming; and who speaks it."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_rollouts import rollouts
from made_runs import CONFIGS

from jaxalign.config.load import load
from jaxalign.errors import DataError
from jaxalign.games.game import MatrixGame, uniform
from jaxalign.games.learner import run
from jaxalign.games.learners.egpo import EGPO
from jaxalign.games.learners.inpo import INPO
from jaxalign.games.learners.onpo import ONPO
from jaxalign.games.metrics import exploitability
from jaxalign.games.solve import nash
from jaxalign.models.letters import LetterLlama
from jaxalign.oracles.cyclic_strings import CyclicStrings, StringGame, all_strings

GAME = CyclicStrings(length=3, penalty=0.1)
STRINGS = all_strings(3, 3)
ASKED = ("ab", "ca", "bb")


def beats(first: float, second: float, third: float) -> np.ndarray:
    """Margins of three styles: 0 over 1 by `first`, 1 over 2 by `second`, 2 over 0 by `third`."""
    return np.array([[0, first, -third], [-first, 0, second], [third, -second, 0]])


@pytest.mark.parametrize(
    ("margins", "shares"),
    [((0.3, 0.3, 0.3), (1 / 3, 1 / 3, 1 / 3)), ((0.1, 0.2, 0.3), (1 / 3, 1 / 2, 1 / 6))],
)
def test_the_nash_policy_of_rock_paper_scissors_spelled_right(margins, shares):
    """Each style's share is the margin between the other two, over the sum."""
    right = np.array([[0, 1], [2, 2], [1, 0]])
    game = StringGame(beats(*margins), np.array(shares), right, penalty=0.05)
    found = nash(0.5 + game.advantage(STRINGS))
    expected = np.zeros(27)
    expected[[0 * 9 + 1, 1 * 9 + 8, 2 * 9 + 3]] = shares  # a then ab, b then cc, c then ba
    np.testing.assert_allclose(found, expected, atol=1e-7)
    np.testing.assert_allclose(game.nash(STRINGS), expected)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("oracle", [GAME, CyclicStrings(letters=5, length=2, penalty=0.2, seed=3)], ids=["3", "5"])
def test_the_nash_policy_is_the_one_that_the_game_was_made_with(oracle, asked):
    strings, game = all_strings(oracle.letters, oracle.length), oracle.game(asked)
    prefer = 0.5 + game.advantage(strings)
    assert (prefer >= -1e-12).all()
    np.testing.assert_allclose(prefer + prefer.T, 1.0, atol=1e-12)
    solution = game.nash(strings)
    np.testing.assert_allclose(nash(prefer), solution, atol=1e-6)  # HiGHS's tolerance
    gain = prefer @ solution - 0.5
    np.testing.assert_allclose(gain, -oracle.penalty * game.wrong(strings), atol=1e-12)
    assert np.abs(game.margin).max() == pytest.approx(oracle.cycle)
    assert not (prefer >= 0.5).all(1).any(), "an answer that nobody beats"


def test_every_prompt_has_a_game_of_its_own():
    games = [GAME.game(asked) for asked in ASKED]
    assert len({each.margin.tobytes() for each in games}) == 3
    np.testing.assert_array_equal(GAME.game("ab").margin, games[0].margin)
    assert (dataclasses.replace(GAME, seed=1).game("ab").margin != games[0].margin).any()


def test_answers_are_judged_by_their_letters(key):
    said = np.array([[[0, 1, 2], [2, 2, 2], [0, 1, 2]], [[1, 1, 1], [2, 0, 0], [0, 0, 0]]], np.int32)
    answer = GAME(rollouts([["", "", ""]] * 2, ["ab", "ca"], tokens=said), key)
    for asked, strings, prefer in zip(("ab", "ca"), said, answer.prefer, strict=True):
        number = strings @ [9, 3, 1]
        whole = 0.5 + GAME.game(asked).advantage(STRINGS)
        np.testing.assert_allclose(prefer, whole[np.ix_(number, number)], atol=6e-8)  # fp32


@pytest.mark.parametrize(
    ("tokens", "lengths", "named"),
    [([[0, 1, 3]], None, r"\[0, 1, 3\]"), ([[0, 1, 2]], [[2]], r"\[0, 1\]"), ([[0, -1, 2]], None, r"\[0, -1, 2\]")],
)
def test_what_is_no_string_of_the_game_is_named(tokens, lengths, named, key):
    made = rollouts(
        [["x"]], tokens=np.array([tokens], np.int32), lengths=None if lengths is None else np.array(lengths)
    )
    with pytest.raises(DataError, match=rf"response 0 of prompt 'p0' is the tokens {named}, no string of 3"):
        GAME(made, key)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"letters": 4}, "odd and at least 3"),
        ({"letters": 1}, "odd and at least 3"),
        ({"length": 0}, "length must be at least 1"),
        ({"penalty": 0.0}, "must be positive"),
        ({"cycle": 0.4, "penalty": 0.06}, "must be at most 0.5"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_an_impossible_game_is_named(changes, named):
    assert any(re.search(named, sentence) for sentence in dataclasses.replace(GAME, **changes).problems())


def test_letters_are_spelled_and_read():
    chat = LetterLlama().open().chat
    assert chat.encode([{"role": "user", "content": "cab"}]) == [2, 0, 1]
    assert chat.decode([2, 0, 1]) == "cab"
    for wrong in ("abd", ""):
        with pytest.raises(DataError, match="is not spelled in the letters 'abc'"):
            chat.encode([{"role": "user", "content": wrong}])
    assert list(LetterLlama(letters=27).problems()) == ["letters must lie in 2 … 26, got 27"]


@pytest.mark.parametrize(
    ("learner", "gap"),
    [
        (ONPO(3.0), 0.006),
        (ONPO(6.0), 0.237),
        (EGPO(6.0, 0.02), 0.015),
        (INPO(6.0, 0.02), 0.162),
    ],
    ids=["half steps of ONPO", "ONPO", "EGPO", "INPO"],
)
def test_what_exact_steps_come_to(learner, gap):
    """What the docstrings of `cyclic_strings_onpo.py` and `cyclic_strings_egpo.py` say of 36 steps from the uniform
    policy: the duality gap, mean over the four prompts."""
    experiment = load(CONFIGS / "games" / "cyclic_strings.py")
    oracle, asked = experiment.feedback.oracle, experiment.feedback.prompts.texts
    strings = all_strings(oracle.letters, oracle.length)
    with jax.enable_x64(True):
        games = [MatrixGame(jnp.asarray(0.5 + oracle.game(each).advantage(strings))) for each in asked]
        ends = [run(learner, game, uniform(27, jnp.float64), jnp.asarray([36]), 36).logp[0] for game in games]
        found = np.mean([2 * float(exploitability(*each)) for each in zip(games, ends, strict=True)])
    assert found == pytest.approx(gap, abs=6e-4)
