"""COMAL's recursion on the three-action game under a pairing rule, every expectation taken exactly.

The law of a rule's groups is a sum over all multisets of m answers, of which the rule itself is asked once; a fit is
the least squares of INPO's loss under that law, solved exactly. What is left out is what a run adds: few prompts,
votes, fits that fall short.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

import jax
import numpy as np
from jaxtyping import PRNGKeyArray
from made_rollouts import preferences, rollouts

from jaxalign.games.families import three_action
from jaxalign.pairings.below_mean import BelowMean
from jaxalign.pairings.even_pairs import EvenPairs
from jaxalign.pairings.large_margin import LargeMargin
from jaxalign.pairings.rejection import Rejection
from jaxalign.pairs import AllPairs, BestSecond, BestWorst, MajorityLabel, RankLabel, SoftLabel, labelled, ranking
from jaxalign.types import Groups, Pairing, Preferences, Rollouts

GAME, ACTIONS = three_action(), 3
NASH = np.array([4, 3, 4]) / 11
START = np.array([0.2, 0.5, 0.3])
SETTINGS = ((1.5, 0.1, 12), (0.3, 0.1, 100), (1.5, 0.1, None))
"""(step, tau, iterations a swap): with i.i.d. pairs the first two come to the Nash policy, the last one to that of the
game regularised around the start."""

ITERATIONS, LAST = 6000, 1000
"""How far recursions go, and how many of the last iterates are looked at: small steps take some thousands."""


@dataclass(frozen=True)
class Law:
    """The groups that a rule makes of m answers, by multiset: how often each action is in it, the logarithm of its
    number of orders, and Σ weight, Σ weight (2 prefer − 1) over its groups by (chosen, rejected)."""

    counts: np.ndarray
    orders: np.ndarray
    weight: np.ndarray
    wanted: np.ndarray

    @classmethod
    def of(cls, rule: Pairing, samples: int, apart: bool, draws: int = 1) -> "Law":
        """The rule asked of `samples` answers; `apart`: every answer is a text of its own, as a language model's nearly
        always are; else equal actions are one text. A rule that draws is asked so many times."""
        sets = np.array(list(combinations_with_replacement(range(ACTIONS), samples)))
        counts = (sets[:, :, None] == np.arange(ACTIONS)).sum(1)
        orders = [math.lgamma(samples + 1) - sum(math.lgamma(each + 1) for each in row) for row in counts]
        texts = [["abc"[action] + str(place) * apart for place, action in enumerate(row)] for row in sets] * draws
        prefer = np.tile(GAME[sets[:, :, None], sets[:, None, :]], (draws, 1, 1))
        groups = rule(rollouts(texts), preferences(prefer), jax.random.key(0))
        pair = np.take_along_axis(sets[groups.prompt % len(sets)], groups.responses, 1)
        weight, wanted = np.zeros((2, len(sets), ACTIONS, ACTIONS))
        place = groups.prompt % len(sets), *pair.T
        np.add.at(weight, place, groups.weight / draws)
        np.add.at(wanted, place, groups.weight * (2 * groups.labels.prefer - 1) / draws)
        return cls(counts, np.array(orders), weight, wanted)

    def __call__(self, logp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected weight and wanted sums [s 3 3] under policies [s 3]."""
        chance = np.exp(self.orders + logp @ self.counts.T)
        return np.tensordot(chance, self.weight, 1), np.tensordot(chance, self.wanted, 1)


def iterates(law: Law, temperature: float = 1.0) -> np.ndarray:
    """The last policies [setting iteration 3] from START under SETTINGS; answers are sampled at `temperature`."""
    step, tau, swap = np.array([(step, tau, swap or np.inf) for step, tau, swap in SETTINGS]).T
    pull, logp = (step * tau)[:, None], np.tile(np.log(START), (len(SETTINGS), 1))
    anchor, found = logp, []
    for iteration in range(ITERATIONS):
        weight, wanted = law(normalised(logp / temperature))
        move = solved(weight, step[:, None] / 2 * (wanted.sum(2) - wanted.sum(1)))
        logp = normalised((1 - pull) * logp + pull * anchor + move)
        anchor = np.where(((iteration + 1) % swap == 0)[:, None], logp, anchor)
        found.append(logp)
    return np.exp(np.stack(found[-LAST:], 1))


def normalised(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


def solved(weight: np.ndarray, aim: np.ndarray) -> np.ndarray:
    """h [s 3], h_2 = 0, of least Σ w_ij (h_i − h_j)² − 2 aim·h, by Cramer's rule: its determinant is a sum of positive
    terms, so that answers of whatever small probability are solved for as closely as others."""
    both = weight + weight.swapaxes(1, 2)
    one, two, three = both[:, 0, 1], both[:, 0, 2], both[:, 1, 2]
    determinant = one * two + one * three + two * three
    first = (one + three) * aim[:, 0] + one * aim[:, 1]
    second = one * aim[:, 0] + (one + two) * aim[:, 1]
    return np.stack([first, second, np.zeros_like(first)], 1) / determinant[:, None]


def gaps(policies: np.ndarray) -> np.ndarray:
    """Duality gaps of policies [... 3] in the game."""
    return 2 * (policies @ GAME.T - 0.5).max(-1)


@dataclass(frozen=True)
class BestEach:
    """Rank 1 against each of the other distinct texts, which share a weight of 1: `BestRandom` in expectation."""

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        orders = [ranking(*each) for each in zip(rollouts.texts, preferences.prefer, strict=True)]
        rows = [
            (prompt, best, other, 1 / len(others)) for prompt, (best, *others) in enumerate(orders) for other in others
        ]
        prompt, best, other, weight = np.array(rows).T
        pairs = np.stack([best, other], 1).astype(int)
        return labelled(rollouts, preferences, prompt.astype(int), pairs, weight, RankLabel(), key)


TABLE: dict[str, tuple[Pairing, int]] = {
    "`RandomPair`, `AllPairs`": (AllPairs(), 8),
    "the same with `MajorityLabel`": (AllPairs(MajorityLabel()), 8),
    "`BestWorst` of 2": (BestWorst(), 2),
    "`BestWorst` of 5": (BestWorst(), 5),
    "`BestWorst` of 8": (BestWorst(), 8),
    "`BestWorst(SoftLabel())` of 5": (BestWorst(SoftLabel()), 5),
    "`BestWorst(SoftLabel())` of 8": (BestWorst(SoftLabel()), 8),
    "`BestSecond` of 5": (BestSecond(), 5),
    "`BestSecond` of 8": (BestSecond(), 8),
    "`BestSecond(SoftLabel())` of 5": (BestSecond(SoftLabel()), 5),
    "`BestRandom` of 8": (BestEach(), 8),
    '`BelowMean(by="win")` of 8': (BelowMean(by="win"), 8),
    "`EvenPairs` of 8": (EvenPairs(), 8),
    "`LargeMargin` of 8": (LargeMargin(), 8),
    '`Rejection(by="win")` of 8, beta to 0': (Rejection(beta=1e-9, by="win", label=SoftLabel()), 8),
}
"""Row of BENCHMARKS.md → rule and number of answers. Labels that are drawn, and pairs, are put as their expectation."""


def row(name: str) -> Iterator[tuple[float, float]]:
    """Least and greatest duality gap of the last iterates by setting, where every answer is a text and then where equal
    actions are one."""
    for apart in (True, False):
        for found in gaps(iterates(Law.of(*TABLE[name], apart))):
            yield found.min(), found.max()


SETTLED = 1e-4
"""Gaps that differ by less have settled."""


def cell(least: float, greatest: float) -> str:
    """As BENCHMARKS.md prints it: the gap of a policy that has settled, else between which it swings."""
    if greatest < 1e-7:
        return "0"
    if greatest - least < SETTLED:
        return f"{greatest:.4f}".removeprefix("0")
    return "–".join(f"{each:.2f}".removeprefix("0") for each in (least, greatest))
