"""No reference: every text is as likely as any other under the anchor. TRL's `reference_free`.

    log π_anchor(y) = 0

The constant does not matter to losses that compare answers: theirs is the objective with an entropy bonus in place of
the KL, for DPO the loss of CPO without its likelihood.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from jaxalign.references.cached import all_stored, none_live
from jaxalign.references.of_run import OfRun


@dataclass(frozen=True)
class Uniform:
    """The anchor's log-probs are 0 and cost nothing; those of other references are stored."""

    outside: ClassVar[tuple[OfRun, ...]] = ()
    scheduled: ClassVar[bool] = False
    normalised: ClassVar[bool] = False

    stored, live = all_stored, none_live

    def members(self, anchors: Sequence[int]) -> tuple[int, ...]:
        """Nobody."""
        del anchors
        return ()

    def blend(self, sums: Float[np.ndarray, "k g r"]) -> Float[np.ndarray, "g r"]:
        """Zeros."""
        return np.zeros(sums.shape[1:])


EXAMPLE = Uniform()
