"""BMC: DPO that counts more what the answers of a pair differ in ("bridging and modelling correlations"). Jiang et al.
2024 (arXiv 2408.07471), as its released code has it.

    loss = −log σ( beta ( s(chosen) − s(rejected) ) )
    s(y) = Σ_t λ(π, t) log π(y_t) − Σ_t λ(π_anchor, t) log π_anchor(y_t)
    λ(π, t) = 1 + min( 1/π(y_t), delta ) where y_t has no match in the other answer, else 1

No gradient flows through λ. It is made for pairs whose chosen answer is the rejected one, edited. Answers are matched
as the code matches them, but without their prompts and what pads them (`data.edits`). The code counts English stop
words once; their ids in the model's vocabulary are for `ignored`. It reads the anchor token by token, so the anchor is
kept live: `reference=Live()`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Logistic
from jaxalign.losses.parts.scores import EditedTokens
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class BMC:
    """Negative log-likelihood (nats) of the label under an implicit reward that counts edited tokens more."""

    beta: float = 0.01
    """scale of the implicit reward, > 0"""
    delta: float = 2.0
    """upper bound of what an edited token counts more, > 0"""
    ignored: tuple[int, ...] = ()
    """ids of tokens that count once though they differ"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    extras: ClassVar[tuple[str, ...]] = EditedTokens.extras

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta, delta=self.delta)
        yield from EditedTokens(ignored=self.ignored).problems()

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, EditedTokens(self.delta, self.ignored)(logps), Logistic(self.beta))


EXAMPLE = BMC(beta=0.1)
