"""An implementation of attention, forward and backward, and attention by one of them as a differentiable function."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from jaxalign.ops.attention.problem import Problem, Scores
from jaxalign.ops.attention.sight import Tree

Gradients = tuple[Float[Array, "n q k g h"], Float[Array, "n k h c"], Float[Array, "n k c h"]]
"""of query, key and value, in their dtypes"""


@dataclass(frozen=True)
class Engine:
    """One implementation of the two passes; hashable, so that it can be static under `jit`.

    `forward(problem, scores)` gives what the queries find, zeros where they see nothing, and a number a query that the
    backward pass needs: log Σ of the powers of `base` that its scores are. `backward(problem, scores, found, number,
    gradient of found)` gives the operands' gradients.
    """

    name: str
    forward: Callable[[Problem, Scores], tuple[Float[Array, "n q k g h"], Float[Array, "n k g q"]]]
    backward: Callable[[Problem, Scores, Array, Array, Array], Gradients]
    base: float = math.e
    """of the logarithms that the numbers are"""


Operands = tuple[Array, Array, Array]


def attended(engine: Engine, scores: Scores, problem: Problem) -> Float[Array, "n q k g h"]:
    """What the queries of a problem find, as `reference.dense` has it but for zeros where they see nothing;
    differentiable in query, key and value."""
    operands = problem.query, problem.key, problem.value
    return _attended(engine, scores, operands, (problem.mine, problem.theirs), problem.window)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attended(
    engine: Engine, scores: Scores, operands: Operands, ids: tuple[Tree, Tree], window: Int[Array, ""] | None
) -> Array:
    return engine.forward(Problem(*operands, *ids, window), scores)[0]


def _forward(
    engine: Engine, scores: Scores, operands: Operands, ids: tuple[Tree, Tree], window: Any
) -> tuple[Array, Any]:
    problem = Problem(*operands, *ids, window)
    found, number = engine.forward(problem, scores)
    return found, (problem, found, number)


def _backward(engine: Engine, scores: Scores, residuals: Any, of_found: Array) -> tuple[Gradients, None, None]:
    problem, found, number = residuals
    return engine.backward(problem, scores, found, number, of_found), None, None


_attended.defvjp(_forward, _backward)
