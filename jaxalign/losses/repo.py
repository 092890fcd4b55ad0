"""RePO: SimPO with a ReLU for the sigmoid, and so without a beta. Wu et al. 2025 (arXiv 2503.07426).

    loss = max( 0, gamma − ( log π(chosen)/|chosen| − log π(rejected)/|rejected| ) )

SimPO's gradient for beta → ∞. The default is the paper's for Llama 3 8B.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.links import Hinge
from jaxalign.losses.parts.scores import Logp, TokenMean
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class RePO:
    """What the margin of mean log-probs lacks to gamma, nats a token."""

    gamma: float = 0.6
    """margin that is asked for, nats a token, > 0"""

    needs: ClassVar[tuple[str, ...]] = ()

    def problems(self) -> Iterable[str]:
        yield from positive(gamma=self.gamma)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return compared(logps, TokenMean(Logp())(logps), Hinge(1.0, self.gamma))


EXAMPLE = RePO(gamma=0.6)
