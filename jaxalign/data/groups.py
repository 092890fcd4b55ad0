"""Training groups by number: what rows are packed from, wherever the tokens lie.

The fit, the scorer of references and the packer ask for groups by their numbers and for nothing else, so that the same
code trains on rollouts in memory and on a store on disk, and what they hold does not grow with the data.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxalign.errors import DataError
from jaxalign.types import Groups, Labels, Rollouts, pytree


@pytree
class Taken:
    """Some b groups of r responses each, chosen first: token ids, right-padded beyond their lengths, and what is said
    of them. `weight` is a group's share in the loss before normalisation, `features` what a frozen trunk makes of the
    last token of each response, where that is known, `logps` the log-probs by token that the policy which sampled them
    has logged, and `edited` the ids of tokens in which a pair's answers differ, -1 elsewhere: where they are asked
    for."""

    prompt: Int[np.ndarray, "b p"]
    prompt_lengths: Int[np.ndarray, " b"]
    tokens: Int[np.ndarray, "b r t"]
    lengths: Int[np.ndarray, "b r"]
    weight: Float[np.ndarray, " b"]
    labels: Labels
    features: Float[np.ndarray, "b r d"] | None = None
    logps: Float[np.ndarray, "b r t"] | None = None
    edited: Int[np.ndarray, "b r t"] | None = None


@runtime_checkable
class TrainingGroups(Protocol):
    """g groups of `responses` responses each. Read by several threads, and by each host for the rows of its devices."""

    @property
    def responses(self) -> int:
        """r, of every group."""
        ...

    @property
    def prompts(self) -> Int[np.ndarray, " g"]:
        """A number for every group's prompt: groups of one prompt say much the same."""
        ...

    @property
    def prompt_lengths(self) -> Int[np.ndarray, " g"]:
        """Tokens of every group's prompt, known without reading it."""
        ...

    @property
    def lengths(self) -> Int[np.ndarray, "g r"]:
        """Tokens of every response."""
        ...

    @property
    def answers(self) -> Int[np.ndarray, "g r"]:
        """A number for every response: equal ones are the same answer to the same prompt."""
        ...

    def __len__(self) -> int: ...

    def take(self, numbers: Int[np.ndarray, " b"]) -> Taken:
        """The groups numbered so, in that order; the arrays are as wide as the longest of them or wider."""
        ...


@dataclass(frozen=True)
class RolledGroups:
    """Groups of responses that were rolled out, with their log-probs where `logged`."""

    rollouts: Rollouts
    groups: Groups
    logged: bool = False

    @property
    def responses(self) -> int:
        return self.groups.responses.shape[1]

    @property
    def prompts(self) -> Int[np.ndarray, " g"]:
        return self.groups.prompt

    @cached_property
    def prompt_lengths(self) -> Int[np.ndarray, " g"]:
        return self.rollouts.prompt_lengths[self.groups.prompt]

    @cached_property
    def lengths(self) -> Int[np.ndarray, "g r"]:
        return self.rollouts.lengths[self.groups.prompt[:, None], self.groups.responses]

    @cached_property
    def answers(self) -> Int[np.ndarray, "g r"]:
        """The first of a prompt's responses of the same tokens stands for all of them."""
        prompt, lengths = self.groups.prompt[:, None], self.rollouts.lengths
        said = np.arange(self.rollouts.tokens.shape[2]) < lengths[:, :, None]
        tokens = np.where(said, self.rollouts.tokens, -1)
        first = np.array([_first_alike(each) for each in tokens], np.int64).reshape(lengths.shape)
        return prompt * lengths.shape[1] + first[prompt, self.groups.responses]

    def __len__(self) -> int:
        return len(self.groups.prompt)

    def take(self, numbers: Int[np.ndarray, " b"]) -> Taken:
        rollouts, groups = self.rollouts, jax.tree.map(lambda column: column[numbers], self.groups)
        prompt, responses = groups.prompt, groups.responses
        lengths = rollouts.lengths[prompt[:, None], responses]
        # Cut before it is gathered: a table is as wide as answers may be, which most are far from.
        said, width = (prompt[:, None], responses), lengths.max(initial=0)
        return Taken(
            prompt=rollouts.prompt_tokens[prompt],
            prompt_lengths=rollouts.prompt_lengths[prompt],
            tokens=rollouts.tokens[:, :, :width][said],
            lengths=lengths,
            weight=groups.weight,
            labels=groups.labels,
            logps=rollouts.logps[:, :, :width][said] if self.logged else None,
        )


def with_logps(groups: TrainingGroups) -> TrainingGroups:
    """The same groups, with what the policy logged while it sampled them. DataError where they are no rollouts."""
    if not isinstance(groups, RolledGroups):
        raise DataError(f"fit.max_kl reads log-probs that the policy logged, and {type(groups).__name__} have none")
    return replace(groups, logged=True)


def _first_alike(rows: Int[np.ndarray, "m t"]) -> Int[np.ndarray, " m"]:
    """For each row the number of the first that is equal."""
    _, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first[which.reshape(-1)]


@dataclass(frozen=True)
class Wrapped:
    """Other groups, in all that a subclass does not say of itself."""

    groups: TrainingGroups

    @property
    def responses(self) -> int:
        return self.groups.responses

    @property
    def prompts(self) -> Int[np.ndarray, " g"]:
        return self.groups.prompts

    @property
    def prompt_lengths(self) -> Int[np.ndarray, " g"]:
        return self.groups.prompt_lengths

    @property
    def lengths(self) -> Int[np.ndarray, "g r"]:
        return self.groups.lengths

    @property
    def answers(self) -> Int[np.ndarray, "g r"]:
        return self.groups.answers

    def __len__(self) -> int:
        return len(self.groups)

    def take(self, numbers: Int[np.ndarray, " b"]) -> Taken:
        return self.groups.take(numbers)


@dataclass(frozen=True)
class PickedGroups:
    """Those of some groups that have these numbers, numbered anew in that order."""

    groups: TrainingGroups
    numbers: Int[np.ndarray, " n"]

    @property
    def responses(self) -> int:
        return self.groups.responses

    @cached_property
    def prompts(self) -> Int[np.ndarray, " n"]:
        return self.groups.prompts[self.numbers]

    @cached_property
    def prompt_lengths(self) -> Int[np.ndarray, " n"]:
        return self.groups.prompt_lengths[self.numbers]

    @cached_property
    def lengths(self) -> Int[np.ndarray, "n r"]:
        return self.groups.lengths[self.numbers]

    @cached_property
    def answers(self) -> Int[np.ndarray, "n r"]:
        return self.groups.answers[self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, numbers: Int[np.ndarray, " b"]) -> Taken:
        return self.groups.take(self.numbers[numbers])


def one_group_a_prompt(rollouts: Rollouts) -> RolledGroups:
    """Groups that hold all m responses of each prompt, unlabelled."""
    count, samples = rollouts.lengths.shape
    groups = Groups(
        prompt=np.arange(count),
        responses=np.tile(np.arange(samples), (count, 1)),
        weight=np.ones(count, np.float32),
        labels=Labels.unsaid(count, samples),
    )
    return RolledGroups(rollouts, groups)
