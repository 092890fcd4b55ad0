"""Where an iteration's fit begins and steps from: at the policy that spoke, or at one before it."""

from typing import ClassVar, Protocol, runtime_checkable


@runtime_checkable
class StepRule(Protocol):
    """How iterations make steps of the game."""

    period: ClassVar[int]
    """iterations that make one step, >= 1; an anchor is swapped between steps"""

    def origin(self, iteration: int) -> int:
        """Number, at most `iteration`, of the policy that the fit of iteration `iteration` begins with and the loss
        calls `last`. Answers are those of policy `iteration`, whichever it is."""
        ...
