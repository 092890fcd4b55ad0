"""What an implementation of attention is given: arrays of some rows, and how scores are made of them.

Letters besides those of `jaxalign.types`: n rows, q queries of a row, c its keys, k KV heads, g query heads per KV
head, h head size.
"""

from dataclasses import dataclass

from jaxtyping import Array, Float, Int

from jaxalign.ops.attention.sight import Tree
from jaxalign.types import pytree


@pytree
class Problem:
    """Queries of ids `mine` and the keys and values of ids `theirs`, as they lie in a cache."""

    query: Float[Array, "n q k g h"]
    key: Float[Array, "n k h c"]
    value: Float[Array, "n k c h"]
    mine: Tree
    theirs: Tree
    window: Int[Array, ""] | None
    """positions back that a query sees, itself included; None: all"""


@dataclass(frozen=True)
class Scores:
    """softcap(q·kᵀ / sqrt(scalar)), of natural logarithms. Static: another value compiles another program."""

    scalar: float
    cap: float | None = None
    """the soft-cap's bound of the scores; None: none"""
    causal: bool = True
    """queries and keys are the same columns, so that nothing right of a query's own column is seen"""
