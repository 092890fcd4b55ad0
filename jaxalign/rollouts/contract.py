"""What is asked of a policy, and how it is computed: the contracts of rollouts and of their engines.

    Rollout         what: so many answers of such a length, drawn so. Opened on a model and a mesh it is a Roller
    Roller          (params, prompts, wanted, keys) → a stream of shares, which a run commits one by one
    RolloutEngine   how: the order and company in which tokens are drawn. Opened for a Task it is a Drawer
    Drawer          (params, prompts' tokens, wanted, keys) → a stream of drawn tokens

Streams are lazy: a piece is computed when it is asked for, and nothing is computed of prompts that are not wanted
(theirs are committed already, maybe cut into other pieces by another mesh). So a run stops between two pieces and goes
on behind the last, and neither knows of the other. An engine that keeps its rows busy across prompts gives a piece
whenever some prompts are finished, one that asks a server whenever answers have come.

`keys` is one key for all prompts, to be folded with their numbers, or one for each (see `keys`).

Several processes call a stream with the same arguments and in step. Each yields as many pieces as the others, with the
prompts that it alone has of each piece: often none, rarely all.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxalign.mesh.flags import Options
from jaxalign.mesh.program import Program
from jaxalign.models.speaker import Speaker
from jaxalign.rollouts.keys import Keys
from jaxalign.rollouts.shares import Share
from jaxalign.types import Params, Prompt, Sampler


@dataclass(frozen=True)
class Bounds:
    """The most that a rollout asks of a model."""

    samples: int
    """answers to each prompt"""
    prompt: int
    """tokens of a prompt"""
    response: int
    """tokens of an answer, its end-of-turn token included"""
    vocab: int
    """different tokens"""


@runtime_checkable
class Planned(Protocol):
    """What is known of the programs beforehand; nothing where another machine runs them."""

    def programs(self, params: Params, prompt: int) -> tuple[Program, ...]:
        """Those that roll out prompts of at most `prompt` tokens, from shapes and places of the parameters."""
        ...

    def calls(self, prompts: int) -> Mapping[str, int]:
        """How often each of them, by name, is called for so many prompts."""
        ...


@runtime_checkable
class Roller(Planned, Protocol):
    """A rollout of one model on one mesh; programs are compiled once."""

    @property
    def bounds(self) -> Bounds: ...

    def check(self, prompts: Iterable[Prompt]) -> None:
        """DataError naming every prompt that cannot be answered."""
        ...

    def __call__(
        self, params: Params, prompts: Sequence[Prompt], wanted: Int[np.ndarray, " k"], keys: Keys
    ) -> Iterator[Share]:
        """Answers to the prompts numbered `wanted`, each once, in any order; see the module's docstring."""
        ...


@runtime_checkable
class AnchoredRoller(Roller, Protocol):
    """A roller whose answers are not the policy's alone: the anchor has a part in them."""

    def beside(self, anchor: Params) -> Roller:
        """The same, with this anchor; without one, with the policy itself in its place."""
        ...


@runtime_checkable
class Rollout(Protocol):
    """How a policy answers prompts."""

    def bounds(self, model: Speaker) -> Bounds:
        """The most that is asked of `model`."""
        ...

    def unpaired(self) -> Iterable[str]:
        """Sentences on why answers to one prompt could never be compared: there is one, or all are equal."""
        ...

    def on(self, model: Speaker, mesh: jax.sharding.Mesh, options: Options | None, rows: int) -> Roller:
        """Ready to roll out `model` on `mesh`, about `rows` answers together, with programs compiled by `options`."""
        ...


@runtime_checkable
class AnchoredRollout(Rollout, Protocol):
    """A `rollout` of the policy and its anchor, together or each; opened it is an AnchoredRoller."""

    @property
    def rollout(self) -> Rollout: ...


# ----------------------------------------------------------------------------------------------------------------------
# Engines


@dataclass(frozen=True)
class Task:
    """What is drawn: `samples` responses of at most `limit` tokens to each prompt, by `sampler`.

    A response ends with a token of `stop`. Token i of sample j of prompt n has the key folded with n, j and i in that
    order (prompt n's own key with j and i, where each has one), so what is drawn depends neither on the engine nor on
    who is decoded together.
    """

    samples: int
    limit: int
    sampler: Sampler
    stop: tuple[int, ...]


@dataclass(frozen=True)
class Drawn:
    """What one process has of a piece: responses to the prompts with these numbers; see `Rollouts` for the columns.

    `notes` are what is to be known of the drawing, a number a response by name; the run logs their means.
    """

    numbers: Int[np.ndarray, " b"]
    tokens: Int[np.ndarray, "b m t"]
    lengths: Int[np.ndarray, "b m"]
    finished: Bool[np.ndarray, "b m"]
    logps: Float[np.ndarray, "b m t"]
    notes: Mapping[str, Float[np.ndarray, "b m"]] = field(default_factory=dict)


@runtime_checkable
class Drawer(Planned, Protocol):
    """An engine, opened for a task."""

    def __call__(
        self, params: Params, prompts: Sequence[Sequence[int]], wanted: Int[np.ndarray, " k"], keys: Keys
    ) -> Iterator[Drawn]:
        """Responses to the prompts numbered `wanted`, each once, in any order; see the module's docstring."""
        ...


@runtime_checkable
class RolloutEngine(Protocol):
    """The order and company in which tokens are drawn: `open` makes it ready for a task, on a model and a mesh."""

    def open(
        self, task: Task, model: Speaker, mesh: jax.sharding.Mesh, options: Options | None, rows: int
    ) -> Drawer: ...
