"""Anchored preference optimisation: which way both answers move is said beforehand. D'Oosterlinck et al. 2024 (APO,
arXiv 2408.06266), eqs. 7 and 8.

    APOZero  loss = 1 − σ(r_w) + σ(r_l)                  chosen up, rejected down
    APODown  loss = σ(r_w) + 1 − σ(r_w − r_l)            both down, rejected more
    APOAlone loss = 1 − σ(r) of a good answer, σ(r) of a bad one
    r = beta log π/π_anchor(y)

Zero is for chosen answers better than the model's own, down for worse ones; alone is zero for answers without another
to be compared with (TRL's `apo_zero_unpaired`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import Array, Float

from jaxalign.losses.margins import expected_over_labels
from jaxalign.losses.parts.absolute_links import BothDown, UpAndDown
from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class APOZero:
    """In [0, 2]: 1 at the anchor, 0 where chosen is surely likelier and rejected surely less likely."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, LogRatio()(logps), UpAndDown(self.beta))


@dataclass(frozen=True)
class APODown:
    """In [0, 2]: 1 at the anchor, 0 where both are surely less likely and rejected far less than chosen."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, LogRatio()(logps), BothDown(self.beta))


@dataclass(frozen=True)
class APOAlone:
    """In [0, 1]: 1/2 at the anchor, 0 where a good answer is surely likelier or a bad one surely less likely."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    responses: ClassVar[int] = 1

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        rewards = self.beta * LogRatio()(logps)[:, 0]
        return expected_over_labels(logps.prefer, jax.nn.sigmoid(-rewards), jax.nn.sigmoid(rewards))


EXAMPLES = (APOZero(beta=0.1), APODown(beta=0.1), APOAlone(beta=0.1))
