"""Log-probs of a whole store of groups, made in parts: each is committed before the next is begun.

An hour of scoring that is interrupted goes on behind its last part. What is scored together begins at multiples of the
scorer's batch, wherever a part ends, so that a continued phase ends with the bits of an uninterrupted one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from jaxalign.data.groups import TrainingGroups
from jaxalign.hosts.group import Hosts
from jaxalign.training.logps import Scorer
from jaxalign.training.row_plan import RowPlan, plan_rows
from jaxalign.types import Params

BATCHES = 32
"""Batches of a part: so many are scored again after a crash, at most; an ordered stop commits what there is."""


@dataclass(frozen=True)
class Scored:
    """Log-prob sums (nats) under policy `policy` of the groups with these numbers: one process's share of a part."""

    policy: int
    numbers: Int[np.ndarray, " k"]
    sums: Float[np.ndarray, "k r"]


@runtime_checkable
class Kept(Protocol):
    """Where parts are committed: a run's parts of a phase."""

    @property
    def hosts(self) -> Hosts: ...
    def kept(self, kind: type[Scored]) -> list[tuple[Scored, ...]]: ...
    def put(self, k: int, value: Scored, kind: type[Scored]) -> tuple[Scored, ...]: ...


class Table:
    """The sums of all `groups` under policy `policy`, as far as they are known: of `done` groups, row after row."""

    def __init__(self, policy: int, groups: TrainingGroups, kept: Kept, plan: RowPlan | None = None):
        self._policy, self._groups, self._parts = policy, groups, kept
        self._plan = plan or plan_rows(groups)
        self.sums = np.zeros((len(groups), groups.responses), np.float32)
        self.done = self._count = 0
        for part in kept.kept(Scored):
            self._add(part)

    def fill(self, scorer: Scorer, params: Params, between: Callable[[int], bool]) -> Float[np.ndarray, "g r"]:
        """Scores and commits what is not known yet. `between` hears the groups done after each batch, and says whether
        to stop there: then `done` tells how far it came."""
        waiting: list[Scored] = []
        held = np.cumsum((self._plan.rows >= 0).sum(1))
        for numbers, sums in scorer.batches(params, self._groups, self._plan, int((held <= self.done).sum())):
            waiting.append(Scored(self._policy, numbers, sums))
            scored = self.done + sum(len(each.numbers) for each in waiting)
            stopping = between(scored)
            if stopping or len(waiting) == BATCHES or scored == len(self.sums):
                self._commit(waiting)
                waiting = []
            if stopping:
                break
        return self.sums

    def _commit(self, scored: list[Scored]) -> None:
        numbers = np.concatenate([each.numbers for each in scored])
        sums = np.concatenate([each.sums for each in scored])
        own = self._parts.hosts.share(len(numbers))
        self._add(self._parts.put(self._count, Scored(self._policy, numbers[own], sums[own]), Scored))

    def _add(self, part: tuple[Scored, ...]) -> None:
        """Takes in a committed part: of another policy, it is counted only."""
        self._count += 1
        for share in part:
            if share.policy == self._policy:
                self.sums[share.numbers] = share.sums
                self.done += len(share.numbers)
