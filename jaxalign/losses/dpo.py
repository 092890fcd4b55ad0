"""DPO: direct preference optimisation. Rafailov et al. 2023 (arXiv 2305.18290), eq. 7.

    loss = −log σ( beta ( [log π/π_anchor](chosen) − [log π/π_anchor](rejected) ) )

An uncertain label gives conservative DPO (Mitchell 2023): the two orders weighted by `prefer`. With the anchor swapped
every iteration this is iterative DPO (Xiong et al. 2024, arXiv 2312.11456).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import Array, Float

from jaxalign.losses.margins import expected_over_labels, margin
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class DPO:
    """Negative log-likelihood (nats) of the label under the Bradley–Terry model of the implicit reward."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        if not self.beta > 0:
            yield f"beta must be positive, got {self.beta}"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        assert logps.anchor is not None
        scaled = self.beta * margin(logps.sums - logps.anchor)
        return expected_over_labels(logps.prefer, -jax.nn.log_sigmoid(scaled), -jax.nn.log_sigmoid(-scaled))


EXAMPLE = DPO(beta=0.1)
