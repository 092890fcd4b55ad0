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
    learner: Learner, games: Sequence[Float[np.ndarray, "_ _"]], target: float, limit: int, chunk: int = 1000
) -> Int[np.ndarray, " b"]:
    """Steps from the uniform policy until the last iterate's duality gap is at most `target`; -1 beyond `limit`.

    Games are padded to two sizes and run side by side; every `chunk` steps those that have arrived are taken out.
    """
    sizes = np.array([len(game) for game in games])
    needed = np.full(len(games), -1)
    middle = int(sizes.max() + 1) // 2
    for members, width in ((sizes <= middle, middle), (sizes > middle, int(sizes.max()))):
        if members.any():
            chosen = np.flatnonzero(members)
            needed[chosen] = _run_bucket(learner, [games[int(index)] for index in chosen], width, target, limit, chunk)
    return needed


def _run_bucket(
    learner: Learner, games: Sequence[Float[np.ndarray, "_ _"]], width: int, target: float, limit: int, chunk: int
) -> Int[np.ndarray, " b"]:
    padded = [pad(game, np.full(len(game), -np.log(len(game))), width) for game in games]
    prefer, starts = (jnp.asarray(np.stack(part)) for part in zip(*padded, strict=True))
    states = jax.jit(jax.vmap(lambda matrix, start: learner.init(MatrixGame(matrix), start)))(prefer, starts)
    advance = _advance(learner, target, chunk)
    needed, alive = np.full(len(games), -1), np.arange(len(games))
    for base in range(0, limit, chunk):
        states, arrived = advance(prefer, states, jnp.asarray(needed[alive]), base)
        needed[alive] = np.asarray(arrived)
        left = np.flatnonzero(needed[alive] < 0)
        if left.size == 0:
            break
        smaller = len(alive) // 4
        if left.size <= smaller:
            # The batch shrinks by quarters, so that few shapes are compiled, and is filled up with repeats.
            keep = np.resize(left, smaller)
            alive, prefer = alive[keep], prefer[keep]
            states = jax.tree.map(lambda leaf, keep=keep: leaf[keep], states)
    return needed


def _advance(learner: Learner, target: float, chunk: int) -> Any:
    """(matrices, states, arrivals, steps before) → (states, arrivals) up to `chunk` steps later."""

    def one(matrix: Any, state: Any, arrived: Any, base: Any) -> Any:
        game = MatrixGame(matrix)

        def going(carry: Any) -> Any:
            return (carry[1] < 0) & (carry[2] < chunk)

        def step(carry: Any) -> Any:
            state, arrived, done = carry
            state = learner.step(game, state, base + done)
            there = duality_gap(game, state.logp) <= target
            return state, jnp.where(there, base + done + 1, arrived), done + 1

        state, arrived, _ = jax.lax.while_loop(going, step, (state, arrived, jnp.asarray(0)))
        return state, arrived

    return jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None)))
