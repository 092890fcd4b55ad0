"""How many responses of a group a loss of log-probs reads: pairs, lone ones, or as many as it says."""

from typing import Protocol, runtime_checkable

from jaxalign.contracts.extras import extras_of
from jaxalign.types import Loss

PAIR, LONE = 2, 1


@runtime_checkable
class ReadsGroups(Protocol):
    """A loss of log-probs that reads groups of so many `responses`; None: however many there are.

    Of a lone response `prefer` is the probability that it is desirable, or its win rate. A loss that says nothing reads
    pairs.
    """

    @property
    def responses(self) -> int | None: ...


def responses_of(loss: Loss) -> int | None:
    """How many responses of a group `loss` reads; None: any number."""
    return loss.responses if isinstance(loss, ReadsGroups) else PAIR


def misfit(loss: Loss, responses: int) -> str | None:
    """Why `loss` cannot read groups of so many responses; None where it can."""
    wanted = responses_of(loss)
    if wanted in (None, responses):
        return None
    return f"reads {named(wanted)}, and the feedback gives {named(responses)}" + remedy(wanted, responses)


def strayed(loss: object, responses: int) -> bool:
    """Whether groups of so many responses hold what `loss` reads and an answer to another prompt besides."""
    return "stray" in extras_of(loss) and isinstance(loss, ReadsGroups) and responses - 1 == loss.responses


def named(responses: int) -> str:
    """Groups of so many responses, for people."""
    return {LONE: "lone answers", PAIR: "pairs"}.get(responses, f"groups of {responses} answers")


def remedy(wanted: int, responses: int) -> str:
    """What a person can do about it."""
    return "; `Alone` around their source takes them apart" if (wanted, responses) == (LONE, PAIR) else ""
