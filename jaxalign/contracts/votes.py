"""How many annotators a loss reads one by one: as many as it declares, or none where it goes by all together."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class ReadsVotes(Protocol):
    """A loss that reads `Labels.votes` of so many annotators, in their order."""

    @property
    def annotators(self) -> int: ...


def annotators_of(loss: object) -> int:
    """As many columns of votes as its groups must have; 1 of a loss that reads none."""
    return loss.annotators if isinstance(loss, ReadsVotes) else 1
