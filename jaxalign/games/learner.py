"""The learner's contract, and the loop that runs one: a single `lax.scan`, so `vmap` sweeps over anything.

A learner is a frozen dataclass whose fields are its hyper-parameters; it is a PyTree, so arrays in those fields
sweep under `vmap`. Its state is a PyTree with the current log-policy in `logp`. Sweep over seeds by giving `run`
starts [seeds v] (and keys), over games by stacking their leaves.

The step size is `eta` throughout, as in COMAL's paper (v2): an eta of INPO's paper and of the losses in
`jaxalign.losses`, which multiplies the KL, is 1 / eta here. `tau` multiplies the KL to the anchor in both.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxalign.games.game import Game
from jaxalign.types import pytree


@runtime_checkable
class State(Protocol):
    """Whatever a learner carries from step to step."""

    @property
    def logp(self) -> Float[Array, " v"]:
        """Log-probabilities of the current policy."""
        ...


@runtime_checkable
class Learner(Protocol):
    """start → state; (game, state, t) → state, with t = 0, 1, … the number of steps taken before."""

    def init(self, game: Any, start: Float[Array, " v"]) -> State:
        """The state before the first step, from the log-policy to start with."""
        ...

    def step(self, game: Any, state: Any, t: Int[Array, ""]) -> State:
        """The state after step t."""
        ...


@runtime_checkable
class Feedback(Protocol):
    """What a learner gets to see of a game at one step: itself, or a random estimate drawn with the key."""

    def __call__(self, game: Any, key: PRNGKeyArray) -> Any: ...


@pytree
class Plain:
    """A state that is nothing but the policy."""

    logp: Float[Array, " v"]


@pytree
class Anchored:
    """The policy and the anchor it is regularised towards."""

    logp: Float[Array, " v"]
    anchor: Float[Array, " v"]


@pytree
class Trajectory:
    """Log-policies at the recorded steps, the mean of the policies played before each of them, the last state."""

    logp: Float[Array, "t v"]
    average: Float[Array, "t v"]
    final: Any


def run(
    learner: Learner,
    game: Game,
    start: Float[Array, " v"],
    at: Int[Array, " t"],
    steps: int,
    feedback: Feedback | None = None,
    key: PRNGKeyArray | None = None,
) -> Trajectory:
    """Runs `steps` steps from log-policy `start` and records after the (ascending) step counts `at`, the last
    at most `steps`. With `feedback`, step t sees feedback(game, key folded with t) instead of the game.

    `average[i]` is the mean over the policies of steps 0 … at[i] - 1: what no-regret theorems speak about. Raises
    ValueError for feedback without a key, or a key without feedback.
    """

    if (feedback is None) != (key is None):
        raise ValueError("feedback is drawn with a key: give both or neither")

    def body(carry: Any, t: Int[Array, ""]) -> tuple[Any, None]:
        state, total, logps, totals = carry
        seen = game if feedback is None or key is None else feedback(game, jax.random.fold_in(key, t))
        total = total + jnp.exp(state.logp)
        state = learner.step(seen, state, t)
        # Slot i is overwritten until step at[i] has written it: recording without a branch.
        slot = jnp.searchsorted(at, t + 1)
        return (state, total, logps.at[slot].set(state.logp), totals.at[slot].set(total)), None

    blank = jnp.zeros((at.size, start.size), start.dtype)
    carry = (learner.init(game, start), jnp.zeros_like(start), blank, blank)
    (state, _, logps, totals), _ = jax.lax.scan(body, carry, jnp.arange(steps))
    return Trajectory(logps, totals / at[:, None].astype(start.dtype), state)
