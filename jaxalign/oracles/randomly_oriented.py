"""A control: another oracle's preferences, each pair of answers turned by the toss of a coin.

    P′(i ≻ j) = 1/2 + s(i, j) (P(i ≻ j) − 1/2),        s(i, j) = s(j, i) = ±1, with probability 1/2 each

The coin is a function of `seed`, the prompt and the two texts: whoever asks about the same answers again hears the
same, in training, after a restart, on another host, and what is said is a preference like any other. Its probabilities
are as far from 1/2 as the oracle's own, so that losses, gradients and steps are as large. All that it lacks is what the
oracle likes. A policy that is trained on it at the same compute and judged by the oracle itself (`evaluation.oracle`)
shows what a win rate owes to everything else: to drift, to shorter answers, to the optimizer.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int, PRNGKeyArray

from jaxalign.contracts.scope import OpenableOracle, Site, opened
from jaxalign.oracles.among import among, names_of, unnamed
from jaxalign.oracles.annotators import Brevity, Coverage
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.rollouts.shares import picked
from jaxalign.types import Oracle, Preferences, Prompt, Rollouts


@dataclass(frozen=True)
class RandomlyOriented:
    """Oracle: what another says of every pair of different texts, turned for a random half of them.

    All annotators are turned together, and none scores: scores would still tell what the oracle likes.
    """

    oracle: Oracle | OpenableOracle
    """whose preferences are turned"""
    seed: int = 0
    """of the coins"""

    def problems(self) -> Iterable[str]:
        yield from unnamed(self.oracle)
        if self.seed < 0:
            yield f"seed must not be negative, got {self.seed}"

    @property
    def names(self) -> tuple[str, ...]:
        """The annotators of the oracle."""
        return names_of(self.oracle)

    @contextmanager
    def open(self, site: Site) -> Iterator["RandomlyOriented"]:
        """The same, its oracle open."""
        with opened(self.oracle, site) as judge:
            yield replace(self, oracle=judge)

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        """Preferences among each prompt's responses. Raises what the oracle raises."""
        return self.among(rollouts, np.arange(len(rollouts.prompts)), key)

    def among(self, rollouts: Rollouts, own: Int[np.ndarray, " k"], key: PRNGKeyArray) -> Preferences:
        """The same for the prompts numbered `own`, of those that all processes ask about in step."""
        found, mine = among(self.oracle, rollouts, own, key), picked(rollouts, own)
        pairs = zip(mine.prompts, mine.texts, strict=True)
        coins = [turned(self.seed, prompt, texts) for prompt, texts in pairs]
        turn = np.array(coins, bool).reshape(found.prefer.shape)
        # what is turned is read from the other side of the diagonal, so that complements stay exact
        return replace(
            found,
            prefer=np.where(turn, found.prefer.swapaxes(-1, -2), found.prefer),
            by_annotator=np.where(turn[:, None], found.by_annotator.swapaxes(-1, -2), found.by_annotator),
            scores=None,
        )


def turned(seed: int, prompt: Prompt, texts: tuple[str, ...]) -> Bool[np.ndarray, "m m"]:
    """Which pairs of a prompt's texts are turned: symmetric; each unordered pair has one coin, tossed by its words and
    those of the prompt."""
    coins = np.zeros((len(texts), len(texts)), bool)
    for i, j in zip(*np.triu_indices(len(texts), 1), strict=True):
        pair = json.dumps([seed, *(sorted(each.items()) for each in prompt.messages), *sorted((texts[i], texts[j]))])
        coins[i, j] = coins[j, i] = hashlib.blake2b(pair.encode(), digest_size=1).digest()[0] & 1
    return coins


EXAMPLE = RandomlyOriented(Panel((Weighted(Brevity(), temperature=0.1), Weighted(Coverage(), temperature=0.05))))
