"""MMPO: labels as certain as the answers' scores are apart. Kim et al. 2024 (arXiv 2410.03145).

    loss = −p log σ(z) − (1 − p) log σ(−z),        p = σ( gamma ( S(0) − S(1) ) )
    z    = beta ( [log π/π_anchor](0) − [log π/π_anchor](1) )

The label itself is not read. The minimiser is z = gamma (S(0) − S(1)): the policy that is best for the reward gamma S
under the penalty beta KL.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import Array, Float

from jaxalign.losses.margins import expected_over_labels, margin
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class MarginSoftDPO:
    """Cross-entropy (nats) of the implicit preference and that of the scores."""

    gamma: float
    """nats for a unit of score, > 0"""
    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(gamma=self.gamma, beta=self.beta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        likely = jax.nn.sigmoid(self.gamma * margin(logps.score))
        z = self.beta * margin(LogRatio()(logps))
        return expected_over_labels(likely, -jax.nn.log_sigmoid(z), -jax.nn.log_sigmoid(-z))


EXAMPLE = MarginSoftDPO(gamma=2.0, beta=0.1)
