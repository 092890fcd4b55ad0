"""Judges with a scope: what a judge needs to open on a machine, and how whatever it is gets opened.

A pure oracle is called as it is. One that holds weights (or connections) is a frozen description of settings until it
is opened, and holds them until its scope closes: between two judgings the memory is the policy's.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from jaxalign.contracts.oracle import check_objectives
from jaxalign.mesh.flags import Options
from jaxalign.mesh.sharding import Rules
from jaxalign.types import Combiner, Oracle, Preferences, Rollouts

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Site:
    """Devices to open judges on: a mesh, how arrays are split over it, what programs are compiled with.

    `rows` are read together, over all devices. Where several processes have a mesh, each opens the same judges.
    """

    mesh: jax.sharding.Mesh
    rules: Rules
    options: Options | None
    rows: int
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` gave the first time it was asked for by `key`: a judge that is opened every iteration reads its
        tokenizer and compiles its programs once. Nothing that lies on a device belongs here."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


@runtime_checkable
class Named(Protocol):
    """An oracle whose annotators are known before it has answered anything."""

    @property
    def names(self) -> tuple[str, ...]: ...


@runtime_checkable
class OpenableOracle(Named, Protocol):
    """An oracle that answers inside a scope only. Raises what is wrong with its files when it is opened."""

    def open(self, site: Site) -> AbstractContextManager[Oracle]: ...


def check_annotators(oracle: Oracle | OpenableOracle, combiner: Combiner) -> None:
    """Raises ConfigError where the oracle is known to have other annotators than the combiner has objectives, before
    it has answered anything."""
    if isinstance(oracle, Named):
        check_objectives(type(oracle).__name__, oracle.names, combiner.objectives)


@runtime_checkable
class Together(Protocol):
    """An open oracle whose programs run on the devices of several processes. All of them ask in step, about the same
    rollouts; each wants what is said of the prompts numbered `own`, often a few of these and at times none."""

    def among(self, rollouts: Rollouts, own: Int[np.ndarray, " k"], key: PRNGKeyArray) -> Preferences: ...


@contextmanager
def opened(oracle: Oracle | OpenableOracle, site: Site) -> Iterator[Oracle]:
    """What answers in place of `oracle` inside the scope: the oracle itself if it needs none."""
    if isinstance(oracle, OpenableOracle):
        with oracle.open(site) as judge:
            yield judge
    else:
        yield oracle
