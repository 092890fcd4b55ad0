"""The two passes as one differentiable function, on one device or inside `shard_map` on a mesh."""

from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from jaxalign.ops.linear_logp import fused
from jaxalign.ops.linear_logp.fused import Kept, Task
from jaxalign.ops.linear_logp.problem import Gradients, Wants
from jaxalign.ops.linear_logp.stats import LinearStats

Primals = tuple[Array, Array, Array | None, Array]


@runtime_checkable
class Run(Protocol):
    """Where the passes run. `primals` are hidden [n d], head [v d], bias [v] or None, targets [n]."""

    def forward(self, task: Task, primals: Primals, wants: Wants | None) -> tuple[LinearStats, Kept]:
        """Statistics of each token, and what `backward` needs for the gradients wanted; None: none is."""

    def backward(self, task: Task, wants: Wants, primals: Primals, kept: Kept, cotangent: LinearStats) -> Gradients:
        """Gradients of hidden, head and bias from those of the statistics; None for statistics nobody uses."""


class Here:
    """On the arrays as they are."""

    def forward(self, task: Task, primals: Primals, wants: Wants | None) -> tuple[LinearStats, Kept]:
        return fused.forward(task, *primals, wants)

    def backward(self, task: Task, wants: Wants, primals: Primals, kept: Kept, cotangent: LinearStats) -> Gradients:
        return fused.backward(task, wants, primals, kept, cotangent)


HERE = Here()


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def stats(
    run: Run,
    task: Task,
    hidden: Float[Array, "n d"],
    head: Float[Array, "v d"],
    bias: Float[Array, " v"] | None,
    targets: Int[Array, " n"],
) -> LinearStats:
    """Statistics of each token; differentiable in hidden, head and bias."""
    return run.forward(task, (hidden, head, bias, targets), None)[0]


def _forward(run: Run, task: Task, hidden: Any, head: Any, bias: Any, targets: Any) -> tuple[LinearStats, Any]:
    primals = hidden.value, head.value, None if bias is None else bias.value, targets.value
    wants = Wants(hidden.perturbed, head.perturbed, bias is not None and bias.perturbed)
    made, kept = run.forward(task, primals, wants)
    return made, (primals, wants, kept)


def _backward(run: Run, task: Task, residuals: Any, cotangent: LinearStats) -> tuple[Any, ...]:
    primals, wants, kept = residuals
    # statistics nobody differentiates arrive as symbolic zeros and cost nothing
    used = jax.tree.map(
        lambda ct: None if isinstance(ct, SymbolicZero) else ct,
        cotangent,
        is_leaf=lambda x: isinstance(x, SymbolicZero),
    )
    return *run.backward(task, wants, primals, kept, used), None


stats.defvjp(_forward, _backward, symbolic_zeros=True)
