"""BCO on pairs: a binary classifier of answers. Jung et al. 2024 (arXiv 2404.04656), as TRL has it for pairs.

    loss = −log σ(beta [log π/π_anchor](chosen)) − log σ(−beta [log π/π_anchor](rejected))

The paper shifts both rewards by a running mean of them, delta; TRL's form of today, and this one, has none.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.absolute_links import Classifier
from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class BCOPairs:
    """Negative log-likelihood (nats) of chosen being good and rejected being bad."""

    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, LogRatio()(logps), Classifier(self.beta))


EXAMPLE = BCOPairs(beta=0.1)
