"""Every learner on one game, from one start: the table behind `jaxalign games` and the figures."""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import jaxalign.games.learners
from jaxalign.games.certificates import Number
from jaxalign.games.divergence import kl
from jaxalign.games.game import ABSENT, MatrixGame
from jaxalign.games.learner import Learner, run
from jaxalign.games.metrics import duality_gap
from jaxalign.games.prox import prox
from jaxalign.games.solve import nash


def every_learner() -> dict[str, type[Any]]:
    """The learners, found by looking: each class with `init` and `step` defined in a module of `games.learners`."""
    modules = pkgutil.iter_modules(jaxalign.games.learners.__path__, "jaxalign.games.learners.")
    return {
        name: item
        for module in modules
        for name, item in vars(importlib.import_module(module.name)).items()
        if isinstance(item, type) and item.__module__ == module.name and {"init", "step"} <= vars(item).keys()
    }


def of_matrices(learner: type[Any]) -> bool:
    """Whether a learner asks for the game's preference matrix: its gains alone do not tell what it fits."""
    return inspect.signature(learner.init).parameters["game"].annotation is MatrixGame


def configured(
    learner: type[Any], *, eta: Number | None = None, tau: Number | None = None, inner: Number | None = None
) -> Learner:
    """A learner with those of the given settings that it has as fields; the rest, and None, stand for its defaults."""
    names = {field.name for field in dataclasses.fields(learner)}
    given = {"eta": eta, "tau": tau, "inner": inner}
    return learner(**{name: value for name, value in given.items() if name in names and value is not None})


def log_policy(policy: Float[np.ndarray, " v"]) -> Float[np.ndarray, " v"]:
    """Log-probabilities, with `ABSENT` for probability zero."""
    return np.where(policy > 0.0, np.log(np.maximum(policy, np.finfo(policy.dtype).tiny)), ABSENT)


@dataclasses.dataclass(frozen=True)
class Row:
    """One learner at one step: gaps (duality gap, both players), KLs in nats, the last and the average policy."""

    step: int
    gap: float
    kl_to_nash: float
    kl_to_regularised_nash: float
    policy: list[float]
    average_gap: float
    average_policy: list[float]


def compare(
    prefer: Float[np.ndarray, "v v"],
    start: Float[np.ndarray, " v"],
    steps: Sequence[int],
    eta: Number,
    tau: Number,
    inner: int,
    only: Sequence[str] = (),
) -> dict[str, list[Row]]:
    """Learner name → its rows at `steps` (ascending), in the precision JAX runs in; all in one compiled call each.

    The regularised equilibrium is the one around `start` at `tau`. KL to Nash is KL(π* ‖ π) for the linear
    program's equilibrium π*, one of many where the game has many.
    """
    game = MatrixGame(jnp.asarray(prefer))
    logp = jnp.asarray(log_policy(start))
    equilibrium = jnp.asarray(log_policy(nash(prefer)))
    regularised = prox(game, logp, tau)
    at, table = jnp.asarray(steps), {}
    for name, learner in every_learner().items():
        if only and name not in only:
            continue
        chosen = configured(learner, eta=eta, tau=tau, inner=inner)
        # The game is an argument: as a constant of the program it would be folded at compile time.
        trajectory = jax.jit(lambda item, game: run(item, game, logp, at, max(steps)))(chosen, game)
        table[name] = [
            _row(game, step, trajectory.logp[index], trajectory.average[index], equilibrium, regularised)
            for index, step in enumerate(steps)
        ]
    return table


def _row(game: MatrixGame, step: int, logp: Any, average: Any, equilibrium: Any, regularised: Any) -> Row:
    return Row(
        step=step,
        gap=float(duality_gap(game, logp)),
        kl_to_nash=float(kl(equilibrium, logp)),
        kl_to_regularised_nash=float(kl(regularised, logp)),
        policy=np.exp(np.asarray(logp)).tolist(),
        average_gap=float(duality_gap(game, jnp.log(average))),
        average_policy=np.asarray(average).tolist(),
    )
