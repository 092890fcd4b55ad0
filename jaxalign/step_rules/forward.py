"""A step an iteration, from the policy that spoke: what every method takes that does not look ahead."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Forward:
    """From policy i to policy i + 1, by what is said of the answers of policy i."""

    period: ClassVar[int] = 1

    def origin(self, iteration: int) -> int:
        return iteration


EXAMPLE = Forward()
