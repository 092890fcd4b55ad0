"""DRO: direct reward optimisation, a regression of rewards on log-ratios and the value of the prompt. Richemond et al.
2024 (arXiv 2405.19107).

    loss = 1/2 mean over y of ( S(y) − V − tau log π/π_anchor(y) )²

over the K answers of a group, which may come from anyone. The paper learns V by a second network, from prompts with one
answer each; here V is what minimises the loss for the group, the mean over its answers of S − tau log π/π_anchor, and
no network is trained. Least, 0, where log π/π_anchor is S / tau but for a constant of the prompt: the policy that is
best for the reward S under the penalty tau · KL. Of two answers it is an eighth of the square of what they are apart.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.parts.ratings import By, ratings
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class DRO:
    """Half the variance (of ratings, in their unit squared) of what is left of ratings by the implicit reward."""

    tau: float = 1.0
    """scale of the implicit reward tau · log π/π_anchor, in the unit of the ratings, > 0"""
    by: By = "score"
    """what rates answers"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    responses: ClassVar[int | None] = None

    def problems(self) -> Iterable[str]:
        yield from positive(tau=self.tau)

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        # Each less its own mean first: what is large in both would take the digits of what they differ by.
        left = centred(ratings(logps, self.by)) - self.tau * centred(LogRatio()(logps))
        return (left**2).mean(-1) / 2


def centred(values: Float[Array, "b r"]) -> Float[Array, "b r"]:
    """Less their mean over the group."""
    return values - jnp.mean(values, axis=-1, keepdims=True)


EXAMPLE = DRO(tau=0.7)
