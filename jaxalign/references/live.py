"""Live references: their parameters sit beside the policy's, sharded alike, and are evaluated inside the step.

Nothing is stored and every epoch can see fresh rows; each reference costs its parameters in memory and a forward pass
a step.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Live:
    """Reference log-probs are computed in the step from live parameters."""

    def stored(self, needs: Iterable[str]) -> tuple[str, ...]:
        """Roles whose log-probs are stored: none."""
        del needs
        return ()

    def live(self, needs: Iterable[str]) -> tuple[str, ...]:
        """Roles whose parameters enter the step: all that the loss needs."""
        return tuple(needs)


EXAMPLE = Live()
