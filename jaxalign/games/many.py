"""One learner on many games of different sizes: how many steps each needs to reach a gap."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxalign.games.game import MatrixGame, pad
from jaxalign.games.learner import Learner
from jaxalign.games.metrics import duality_gap


def steps_to_gap(
    learner: Learner,
    games: Sequence[Float[np.ndarray, "_ _"]],
    target: float,
    limit: int,
    chunk: int = 1000,
    *,
    sweep: bool = False,
) -> Int[np.ndarray, " b"]:
    """Steps from the uniform policy until the last iterate's duality gap is at most `target`; -1 beyond `limit`.

    Games are padded to two sizes and run side by side; every `chunk` steps those that have arrived are taken out.
    With `sweep` the learner's fields are arrays [b], a setting for each game.
    """
    sizes = np.array([len(game) for game in games])
    needed = np.full(len(games), -1)
    middle = int(sizes.max() + 1) // 2
    for members, width in ((sizes <= middle, middle), (sizes > middle, int(sizes.max()))):
        if members.any():
            chosen = np.flatnonzero(members)
            some = _of_games(learner, chosen) if sweep else learner
            bucket = [games[int(index)] for index in chosen]
            needed[chosen] = _run_bucket(some, bucket, width, target, limit, chunk, 0 if sweep else None)
    return needed


def _of_games(tree: Any, chosen: Int[np.ndarray, " c"]) -> Any:
    return jax.tree.map(lambda leaf: leaf[chosen], tree)


def _run_bucket(
    learner: Any,
    games: Sequence[Float[np.ndarray, "_ _"]],
    width: int,
    target: float,
    limit: int,
    chunk: int,
    axis: int | None,
) -> Int[np.ndarray, " b"]:
    padded = [pad(game, np.full(len(game), -np.log(len(game))), width) for game in games]
    prefer, starts = (jnp.asarray(np.stack(part)) for part in zip(*padded, strict=True))
    begin = jax.vmap(lambda learner, matrix, start: learner.init(MatrixGame(matrix), start), (axis, 0, 0))
    states = jax.jit(begin)(learner, prefer, starts)
    advance = _advance(target, chunk, axis)
    needed, alive = np.full(len(games), -1), np.arange(len(games))
    for base in range(0, limit, chunk):
        states, arrived = advance(learner, prefer, states, jnp.asarray(needed[alive]), base)
        needed[alive] = np.asarray(arrived)
        left = np.flatnonzero(needed[alive] < 0)
        if left.size == 0:
            break
        smaller = len(alive) // 4
        if left.size <= smaller:
            # The batch shrinks by quarters, so that few shapes are compiled, and is filled up with repeats.
            keep = np.resize(left, smaller)
            alive, prefer, states = alive[keep], prefer[keep], _of_games(states, keep)
            learner = learner if axis is None else _of_games(learner, keep)
    return needed


def _advance(target: float, chunk: int, axis: int | None) -> Any:
    """(learner, matrices, states, arrivals, steps before) → (states, arrivals) up to `chunk` steps later."""

    def one(learner: Any, matrix: Any, state: Any, arrived: Any, t: Any) -> Any:
        state = learner.step(MatrixGame(matrix), state, t)
        there = (arrived < 0) & (duality_gap(MatrixGame(matrix), state.logp) <= target)
        return state, jnp.where(there, t + 1, arrived)

    def advance(learner: Any, prefer: Any, states: Any, arrived: Any, base: Any) -> Any:
        def step(carry: Any) -> Any:
            states, arrived, done = carry
            # All games share the step's number: what a learner does only every so many steps stays a branch.
            states, arrived = jax.vmap(one, (axis, 0, 0, 0, None))(learner, prefer, states, arrived, base + done)
            return states, arrived, done + 1

        carry = (states, arrived, jnp.zeros((), jnp.asarray(base).dtype))
        return jax.lax.while_loop(lambda carry: (carry[1] < 0).any() & (carry[2] < chunk), step, carry)[:2]

    return jax.jit(advance)
