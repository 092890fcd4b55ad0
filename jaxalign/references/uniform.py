"""No reference: every text is as likely as any other under the anchor. TRL's `reference_free`.

    log π_anchor(y) = 0

The constant does not matter to losses that compare answers: theirs is the objective with an entropy bonus in place of
the KL, for DPO the loss of CPO without its likelihood.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from jaxalign.references.of_run import OfRun


@dataclass(frozen=True)
class Uniform:
    """The anchor's log-probs are 0 and cost nothing; those of other references are stored."""

    outside: ClassVar[tuple[OfRun, ...]] = ()
    scheduled: ClassVar[bool] = False
    normalised: ClassVar[bool] = False

    def stored(self, needs: Iterable[str]) -> tuple[str, ...]:
        """Roles whose log-probs are stored: all that the loss needs."""
        return tuple(needs)

    def live(self, needs: Iterable[str]) -> tuple[str, ...]:
        """Roles whose parameters enter the step: none."""
        del needs
        return ()

    def members(self, anchors: Sequence[int]) -> tuple[int, ...]:
        """Nobody."""
        del anchors
        return ()

    def blend(self, sums: Float[np.ndarray, "k g r"]) -> Float[np.ndarray, "g r"]:
        """Zeros."""
        return np.zeros(sums.shape[1:])


EXAMPLE = Uniform()
