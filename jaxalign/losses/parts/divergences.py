"""Scores for other penalties than the reverse KL: f′(π/π_anchor) of an f-divergence. Wang et al. 2023 (arXiv
2309.16240).

With t = π/π_anchor, the policy that is best for a reward r under the penalty beta · D_f has r = beta f′(t) + a constant
of the prompt, so f′ takes the place of DPO's log t. For the reverse KL f′ is log t + 1: DPO itself.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.parts.scores import LogRatio
from jaxalign.types import GroupLogps

LARGEST = 80.0
"""Exponents are cut off here: e^80 is 5e34, and fp32 ends at 3e38. Beyond there is no gradient."""


@dataclass(frozen=True)
class ForwardKL:
    """f′(t) = 1 − 1/t"""

    compared: ClassVar[bool] = True
    exponential: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def __call__(self, logps: GroupLogps) -> Float[Array, "b r"]:
        return 1 - jnp.exp(jnp.minimum(-LogRatio()(logps), LARGEST))


@dataclass(frozen=True)
class JensenShannon:
    """f′(t) = log 2t/(1 + t)"""

    compared: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def __call__(self, logps: GroupLogps) -> Float[Array, "b r"]:
        return math.log(2) + jax.nn.log_sigmoid(LogRatio()(logps))


@dataclass(frozen=True)
class AlphaDivergence:
    """f′(t) = (t^(alpha − 1) − 1)/(alpha − 1), as TRL writes it; alpha → 1 is the reverse KL. (The paper's own alpha,
    of f′(t) = (1 − t^−alpha)/alpha, is one minus this one.)"""

    alpha: float = 0.5
    """order, other than 1; 0 is the forward KL"""

    compared: ClassVar[bool] = True
    exponential: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def problems(self) -> Iterable[str]:
        if abs(self.alpha - 1) < 1e-3:
            yield f"alpha {self.alpha} is the reverse KL but for rounding: take LogRatio"

    def __call__(self, logps: GroupLogps) -> Float[Array, "b r"]:
        power = self.alpha - 1
        return jnp.expm1(jnp.minimum(power * LogRatio()(logps), LARGEST)) / power


EXAMPLES = (ForwardKL(), JensenShannon(), AlphaDivergence(0.5))
