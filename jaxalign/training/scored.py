"""Log-probs of a whole set of groups, made in parts: each is committed before the next is begun.

An hour of scoring that is interrupted goes on behind its last part. Batches that hold anything unknown are scored as
they are, so that a continued phase ends with the bits of an uninterrupted one; and what is known is told by numbers, so
that one may go on with other batches, on another mesh.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxalign.data.groups import TrainingGroups
from jaxalign.errors import Interrupted
from jaxalign.hosts.group import Hosts

BATCHES = 32
"""Batches of a part: so many are scored again after a crash, at most; an ordered stop commits what there is."""

Batches = Callable[[Bool[np.ndarray, " g"]], Iterator[tuple[Int[np.ndarray, " b"], Float[np.ndarray, "b r"]]]]
"""(known) → numbers of groups and their sums, one batch after another, but those whose groups are all `known`."""


@dataclass(frozen=True)
class Scored:
    """Log-prob sums (nats) under policy `policy` of the groups with these numbers: one process's share of a part."""

    policy: int
    numbers: Int[np.ndarray, " k"]
    sums: Float[np.ndarray, "k r"]


@dataclass(frozen=True)
class ReferenceLogps:
    """Stored log-prob sums (nats) of the iteration's groups, one table for each reference role."""

    roles: tuple[str, ...]
    sums: Float[np.ndarray, "k g r"]

    def columns(self) -> dict[str, Float[np.ndarray, "g r"]]:
        """The table [g r] of each role, by its name."""
        return dict(zip(self.roles, self.sums, strict=True))


@runtime_checkable
class Kept(Protocol):
    """Where parts are committed: a run's parts of a phase."""

    @property
    def hosts(self) -> Hosts: ...
    def kept(self, kind: type[Scored]) -> list[tuple[Scored, ...]]: ...
    def put(self, k: int, value: Scored, kind: type[Scored]) -> tuple[Scored, ...]: ...


class Table:
    """The sums of all `groups` under policy `policy`, of those that are `known`."""

    def __init__(self, policy: int, groups: TrainingGroups, kept: Kept):
        self._policy, self._parts = policy, kept
        self.sums = np.zeros((len(groups), groups.responses), np.float32)
        self.known, self._count = np.zeros(len(groups), bool), 0
        for part in kept.kept(Scored):
            self._add(part)

    def fill(
        self, batches: Batches, told: Callable[[int], None], stop_requested: Callable[[], bool]
    ) -> Float[np.ndarray, "g r"]:
        """Scores and commits what is not known yet. `told` hears the groups done after each batch. Raises Interrupted
        after one when a stop is requested, with all that is scored committed."""
        waiting: list[Scored] = []
        seen = self.known.copy()
        for numbers, sums in batches(self.known.copy()):
            waiting.append(Scored(self._policy, numbers, sums))
            seen[numbers] = True
            scored = int(seen.sum())
            told(scored)
            stopping = stop_requested()
            if stopping or len(waiting) == BATCHES or scored == len(self.sums):
                self._commit(waiting)
                waiting = []
            if stopping and scored < len(self.sums):
                raise Interrupted(
                    f"stopped after {scored} groups scored by policy {self._policy}; the same command continues there"
                )
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
                self.known[share.numbers] = True
