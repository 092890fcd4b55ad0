"""Groups with a stray: beside the answers to its prompt each has one that answers another prompt.

What a policy makes of answers that have nothing to do with the prompt tells how far it has moved altogether, without
sampling from it: the estimate of a KL that KTO takes (Ethayarajh et al. 2024, arXiv 2402.01306, §4.1). The stray is one
more branch of the row, so the prompt is read once for both.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int, Shaped

from jaxalign.contracts.extras import extras_of
from jaxalign.data.groups import Taken, TrainingGroups, Wrapped
from jaxalign.errors import DataError


@dataclass(frozen=True)
class Strayed(Wrapped):
    """The groups, each with the first answer of the next group that has another prompt; where all have one prompt, with
    that of the first group `beside` them, which has another."""

    beside: TrainingGroups | None = None

    @property
    def responses(self) -> int:
        return self.groups.responses + 1

    @cached_property
    def lengths(self) -> Int[np.ndarray, "g r"]:
        return np.concatenate([self.groups.lengths, self.sources.lengths[self.others, :1]], axis=1)

    @cached_property
    def answers(self) -> Int[np.ndarray, "g r"]:
        return np.concatenate([self.groups.answers, self.sources.answers[self.others, :1]], axis=1)

    @cached_property
    def sources(self) -> TrainingGroups:
        """Whose answers stray: the groups' own unless all have one prompt."""
        prompts = np.asarray(self.groups.prompts)
        alike = bool((prompts == prompts[:1]).all())
        return self.beside if alike and self.beside is not None else self.groups

    @cached_property
    def others(self) -> Int[np.ndarray, " g"]:
        """Numbers of the `sources` that each group's stray comes from. Raises DataError where there is none."""
        prompts = np.asarray(self.groups.prompts)
        if self.sources is not self.groups:
            return np.zeros(len(prompts), np.int64)
        starts = np.flatnonzero(prompts[1:] != prompts[:-1]) + 1
        if not len(starts):
            raise DataError("all groups have one prompt: there is no answer to another one to tell a KL by")
        behind = np.searchsorted(starts, np.arange(len(prompts)), side="right")
        # Behind the last prompt comes the first one again, or the second where the last is the first.
        around = np.where(prompts != prompts[0], 0, starts[0])
        return np.where(behind < len(starts), starts[np.minimum(behind, len(starts) - 1)], around)

    def take(self, numbers: Int[np.ndarray, " b"]) -> Taken:
        own, other = self.groups.take(numbers), self.sources.take(self.others[numbers])
        return Taken(
            prompt=own.prompt,
            prompt_lengths=own.prompt_lengths,
            tokens=_beside(own.tokens, other.tokens),
            lengths=np.concatenate([own.lengths, other.lengths[:, :1]], axis=1),
            weight=own.weight,
            labels=own.labels,
            logps=None if own.logps is None or other.logps is None else _beside(own.logps, other.logps),
        )


def _beside(own: Shaped[np.ndarray, "b r t"], other: Shaped[np.ndarray, "b r u"]) -> Shaped[np.ndarray, "b k w"]:
    """What is known of the tokens of the groups' responses, and of the first of the others behind them."""
    width = max(own.shape[2], other.shape[2])
    tables = [np.pad(each, ((0, 0), (0, 0), (0, width - each.shape[2]))) for each in (own, other[:, :1])]
    return np.concatenate(tables, axis=1)


def check_strays(loss: object, groups: TrainingGroups, field: str) -> None:
    """Raises DataError, naming the `field` that the groups are of, where `loss` reads strays and they have none."""
    if "stray" not in extras_of(loss):
        return
    try:
        _ = Strayed(groups).others
    except DataError as error:
        raise DataError(f"{field}: {error}") from error
