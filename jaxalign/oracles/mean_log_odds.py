"""Another oracle's preferences, with a score of each answer: its mean log-odds against the answers beside it.

    S_a(y_i) = scale · Σ_j w_j log( P_a(i ≻ j) / P_a(j ≻ i) ),        a an annotator of the oracle

w are the weights of the answers, so S is the mean over answers of whoever gave them, the policy or the policy and its
anchor: of a general preference model the score
s(y ≻ π) divided by its temperature, which is what GPO steps by (Zhang et al. 2024, arXiv 2410.02197). Of a
Bradley–Terry model it is the reward less its mean. Probabilities that are 0 or 1 in fp32 count as 2^-24 off them, 16.6
nats: an annotator that is always sure has no log-odds to speak of.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from jaxalign.contracts.scope import OpenableOracle, Site, opened
from jaxalign.oracles.among import among, names_of, unnamed
from jaxalign.oracles.annotators import Brevity, Coverage
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.rollouts.shares import picked
from jaxalign.types import Oracle, Preferences, Rollouts

SUREST = 2.0**-24
"""Least probability: the rounding of fp32 below 1."""


@dataclass(frozen=True)
class MeanLogOdds:
    """Oracle: what another says, and scores of it in place of any that it has."""

    oracle: Oracle | OpenableOracle
    """whose preferences are scored"""
    scale: float = 1.0
    """factor of the scores, > 0: the oracle's temperature gives those of a general preference model"""

    def problems(self) -> Iterable[str]:
        yield from unnamed(self.oracle)
        if not self.scale > 0:
            yield f"scale must be positive, got {self.scale}"

    @property
    def names(self) -> tuple[str, ...]:
        """The annotators of the oracle."""
        return names_of(self.oracle)

    @contextmanager
    def open(self, site: Site) -> Iterator["MeanLogOdds"]:
        """The same, its oracle open."""
        with opened(self.oracle, site) as judge:
            yield replace(self, oracle=judge)

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        """Preferences among each prompt's responses, and scores of these. Raises what the oracle raises."""
        return self.among(rollouts, np.arange(len(rollouts.prompts)), key)

    def among(self, rollouts: Rollouts, own: Int[np.ndarray, " k"], key: PRNGKeyArray) -> Preferences:
        """The same for the prompts numbered `own`, of those that all processes ask about in step."""
        found = among(self.oracle, rollouts, own, key)
        return replace(found, scores=self.scale * mean_log_odds(found.by_annotator, picked(rollouts, own).weights))


def mean_log_odds(
    prefer: Float[np.ndarray, "b o m m"], weights: Float[np.ndarray, "b m"]
) -> Float[np.ndarray, "b o m"]:
    """Of each answer against those beside it, nats."""
    sure = np.clip(prefer.astype(np.float64), SUREST, 1 - SUREST)
    shares = weights / weights.sum(-1, keepdims=True)
    found: Float[np.ndarray, "b o m"] = np.einsum("boij,bj->boi", np.log(sure) - np.log1p(-sure), shares)
    return found.astype(np.float32)


EXAMPLE = MeanLogOdds(Panel((Weighted(Brevity(), temperature=0.1), Weighted(Coverage(), temperature=0.05))))
