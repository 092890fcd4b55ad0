"""An oracle shared by the processes of a run: each judges its block of the prompts, all get all preferences."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxalign.rollouts.shares import picked
from jaxalign.storage.rundir import Parts
from jaxalign.types import Oracle, Preferences, Rollouts


@dataclass(frozen=True)
class SharedOracle:
    """The same preferences as `oracle` gives alone, since a prompt's are a function of that prompt's responses.

    What each process finds is a part of the phase that asks, so an interrupted phase does not judge again.
    """

    oracle: Oracle
    parts: Parts
    _numbers: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        own = self.parts.hosts.share(len(rollouts.prompts))

        def judge() -> Preferences:
            if own.start == own.stop:  # more processes than prompts: oracles want at least one
                return jax.tree.map(lambda rows: rows[:0], self.oracle(picked(rollouts, slice(0, 1)), key))
            return self.oracle(picked(rollouts, own), key)

        parts = self.parts.get(next(self._numbers), judge, Preferences)
        return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
