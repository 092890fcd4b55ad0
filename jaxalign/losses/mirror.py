"""Losses that solve a regularised game: on pairs from the policy, their minimiser is one step of mirror descent.

    π′ ∝ π^(1 − step·tau) anchor^(step·tau) exp(step · P(· ≻ π))

Certificates (`games.certificates`) and figures of learners speak of `step` and `tau`; each loss says its own.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxalign.contracts.scores import ScoreLoss
from jaxalign.types import Loss


@dataclass(frozen=True)
class MirrorStep:
    """One step on the game of payoff P with the KL to the anchor as its regulariser."""

    step: float
    """step size, > 0: COMAL's eta, the inverse of what multiplies the KL to the policy that sampled"""
    tau: float
    """what multiplies the KL to the anchor, >= 0"""

    @property
    def regularised(self) -> bool:
        """Whether the anchor pulls at all: without it no inner game has a solution of its own to be certified."""
        return self.tau > 0


@runtime_checkable
class Mirroring(Protocol):
    """A loss that takes such a step."""

    @property
    def mirror(self) -> MirrorStep: ...


@runtime_checkable
class Closing(Protocol):
    """A loss that can take the whole step to the regularised best response, where step · tau = 1 and nothing is left of
    π: `closing` is the loss that does."""

    @property
    def closing(self) -> Loss: ...


def mirror_step(loss: Loss | ScoreLoss) -> MirrorStep | None:
    """The step that the loss takes; None for losses that take another kind."""
    return loss.mirror if isinstance(loss, Mirroring) else None
