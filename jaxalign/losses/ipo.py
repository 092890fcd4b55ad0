"""IPO: identity preference optimisation. Azar et al. 2023 (arXiv 2310.12036), eq. 17.

    loss = ( [log π/π_anchor](chosen) − [log π/π_anchor](rejected) − 1/(2 tau) )²

Log-probs are summed over tokens, as in COMAL's released code and in OpenRLHF; TRL divides each by its length. With the
anchor swapped every iteration this is iterative IPO: multiplicative weights on the unregularised game, whose last
iterate circles the Nash policy (COMAL, arXiv 2410.23223).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.margins import expected_over_labels, margin
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class IPO:
    """Squared distance (nats²) of the log-ratio margin from 1/(2 tau), expected over the label."""

    tau: float
    """multiplier of the KL to the anchor, > 0 (the released COMAL code calls it eta)"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        if not self.tau > 0:
            yield f"tau must be positive, got {self.tau}"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        assert logps.anchor is not None
        h = margin(logps.sums - logps.anchor)
        target = 1 / (2 * self.tau)
        return expected_over_labels(logps.prefer, (h - target) ** 2, (h + target) ** 2)


EXAMPLE = IPO(tau=0.5)
