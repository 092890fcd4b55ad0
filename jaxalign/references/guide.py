"""A guide as the anchor: a policy that was trained before. Pan et al. 2025 (Pre-DPO, arXiv 2504.15843).

Preferences are optimised once; the result is the reference, in place of the initial policy, of a second optimisation
that starts from the initial policy again. Pairs that the guide tells apart well then weigh more in DPO's gradient from
the first step on.

A guide is cached (`Guide`), or kept live (`LiveGuide`) for losses that read it token by token, and where its columns
would have to be made anew each iteration: it costs the parameters of one policy and a forward pass a step.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from jaxalign.references.cached import all_stored, none_live
from jaxalign.references.of_run import OfRun


@dataclass(frozen=True)
class Guide:
    """The anchor is a policy of another run, at all times; log-probs are stored."""

    guide: OfRun
    """who it is"""

    scheduled: ClassVar[bool] = False
    normalised: ClassVar[bool] = True

    @property
    def outside(self) -> tuple[OfRun, ...]:
        return (self.guide,)

    stored, live = all_stored, none_live

    def members(self, anchors: Sequence[int]) -> tuple[int, ...]:
        """The guide."""
        del anchors
        return (-1,)

    def blend(self, sums: Float[np.ndarray, "k g r"]) -> Float[np.ndarray, "g r"]:
        """The guide's own."""
        return sums[0]


@dataclass(frozen=True)
class LiveGuide:
    """The anchor is a policy of another run, at all times; its parameters sit beside the policy's. Log-probs of other
    references are stored."""

    guide: OfRun
    """who it is"""

    scheduled: ClassVar[bool] = False
    normalised: ClassVar[bool] = True

    @property
    def outside(self) -> tuple[OfRun, ...]:
        return (self.guide,)

    def stored(self, needs: Iterable[str]) -> tuple[str, ...]:
        """Roles whose log-probs are stored: all but the anchor."""
        return tuple(role for role in needs if role != "anchor")

    def live(self, needs: Iterable[str]) -> tuple[str, ...]:
        """Roles whose parameters enter the step: the anchor, if the loss needs it."""
        return tuple(role for role in needs if role == "anchor")

    def members(self, anchors: Sequence[int]) -> tuple[int, ...]:
        """The guide."""
        del anchors
        return (-1,)

    def blend(self, sums: Float[np.ndarray, "k g r"]) -> Float[np.ndarray, "g r"]:
        """The guide's own."""
        return sums[0]


EXAMPLES = (Guide(OfRun("runs/dpo")), LiveGuide(OfRun("runs/dpo")))
