"""What an eval sees: held-out prompts, every policy's answers to them, the oracle, and log-probs on demand."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxalign.errors import ConfigError
from jaxalign.evals.side_by_side import joint_preferences
from jaxalign.training.pair_scores import PairScores
from jaxalign.types import Metrics, Oracle, Preferences, Prompt, Rollouts

TRAINER = "the oracle of training"
"""What it said, among the answers by opponents; no policy has this name."""


@dataclass(frozen=True)
class HeldOut:
    """`responses` by `iterate_name` in the order of the iterates; the last one is evaluated.

    Names and responses of the same b prompts. `judge` is who prefers what, None where nobody does. `score(policy,
    rollouts)` makes that policy's log-prob sums [b m] in nats. `trainer` is who preferred what in training, None where
    that is the judge itself or nobody. `pairs` are what the evaluated policy makes of held-out pairs, None where there
    are none. `others` are answers of policies of other runs, by `other_name`, or those of a pool, by its names
    (`evals.pool`), which go before responses of the same name. Evals share what costs a pass through a model: it is
    asked for once.
    """

    prompts: tuple[Prompt, ...]
    responses: Mapping[str, Rollouts]
    judge: Oracle | None
    score: Callable[[str, Rollouts], Float[np.ndarray, "b m"]]
    key: PRNGKeyArray
    trainer: Oracle | None = None
    pairs: PairScores | None = None
    others: Mapping[str, Rollouts] = field(default_factory=dict)
    _asked: dict[str, Preferences] = field(default_factory=dict, repr=False, compare=False)
    _scored: dict[str, Float[np.ndarray, "b m"]] = field(default_factory=dict, repr=False, compare=False)

    def logps(self, who: str) -> Float[np.ndarray, "b m"]:
        """Log-prob sums (nats) of the evaluated policy's answers under policy `who`."""
        if who not in self._scored:
            self._scored[who] = self.score(who, self.current)
        return self._scored[who]

    def preferences(self, opponent: str) -> Preferences:
        """Among the answers of the evaluated policy and of the policy `opponent`, in this order along m. Asked once,
        however many evals want to know."""
        if opponent not in self._asked:
            pair = (self.current, self.answers(opponent))
            self._asked[opponent] = joint_preferences(self.oracle, pair, self.key)
        return self._asked[opponent]

    def answers(self, name: str) -> Rollouts:
        """A policy's answers, of this run or of another."""
        return self.others[name] if name in self.others else self.responses[name]

    def by_trainer(self) -> Preferences:
        """What the oracle of training says of the evaluated policy's answers and the base's."""
        if self.trainer is None:
            raise ConfigError("an eval asks for the oracle of training and there is none: say so in its `needs`")
        if TRAINER not in self._asked:
            pair = (self.current, self.responses[self.names[0]])
            self._asked[TRAINER] = joint_preferences(self.trainer, pair, self.key)
        return self._asked[TRAINER]

    @property
    def oracle(self) -> Oracle:
        """Who prefers what. An eval that asks says so in its `needs`, and then there is one."""
        if self.judge is None:
            raise ConfigError("an eval asks for an oracle and there is none: say so in its `needs`")
        return self.judge

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.responses)

    @cached_property
    def current(self) -> Rollouts:
        """The evaluated policy's responses."""
        return self.responses[self.names[-1]]

    def opponent(self, role: str) -> str | None:
        """As `in_role`, of these policies."""
        return in_role(role, self.names)


@runtime_checkable
class Eval(Protocol):
    """HeldOut → {metric: value}. Pure. `needs` names what it asks of the context that not every experiment has:
    "answers" of the policies to held-out prompts, an "oracle", "users" (an oracle who says the same of two answers
    whatever else there is), a "trainer" who is another judge, "pairs" (or lone answers) that are held out, "log_odds"
    of them: what outputs of a score model are where `Compares`."""

    needs: ClassVar[tuple[str, ...]]

    def __call__(self, context: HeldOut) -> Metrics: ...


@runtime_checkable
class Asks(Protocol):
    """An eval that asks the oracle, and says about what before there are answers: for plans."""

    def asks(self, names: Sequence[str], others: Sequence[str]) -> Iterable[tuple[str, ...]]:
        """Policies whose answers are compared side by side when the last of `names` is evaluated; `others` are those of
        other runs. What several evals ask is asked once."""
        ...


@runtime_checkable
class Against(Protocol):
    """An eval of the evaluated policy against others, by their roles (`in_role`)."""

    @property
    def against(self) -> tuple[str, ...]: ...


def in_role(role: str, names: Sequence[str]) -> str | None:
    """Name of the policy in a role: "base" is the first, "previous" the one before the last, else a name.

    None when there is none yet: the base has no previous policy, and a named iterate may lie ahead.
    """
    if role == "base":
        return names[0]
    if role == "previous":
        return names[-2] if len(names) > 1 else None
    return role if role in names else None


def iterate_name(iterate: int) -> str:
    """How evals and tables call policy `iterate`: "base", "iterate-1", …"""
    return f"iterate-{iterate}" if iterate else "base"


def other_name(index: int) -> str:
    """How evals call the policies of other runs: "other-1", "other-2", …"""
    return f"other-{index + 1}"


def iterate_number(name: str) -> int | None:
    """The iterate that `iterate_name` calls so; None for what is no such name."""
    digits = name.removeprefix("iterate-")
    number = int(digits) if digits.isdecimal() else 0
    return number if iterate_name(number) == name else None


def evenly(names: Sequence[str], most: int) -> tuple[str, ...]:
    """The first, the last and others evenly between, `most` at most; of one, the last."""
    if most == 1:
        return tuple(names[-1:])
    at = np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int))
    return tuple(names[index] for index in at)


def role_problems(roles: tuple[str, ...]) -> Iterable[str]:
    """What is wrong with a list of opponents."""
    if not roles:
        yield "against must name at least one policy: base, previous or iterate-N"
    for role in roles:
        if role != "previous" and iterate_number(role) is None:
            yield f"against must name base, previous or iterate-N, got {role!r}"


def opposing(names: Sequence[str], others: Iterable[str], earlier: int) -> tuple[str, ...]:
    """Who opposes the last of `names`: at most so many of the policies before it, and all of other runs."""
    return (*evenly(names[:-1], earlier), *others)
