"""DNO: direct Nash optimisation, the preference that win rates imply. Rosset et al. 2024 (arXiv 2404.03715).

    loss = −p log σ(z) − (1 − p) log σ(−z),        p = σ( P(0 ≻ π_last) − P(1 ≻ π_last) )
    z    = eta ( [log π/π_last](0) − [log π/π_last](1) )

The reward of an answer is its probability to beat the policy that sampled, estimated by its mean over the answers
sampled beside it. On the policy's own pairs the minimiser is π ∝ π_last exp(P(· ≻ π_last) / eta): multiplicative
weights, whose last iterate circles the Nash policy where that is mixed. Notation is the paper's: `eta` multiplies the
KL. Its practical form is DPO on the pairs that win rates tell apart (`pairings.large_margin`).
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
class DNO:
    """Cross-entropy (nats) of the implicit preference and that of the win rates."""

    eta: float = 0.1
    """multiplier of the KL to the policy that sampled, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("last",)

    def problems(self) -> Iterable[str]:
        yield from positive(eta=self.eta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        likely = jax.nn.sigmoid(margin(logps.win))
        z = self.eta * margin(LogRatio("last")(logps))
        return expected_over_labels(likely, -jax.nn.log_sigmoid(z), -jax.nn.log_sigmoid(-z))


EXAMPLE = DNO(eta=0.1)
