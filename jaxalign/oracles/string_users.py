"""Users of short strings whose tastes are known: a population for a language model that has to spell.

The first letter of an answer is its style, the others are what it says in that style; each style has one right
spelling. A string is worth to a user

    worth(y) = liking[user][style y] − penalty · (wrong letters of y)

and it prefers for certain what is worth more; where two are worth the same it is indifferent. The same is meant of the
settings as they are written: 0.3 − 0.1 and 0.2 are worth the same, though their floats differ. Which letter is which
style, and how each is spelled right, is drawn for each prompt. So the users' game (`CyclicStrings` is another) and that
of k samples (`k_samples`) are known for each prompt.

By default style 0 is liked best by 46 % of users and by no one else; 15 % do not care for styles. It wins against any
other with .46 + .15/2 = .535, so its right spelling is the Nash policy of two players. When the second style comes
along beside k samples of that policy, 46 % and k/(k + 1) of the careless 15 % pick one of them: .56 of two, .593 of
eight, never more than .61.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from jaxalign.games.populations import ordered
from jaxalign.games.universal import PopulationGame
from jaxalign.oracles.cyclic_strings import all_strings, strings_of
from jaxalign.oracles.panel import probabilities
from jaxalign.types import Preferences, Rollouts


@dataclass(frozen=True)
class StringUsers:
    """Oracle over answers of `length` tokens, each of as many letters as there are styles; every annotator is a user.
    A prompt's text and `seed` draw its styles and spellings, no key does."""

    liking: tuple[tuple[float, ...], ...] = ((3.0, 2.0, 1.0), (1.0, 3.0, 2.0), (1.0, 2.0, 3.0), (2.0, 2.0, 2.0))
    """what each style is worth to each user"""
    shares: tuple[float, ...] = (0.46, 0.22, 0.17, 0.15)
    """of each user in the population, positive, summing to 1"""
    length: int = 3
    """tokens of every answer"""
    penalty: float = 1.5
    """what a wrong letter costs, in units of `liking`"""
    seed: int = 0
    """of all prompts' styles and spellings"""

    @property
    def names(self) -> tuple[str, ...]:
        """What the users are called."""
        return tuple(f"user {user}" for user in range(len(self.liking)))

    @property
    def letters(self) -> int:
        """Styles, and tokens that answers are made of."""
        return len(self.liking[0])

    def problems(self) -> Iterable[str]:
        if not self.liking or len({len(user) for user in self.liking}) != 1 or len(self.liking[0]) < 2:
            yield "liking must hold at least one user, and say of each what the same styles, two at least, are worth"
        if len(self.shares) != len(self.liking):
            yield f"liking is of {len(self.liking)} users, and shares of {len(self.shares)}"
        elif min(self.shares, default=1.0) <= 0 or abs(sum(self.shares) - 1) > 1e-6:
            yield f"shares must be positive and sum to 1, got {self.shares}"
        if self.length < 1:
            yield f"length must be at least 1, got {self.length}"
        if not self.penalty > 0:
            yield f"penalty must be positive, got {self.penalty}"
        if self.seed < 0:
            yield f"seed must not be negative, got {self.seed}"

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        """Preferences among each prompt's answers. Raises DataError naming an answer that is no string of the game."""
        strings = strings_of(rollouts, self.letters, self.length)
        prompts = zip(rollouts.prompts, strings, strict=True)
        shape = (len(strings), 2, len(self.liking), strings.shape[1])
        found = [self._worth_and_rank(prompt.text, each) for prompt, each in prompts]
        worth, rank = np.array(found, np.float64).reshape(shape).swapaxes(0, 1)
        sides = np.sign(rank[..., :, None] - rank[..., None, :]) / 2
        together = np.einsum("o,boij->bij", np.asarray(self.shares), sides)
        return Preferences(
            self.names, self.shares, probabilities(together), probabilities(sides), scores=worth.astype(np.float32)
        )

    def worth(self, asked: str, strings: Int[np.ndarray, "m t"]) -> Float[np.ndarray, "o m"]:
        """What each string is worth to each user who asked this, rounded once."""
        return self._worth_and_rank(asked, strings)[0]

    def _worth_and_rank(
        self, asked: str, strings: Int[np.ndarray, "m t"]
    ) -> tuple[Float[np.ndarray, "o m"], Int[np.ndarray, "o m"]]:
        """And how many things that a string can be worth to a user are less, which is equal where worths are."""
        style, wrong = self._read(asked, strings)
        worths, ranks = _levels(self.liking, self.penalty, self.length)
        return worths[:, style, wrong], ranks[:, style, wrong]

    def _read(self, asked: str, strings: Int[np.ndarray, "m t"]) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
        """The style of each string where this is asked, and its wrong letters."""
        rng = np.random.default_rng([self.seed, zlib.crc32(asked.encode())])
        style = rng.permutation(self.letters)
        right = rng.integers(0, self.letters, (self.letters, self.length - 1))
        return style[strings[:, 0]], (strings[:, 1:] != right[strings[:, 0]]).sum(-1)

    def game(self, asked: str, k: int = 1) -> PopulationGame:
        """The game of k samples that is played on the prompt of this text, over `all_strings`."""
        _, rank = self._worth_and_rank(asked, all_strings(self.letters, self.length))
        order, tied = ordered(rank.astype(np.float64))
        return PopulationGame(jnp.asarray(order), jnp.asarray(np.asarray(self.shares)), k, jnp.asarray(tied))


@cache
def _levels(
    liking: tuple[tuple[float, ...], ...], penalty: float, length: int
) -> tuple[Float[np.ndarray, "o l t"], Int[np.ndarray, "o l t"]]:
    """What a string of a style l and t wrong letters is worth to each user, and its rank: of the decimals that settings
    are written as, exactly."""
    cost = Fraction(repr(float(penalty)))
    exact = [[[Fraction(repr(float(one))) - cost * t for t in range(length)] for one in user] for user in liking]
    places = [{one: at for at, one in enumerate(sorted({x for row in user for x in row}))} for user in exact]
    ranks = [[[place[x] for x in row] for row in user] for place, user in zip(places, exact, strict=True)]
    return np.array(exact, np.float64), np.array(ranks, np.int64)


EXAMPLE = StringUsers(length=1)
