"""RPO: relative preference optimisation, each chosen answer against the rejected ones of other prompts too. Yin et al.
2024 (arXiv 2402.10958), with the weights of its code's diagonal strategy.

    loss_i = own · f(M_ii) + (1 − own) · mean_{j ≠ i} f(M_ij),        f(m) = −log σ(beta m)
    M_ij   = [log π/π_anchor](chosen_i) − [log π/π_anchor](rejected_j)

j runs over all groups of an optimizer's step that have a weight, and counts each alike; a step of one pair is DPO. Of
an uncertain label the likelier answer is the chosen one. (The paper's
other strategy weighs M_ij by how alike the prompts are, which needs their embeddings.)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.parts.compared import oriented
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class RelativePO:
    """DPO's loss (nats) of the pair, mixed with that against other prompts' rejected answers."""

    own: float
    """share of the answers to one prompt, in [0, 1]; 1 is DPO"""
    beta: float = 0.1
    """scale of the implicit reward beta · log π/π_anchor, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    extras: ClassVar[tuple[str, ...]] = ("batch",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)
        if not 0 <= self.own <= 1:
            yield f"own must lie in [0, 1], got {self.own}"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        assert logps.weight is not None
        ratios, counts = oriented(logps, LogRatio()(logps)), logps.weight > 0
        pairs = -jax.nn.log_sigmoid(self.beta * (ratios[:, :1] - ratios[None, :, 1]))
        others = counts[None, :] & ~jnp.eye(len(counts), dtype=bool)
        across = jnp.where(others, pairs, 0.0).sum(1) / jnp.maximum(others.sum(1), 1).astype(jnp.float32)
        alone = jnp.diagonal(pairs)
        return self.own * alone + (1 - self.own) * jnp.where(others.any(1), across, alone)


EXAMPLE = RelativePO(own=0.8, beta=0.1)
