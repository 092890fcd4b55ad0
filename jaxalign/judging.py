"""An oracle at work: opened on a machine, asked about blocks of prompts, each committed before the next is begun.

An hour of judging that is interrupted goes on behind its last block, on one host as on many: a part says which prompts
it holds, so that blocks may have another size after every launch. Of several processes each judges its share of every
block, and all get all preferences. A prompt's preferences are a function of that prompt alone, so they are the same
however prompts are cut into blocks and dealt out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from jaxalign.contracts.oracle import checked
from jaxalign.contracts.scope import OpenableOracle, Site, opened
from jaxalign.errors import BrokenContract
from jaxalign.hosts.group import ALONE, Hosts
from jaxalign.oracles.among import among
from jaxalign.progress import Progress
from jaxalign.rollouts.shares import picked
from jaxalign.types import Metrics, Oracle, Preferences, Rollouts

COMPARISONS = "comparisons"
"""The note of a judge that is asked about pairs: how many. What else it notes is told as a share of them."""

Told = Callable[[int], None]


@dataclass(frozen=True)
class Judged:
    """What one process says of a block: of the prompts with these numbers among all that the phase's `call` asks of."""

    call: int
    numbers: Int[np.ndarray, " k"]
    preferences: Preferences


@runtime_checkable
class Kept(Protocol):
    """Where blocks are committed: a run's parts."""

    @property
    def hosts(self) -> Hosts: ...
    def kept(self, kind: type[Judged]) -> list[tuple[Judged, ...]]: ...
    def put(self, k: int, value: Judged, kind: type[Judged]) -> tuple[Judged, ...]: ...


class Nowhere:
    """Nothing is committed by those who only read a run."""

    hosts = ALONE

    def kept(self, kind: type[Judged]) -> list[tuple[Judged, ...]]:
        return []

    def put(self, k: int, value: Judged, kind: type[Judged]) -> tuple[Judged, ...]:
        return (value,)


def shown(total: int, start: int) -> Progress:
    """Progress on stderr."""
    return Progress("judging", total, "prompts", start=start)


@contextmanager
def judging(
    oracle: Oracle | OpenableOracle,
    site: Site,
    block: int,
    kept: Kept | None = None,
    objectives: int | None = None,
    progress: Callable[[int, int], AbstractContextManager[Told]] = shown,
    between: Callable[[int], None] = lambda done: None,
) -> Iterator["Judging"]:
    """`oracle`, opened and checked: what it answers about `block` prompts is committed to `kept`, which comes first.
    Each process judges its share of every block.

    `progress` shows (prompts in all, those judged before); `between` hears the prompts done after each block and may
    raise. `objectives` as in `checked`.
    """
    with opened(oracle, site) as judge:
        yield Judging(judge, type(oracle).__name__, objectives, block, kept or Nowhere(), progress, between)


class Judging:
    """An oracle in its scope, for one phase of a run; see `judging`. Calls are told apart by their order."""

    def __init__(
        self,
        oracle: Oracle,
        name: str,
        objectives: int | None,
        block: int,
        kept: Kept,
        progress: Callable[[int, int], AbstractContextManager[Told]],
        between: Callable[[int], None],
    ):
        self._oracle, self._name, self._objectives = oracle, name, objectives
        self._block, self._parts = block, kept
        self._progress, self._between = progress, between
        self._kept = kept.kept(Judged)
        self._calls = 0
        self._noted: list[Preferences] = []

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        """The oracle's preferences. Raises what the oracle raises, BrokenContract for answers that do not fit."""
        call, self._calls = self._calls, self._calls + 1
        count = len(rollouts.prompts)
        found = [each for part in self._kept for each in part if each.call == call]
        wanted = np.setdiff1d(np.arange(count), [number for each in found for number in each.numbers])
        with self._progress(count, count - len(wanted)) as progress:
            for start in range(0, len(wanted), self._block):
                block = wanted[start : start + self._block]
                own = np.arange(len(block))[self._parts.hosts.share(len(block))]
                part = Judged(call, block[own], self._judge(picked(rollouts, block), own, key))
                self._kept.append(self._parts.put(len(self._kept), part, Judged))
                found += self._kept[-1]
                done = count - len(wanted) + start + len(block)
                progress(done)
                self._between(done)
        self._noted.append(joined(found, self._name))
        return self._noted[-1]

    def _judge(self, rollouts: Rollouts, own: Int[np.ndarray, " k"], key: PRNGKeyArray) -> Preferences:
        found = among(self._oracle, rollouts, own, key)
        return checked(found, picked(rollouts, own), self._name, self._objectives)

    @property
    def metrics(self) -> Metrics:
        """What the oracle has noted in all calls."""
        return note_metrics(self._noted)


def joined(parts: Sequence[Judged], name: str) -> Preferences:
    """All prompts of the parts in their order. A note that a part has not is 0 there. Raises BrokenContract, by the
    oracle's `name`, where its answers are not of one kind."""
    names = sorted({note for part in parts for note in part.preferences.notes})
    each = []
    for part in parts:
        none = np.zeros(len(part.numbers), np.float32)
        each.append(replace(part.preferences, notes={note: part.preferences.notes.get(note, none) for note in names}))
    kinds = dict.fromkeys(
        (one.annotators, one.weights, "no scores" if one.scores is None else "scores") for one in each
    )
    if len(kinds) > 1:
        listed = " and ".join(map(str, kinds))
        raise BrokenContract(f"oracle {name}: answers must be of one kind for all prompts, got {listed}")
    order = np.argsort(np.concatenate([part.numbers for part in parts]))
    return jax.tree.map(lambda *rows: np.concatenate(rows)[order], *each)


def note_metrics(judged: Iterable[Preferences]) -> Metrics:
    """`judge/<note>`: its sum over all prompts, by comparisons where the judge counts them and else by prompt.

    The notes of a member of a mixture have names of its own, and so its own comparisons: `member/comparisons`.
    """
    sums: dict[str, float] = {}
    prompts = 0
    for preferences in judged:
        prompts += len(preferences.prefer)
        for name, counts in preferences.notes.items():
            sums[name] = sums.get(name, 0.0) + float(counts.sum(dtype=np.float64))

    def share(name: str) -> float:
        member = name.rpartition("/")[0]
        counted = f"{member}/{COMPARISONS}" if member else COMPARISONS
        whole = prompts if name == counted or counted not in sums else sums[counted]
        return sums[name] / whole if whole else 0.0

    return {f"judge/{name}": share(name) for name in sorted(sums)}
