"""LD-DPO: length-desensitised DPO, which counts what makes an answer the longer one in part. Liu et al. 2024 (arXiv
2409.06411).

    loss = −log σ( beta ( s(chosen) − s(rejected) ) )
    s(y) = Σ_{t ≤ l} log π/π_anchor(y_t) + alpha Σ_{t > l} log π/π_anchor(y_t),        l = min(|chosen|, |rejected|)

It reads the anchor token by token, so the anchor is kept live: `reference=Live()`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.scores import LongTail
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class LDDPO:
    """Negative log-likelihood (nats) of the label under the implicit reward of tokens that both answers have."""

    beta: float = 0.1
    """scale of the implicit reward, > 0"""
    alpha: float = 0.5
    """share of the tokens that only the longer answer has, in [0, 1]; 1 is DPO"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    extras: ClassVar[tuple[str, ...]] = ("anchor_tokens",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)
        yield from LongTail(self.alpha).problems()

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, LongTail(self.alpha)(logps), Logistic(self.beta))


EXAMPLE = LDDPO(beta=0.1, alpha=0.5)
