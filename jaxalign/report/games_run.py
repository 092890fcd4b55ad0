"""The figures of one run of a tabular game, with every learner on the same game and from the same start beside it."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from jaxalign.errors import ConfigError
from jaxalign.evals.nash_gap import action_probabilities
from jaxalign.games.families import three_action
from jaxalign.games.populations import two_types
from jaxalign.games.solve import nash
from jaxalign.games.universal import guarantee
from jaxalign.losses.inpo import INPO
from jaxalign.models.tabular import TabularPolicy
from jaxalign.oracles.tabular import TabularGame
from jaxalign.reopen import reopen
from jaxalign.report.games import Path3, gap_against_steps, robust_win_rate, simplex
from jaxalign.report.games_curves import robust_curves, trajectories
from jaxalign.types import Rollouts

SHOWN = ("MWU", "IterDPO", "INPO", "OMWU", "Comal", "AdaptiveComal")
"""Learners on the simplex."""

SAMPLES = (1, 2, 3, 4, 6, 8, 12, 16)

RUN_FLOOR = 1e-8
"""Gaps of a run, which computes in fp32, below this are rounding."""


@dataclasses.dataclass(frozen=True)
class GameRun:
    """A run's game, its policies [t v] from the start on, and the settings of its loss as learners take them."""

    prefer: Float[np.ndarray, "v v"]
    policies: Float[np.ndarray, "t v"]
    settings: dict[str, float | int]


def read(path: str) -> GameRun:
    """The run at `path`.

    Raises:
        ConfigError: no run directory, or not one of a tabular policy on a tabular game.
    """
    session = reopen(path)
    experiment = session.experiment
    if not (isinstance(experiment.oracle, TabularGame) and isinstance(experiment.model, TabularPolicy)):
        raise ConfigError(f"{path}: figures are drawn for tabular games so far; this run's policy or oracle is none")
    prefer = np.asarray(experiment.oracle.matrix)
    size, done = len(prefer), session.finished()
    rollouts = [session.run.load(iteration, "rollouts", Rollouts) for iteration in range(done)]
    policies = [action_probabilities(each.tokens[:, :, 0], each.weights, size).mean(0) for each in rollouts]
    last = np.asarray(jax.nn.softmax(session.policy(done)["table"][:, 0]), np.float64)
    loss, swap = experiment.loss, experiment.swap_every
    settings: dict[str, float | int] = {"inner": swap} if swap else {}
    if isinstance(loss, INPO):
        settings |= {"eta": 1.0 / loss.eta, "tau": loss.tau}
    return GameRun(prefer, np.stack([*policies, last]), settings)


def draw(path: str | None, out: Path, steps: int) -> list[Path]:
    """Writes the figures into `out` and returns their files; without a run, of the three-action game."""
    if path is None:
        found = GameRun(three_action(), np.array([[0.2, 0.5, 0.3]]), {"eta": 0.3, "tau": 0.1, "inner": 100})
    else:
        found = read(path)
    at = np.unique(np.round(np.geomspace(1, steps, 800)).astype(int))
    with jax.enable_x64(True):
        table = trajectories(found.prefer, found.policies[0], at.tolist(), found.settings)
        curves = robust_curves(two_types(0.6), SAMPLES)
    gaps = {name: each[1][1:] for name, each in table.items()}
    if path is not None:
        own = 2.0 * (found.policies @ (found.prefer.T - 0.5)).max(-1)
        here = np.minimum(at, len(own) - 1)
        gaps["this run"] = np.where(at < len(own), np.maximum(own[here], RUN_FLOOR), np.nan)
    bold = "this run" if path is not None else "AdaptiveComal"
    files = gap_against_steps(at.astype(float), gaps, out, bold=bold)
    if len(found.prefer) == 3:
        paths = [Path3(name, table[name][0]) for name in SHOWN]
        if path is not None:
            paths = [*paths[1:], Path3("this run", found.policies)]
        files += simplex(paths, nash(found.prefer), "abc", out)
    best = np.array([guarantee(k) for k in SAMPLES])
    return files + robust_win_rate(SAMPLES, curves, best, out)
