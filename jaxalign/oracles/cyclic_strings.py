"""A game over short strings whose Nash policy is known, of its own for each prompt: preferences that cycle, on answers
that a language model has to spell.

The first letter of an answer is its style, the others are what it says in that style. Styles beat one another in a
cycle; each has one right spelling, and every wrong letter costs the same, whoever is met:

    P(y ≻ y′) = 1/2 + S[style y, style y′] − penalty · (wrong y − wrong y′),        S skew, largest entry `cycle`

S is drawn with an equilibrium that mixes all styles (`games.families.planted`); their number is odd, so that it is the
only one. Against it a style gains nothing whatever it is, and a wrong letter loses: the Nash policy of the whole game
says the right spelling of each style as often as the style's share, and nothing else. No answer beats all others, and
no reward explains the preferences.
"""

import itertools
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from jaxalign.errors import DataError
from jaxalign.games.families import planted
from jaxalign.oracles.panel import probabilities
from jaxalign.types import Preferences, Rollouts


@dataclass(frozen=True)
class CyclicStrings:
    """Oracle over answers of `length` tokens below `letters`; a prompt's text and `seed` draw its game, no key does."""

    letters: int = 3
    """tokens that answers are made of, and styles: odd, at least 3"""
    length: int = 4
    """tokens of every answer"""
    cycle: float = 0.3
    """by how much one style beats another at most, above 1/2"""
    penalty: float = 0.065
    """what a wrong letter costs, in win probability"""
    seed: int = 0
    """of all games"""

    @property
    def names(self) -> tuple[str, ...]:
        """One annotator: the game."""
        return ("game",)

    def problems(self) -> Iterable[str]:
        if self.letters < 3 or self.letters % 2 == 0:
            yield f"letters must be odd and at least 3, got {self.letters}: an even cycle has many equilibria"
        if self.length < 1:
            yield f"length must be at least 1, got {self.length}"
        if not (self.cycle > 0 and self.penalty > 0):
            yield f"cycle and penalty must be positive, got {self.cycle} and {self.penalty}"
        elif (largest := self.cycle + self.penalty * (self.length - 1)) > 0.5:
            yield f"cycle + penalty · (length - 1) = {largest} must be at most 0.5: probabilities would leave [0, 1]"
        if self.seed < 0:
            yield f"seed must not be negative, got {self.seed}"

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        """Preferences among each prompt's answers.

        Raises:
            DataError: an answer that is no string of the game; names prompt and response.
        """
        strings = strings_of(rollouts, self.letters, self.length)
        games = [self.game(prompt.text) for prompt in rollouts.prompts]
        advantage = [game.advantage(each) for game, each in zip(games, strings, strict=True)]
        count, samples = rollouts.lengths.shape
        prefer = probabilities(np.array(advantage, np.float64).reshape(count, samples, samples))
        return Preferences(self.names, (1.0,), prefer, prefer[:, None], scores=None)

    def game(self, asked: str) -> "StringGame":
        """What is played on the prompt of this text: a function of it and of `seed`."""
        rng = np.random.default_rng([self.seed, zlib.crc32(asked.encode())])
        matrix, shares = planted(rng, self.letters, self.letters)
        margin = matrix - 0.5
        right = rng.integers(0, self.letters, (self.letters, self.length - 1))
        return StringGame(self.cycle * margin / np.abs(margin).max(), shares, right, self.penalty)


@dataclass(frozen=True)
class StringGame:
    """One prompt's game: skew margins between v styles, their shares at the equilibrium, how each is spelled right."""

    margin: Float[np.ndarray, "v v"]
    shares: Float[np.ndarray, " v"]
    right: Int[np.ndarray, "v t"]
    penalty: float

    def advantage(self, strings: Int[np.ndarray, "m t"]) -> Float[np.ndarray, "m m"]:
        """P(y ≻ y′) − 1/2 of every two strings, skew."""
        style, wrong = strings[:, 0], self.wrong(strings)
        return self.margin[np.ix_(style, style)] - self.penalty * (wrong[:, None] - wrong[None, :])

    def wrong(self, strings: Int[np.ndarray, "m t"]) -> Int[np.ndarray, " m"]:
        """Letters of each string that are not those of its style's right spelling."""
        return (strings[:, 1:] != self.right[strings[:, 0]]).sum(-1)

    def nash(self, strings: Int[np.ndarray, "m t"]) -> Float[np.ndarray, " m"]:
        """Probabilities of the strings, different ones, in the Nash policy."""
        return np.where(self.wrong(strings) == 0, self.shares[strings[:, 0]], 0.0)


def strings_of(rollouts: Rollouts, letters: int, length: int) -> Int[np.ndarray, "b m t"]:
    """Answers as strings of a game of so many letters. Raises DataError naming prompt and response that is none."""
    found = rollouts.tokens[:, :, :length]
    strange = ((found < 0) | (found >= letters)).any(-1) | (rollouts.lengths != length)
    for prompt, response in np.argwhere(strange):
        tokens = rollouts.tokens[prompt, response, : rollouts.lengths[prompt, response]].tolist()
        raise DataError(
            f"response {response} of prompt {rollouts.prompts[prompt].id!r} is the tokens {tokens}, no string of "
            f"{length} of the game's {letters} letters"
        )
    return found


def all_strings(letters: int, length: int) -> Int[np.ndarray, "m t"]:
    """Every string there is, the last letter changing fastest."""
    return np.array(list(itertools.product(range(letters), repeat=length)), np.int32)


EXAMPLE = CyclicStrings(length=1)
