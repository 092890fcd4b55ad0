"""Where an iteration's training groups come from: the contracts of feedback.

    Feedback   what: prompts that the policy answers and an oracle judges, or pairs that people have judged already.
               Opened on a machine it is a Comparer
    Comparer   (phases, iteration, policy) → Compared
    Compared   the groups that the iteration trains on, and what else is known of them
    Phases     what a comparer is lent of the run: artifacts that are committed once, answers and judgements in parts

The outer loop, the fit and the scorer of references see nothing but what is `Compared`, so they are the same for
answers of the policy and for pairs on disk.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import GenericAlias
from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import PRNGKeyArray

from jaxalign.contracts.scope import OpenableOracle
from jaxalign.data.groups import TrainingGroups
from jaxalign.data.trained import as_trained
from jaxalign.machine import Machine
from jaxalign.mesh.program import Program
from jaxalign.models.model import Model
from jaxalign.rollouts.contract import Roller
from jaxalign.storage.inputs import Input
from jaxalign.storage.rundir import Iteration
from jaxalign.training.row_rule import RowRule
from jaxalign.training.rows import Sizes
from jaxalign.types import Labels, Metrics, Oracle, Params, Preferences, Prompt, Rollouts

T = TypeVar("T")


@dataclass(frozen=True)
class Compared:
    """What an iteration trains on. `rollouts` and `preferences` are None where nobody sampled and nobody judged, and
    `metrics` say what the data say of themselves before the fit. Groups that are made like the others are left out of
    it, None where all are trained on: `unseen` ones, to tell whether it lowers its own objective, and `validation`
    ones, to evaluate it on inside: they choose its step and so flatter it."""

    groups: TrainingGroups
    rollouts: Rollouts | None
    preferences: Preferences | None
    metrics: Metrics
    unseen: TrainingGroups | None = None
    validation: TrainingGroups | None = None

    def fitted_by(self, loss: object) -> "Compared":
        """The same, with all that a fit of `loss` reads beside each group, in those that are left out of it too."""

        def made(left_out: TrainingGroups | None) -> TrainingGroups | None:
            return None if left_out is None else as_trained(loss, left_out, self.groups)

        groups, unseen, validation = as_trained(loss, self.groups), made(self.unseen), made(self.validation)
        return replace(self, groups=groups, unseen=unseen, validation=validation)

    def within(self, rows: RowRule) -> "Compared":
        """The same without groups that such rows do not hold, which are counted."""
        groups, left_out = rows.within(self.groups)
        told = {} if left_out is None else {"groups/too_long": float(left_out)}
        return replace(self, groups=groups, metrics={**self.metrics, **told})


@runtime_checkable
class Phases(Protocol):
    """A run, to whoever makes artifacts in it. Called on all processes alike."""

    @property
    def machine(self) -> Machine: ...

    def phase(self, iteration: Iteration, name: str, kind: type[T] | GenericAlias, make: Callable[[], T]) -> T:
        """The committed artifact of a phase, made and committed first if it is not there yet."""
        ...

    def roll(
        self,
        roller: Roller,
        policy: Params,
        prompts: tuple[Prompt, ...],
        iteration: Iteration,
        phase: str,
        key: PRNGKeyArray,
    ) -> Rollouts:
        """The policy's answers, committed piece by piece as parts of a phase."""
        ...

    def anchor_policy(self, iteration: int, policy: Params) -> Params:
        """The policy that anchors an iteration which begins with `policy`."""
        ...

    def judge(self, oracle: Oracle | OpenableOracle, rollouts: Rollouts, iteration: int) -> Preferences:
        """What `oracle` says of an iteration's rollouts: opened, checked, committed block by block and shared by all
        processes."""
        ...


@runtime_checkable
class Comparer(Protocol):
    """Feedback, opened on a machine."""

    @property
    def inputs(self) -> Sequence[Input]:
        """What was read from outside the run's directory."""
        ...

    @property
    def roles(self) -> tuple[str, ...]:
        """The references that a loss may ask for: "anchor", and "last" where the policy sampled what is compared."""
        ...

    @property
    def labels(self) -> Labels:
        """Labels of two groups with the columns that those of all groups have; values say nothing."""
        ...

    @property
    def heldout(self) -> TrainingGroups | None:
        """Pairs that are never trained on; None where there are none."""
        ...

    @property
    def size(self) -> int:
        """Prompts that there are."""
        ...

    def first(self, count: int) -> tuple[Prompt, ...]:
        """The first prompts that are trained on, none twice."""
        ...

    def check(self) -> None:
        """DataError naming everything that could not be trained on, before any compute."""
        ...

    def __call__(self, phases: Phases, iteration: int, policy: Params) -> Compared:
        """What iteration `iteration`, which begins with `policy`, trains on."""
        ...


@runtime_checkable
class Feedback(Protocol):
    """Where an iteration's training groups come from."""

    @property
    def oracle(self) -> Oracle | OpenableOracle | None:
        """Who prefers what; None where people have said it before."""
        ...

    @property
    def responses(self) -> int:
        """Responses of each group: two of a pair, one where answers are lone."""
        ...

    @property
    def holds_out(self) -> bool:
        """Whether there are groups that are never trained on, to measure policies by."""
        ...

    @property
    def validates(self) -> bool:
        """Whether there are groups to evaluate a fit on inside."""
        ...

    def sizes(self, model: Model) -> Sizes:
        """The longest prompts and responses that are trained on, tokens."""
        ...

    def count(self, machine: Machine, together: int = 1) -> int | None:
        """Units of up to so many groups of one prompt that an iteration trains on, at most; None where only the data
        can tell and they are not here."""
        ...

    def apart(self, machine: Machine, together: int = 1) -> Mapping[str, int | None]:
        """Units of groups that are not trained on, counted likewise, by what they are for: "validation" and "unseen"
        ones of every iteration, "heldout" ones of the whole run. Those that there are."""
        ...

    def programs(self, machine: Machine) -> tuple[Program, ...]:
        """What is compiled to make an iteration's groups, from shapes alone."""
        ...

    def calls(self, machine: Machine) -> Mapping[str, int]:
        """How often each of these programs, by name, is called in an iteration."""
        ...

    def open(self, machine: Machine, cache: pathlib.Path, iterations: int) -> Comparer:
        """Reads what `iterations` iterations need, converted below `cache` unless it is there. DataError for what
        cannot be read."""
        ...
