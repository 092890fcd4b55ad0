"""What a caller of the op may choose: the logits of the model, where the arrays lie, and how the pass runs."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array

from jaxalign.ops.linear_logp.logits import Logits
from jaxalign.ops.linear_logp.sharded import OnMesh

IMPLEMENTATIONS = ("auto", "full", "chunked", "pallas_tpu", "pallas_gpu")


@dataclass(frozen=True)
class LogpOptions:
    """Options of `linear_logp` and `linear_stats`. Static: another value compiles another program.

    `logits`, `vocabulary` and `layout` say what is computed and for which devices; `implementation` and `chunk` say
    how, and change nothing beyond rounding. Raises ValueError for values that no arrays would fit.
    """

    logits: Logits = Logits()
    """from scores to logits: scale, soft-cap, temperature"""
    vocabulary: int | None = None
    """rows of the head from here on pad the table and are no tokens; None: all rows are tokens"""
    layout: OnMesh | None = None
    """how tokens and vocabulary are split over a mesh; None: the arrays are as they are"""
    implementation: str = "auto"
    """"full" (holds [n v]), "chunked" (XLA), "pallas_tpu" or "pallas_gpu" (kernels); "auto": as `tuning.json` says"""
    chunk: int | None = None
    """rows of the head at a time in XLA's pass; None: as `tuning.json` says"""

    def __post_init__(self) -> None:
        if self.implementation not in IMPLEMENTATIONS:
            raise ValueError(f"unknown implementation {self.implementation!r}, choose from {list(IMPLEMENTATIONS)}")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be at least 1 row, got {self.chunk}")

    def problems(self, hidden: Array, head: Array, bias: Array | None) -> Iterator[str]:
        """Why the op cannot be applied to these arrays, as sentences."""
        if hidden.dtype != head.dtype:
            yield f"hidden is {hidden.dtype} and head {head.dtype}: cast one of them, products are of equal dtypes"
        if hidden.dtype not in (jnp.float32, jnp.bfloat16):
            yield f"hidden and head must be float32 or bfloat16, got {hidden.dtype}"
        if hidden.shape[1:] != head.shape[1:]:
            yield f"hidden {hidden.shape} and head {head.shape} must share their last dimension"
        if bias is not None and bias.shape != head.shape[:1]:
            yield f"bias {bias.shape} must have one entry for each of the head's {head.shape[0]} rows"
        if self.vocabulary is not None and not 0 < self.vocabulary <= head.shape[0]:
            yield f"vocabulary {self.vocabulary} must lie in [1, {head.shape[0]}]"
        if self.layout is not None:
            yield from self.layout.problems(hidden, head)
