"""The figures of one run of a tabular game, with every learner on the same game and from the same start beside it."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from jaxalign.errors import ConfigError
from jaxalign.evals.nash_gap import action_probabilities
from jaxalign.games.families import three_action
from jaxalign.games.game import Game, MatrixGame, uniform
from jaxalign.games.learner import run
from jaxalign.games.learners.adaptive_comal import AdaptiveComal
from jaxalign.games.metrics import duality_gap
from jaxalign.games.populations import two_types
from jaxalign.games.solve import nash
from jaxalign.games.universal import PopulationGame, guarantee
from jaxalign.losses.mirror import mirror_step
from jaxalign.models.tabular import TabularPolicy
from jaxalign.oracles.population import RankingPopulation
from jaxalign.oracles.tabular import TabularGame
from jaxalign.reopen import Run, reopen
from jaxalign.report.games import Path3, gap_against_steps, robust_win_rate, simplex
from jaxalign.report.games_curves import robust_curves, trajectories
from jaxalign.report.steps import named
from jaxalign.storage.rundir import home
from jaxalign.types import Rollouts

SHOWN = ("MWU", "IterDPO", "INPO", "OMWU", "Comal", "AdaptiveComal")
"""Learners on the simplex."""

SAMPLES = (1, 2, 3, 4, 6, 8, 12, 16)

RUN_FLOOR = 1e-8
"""Gaps of a run, which computes in fp32, below this are rounding."""


@dataclasses.dataclass(frozen=True)
class GameRun:
    """A run's game, the users behind its robust win rates, its policies [t v] from the start on, one a step, the
    settings of its loss as learners take them, and what a legend calls it."""

    game: Game
    users: PopulationGame
    policies: Float[np.ndarray, "t v"]
    settings: dict[str, float | int]
    name: str


def read(path: str, config: str | None = None) -> GameRun:
    """The run at `path`; `config` as for `reopen`.

    Raises:
        ConfigError: no run directory, or not one of a tabular policy on a tabular game that answers for itself.
    """
    reopened = reopen(path, config)
    experiment = reopened.experiment
    oracle, loss, swap = experiment.feedback.oracle, experiment.loss, experiment.swap_every
    if not (isinstance(oracle, TabularGame | RankingPopulation) and isinstance(experiment.model, TabularPolicy)):
        raise ConfigError(f"{path}: figures are drawn for tabular games so far; this run's policy or oracle is none")
    period = experiment.step_rule.period
    # Learners swap after steps, and a step with a look-ahead takes the loop two iterations.
    settings: dict[str, float | int] = {"inner": swap // period} if isinstance(swap, int) else {}
    game: Game
    if isinstance(oracle, RankingPopulation):
        game, users, scale = oracle.game(), oracle.game(), 0.5
    else:
        game, users, scale = MatrixGame(jnp.asarray(np.asarray(oracle.matrix))), two_kinds(), 1.0
    if own := mirror_step(loss):
        # A population's preferences halve the step of the loss, which doubles what tau weighs against it.
        settings |= {"eta": scale * own.step, "tau": own.tau / scale}
    return GameRun(game, users, policies_of(reopened, period), settings, named("this run", period))


def policies_of(run: Run, period: int) -> Float[np.ndarray, "t v"]:
    """The policies of a run's steps so far, of `period` iterations each, from the base on: their tables, or what those
    that are deleted answered held-out prompts. Answers of training may be those of a mixture with the anchor.

    Raises ConfigError for a policy that is not there and has answered none.
    """
    directory, machine = run.directory, run.machine()
    there = directory.policies()

    def policy(number: int) -> Float[np.ndarray, " v"]:
        if number in there:
            return softmax(np.asarray(machine.params(directory.policy(number))["table"][:, 0], np.float64))
        if not directory.has(home(number), "heldout"):
            raise ConfigError(
                f"{directory.path}: policy {number} is not there and has answered no held-out prompts: nothing tells "
                "what it was (keep_policies None keeps all)"
            )
        answers = directory.load(home(number), "heldout", Rollouts)
        actions = action_probabilities(answers.tokens[:, :, 0], answers.weights, machine.model.config.vocab)
        found: Float[np.ndarray, " v"] = actions.mean(0)
        return found

    return np.stack([policy(number) for number in range(0, directory.finished() + 1, period)])


def equilibrium(game: Game, actions: int) -> Float[np.ndarray, " v"]:
    """The Nash policy: a matrix game's by linear programming, any other's by adaptive COMAL."""
    if isinstance(game, MatrixGame):
        return nash(np.asarray(game.prefer))
    found = run(AdaptiveComal(), game, uniform(actions, jnp.float64), jnp.asarray([4000]), 4000)
    return np.asarray(jnp.exp(found.logp[0]))


def draw(path: str | None, out: Path, steps: int, config: str | None = None) -> list[Path]:
    """Writes the figures into `out` and returns their files; without a run, of the three-action game. `config` as for
    `reopen`."""
    with jax.enable_x64(True):
        found = read(path, config) if path is not None else three_action_run()
        at = np.unique(np.round(np.geomspace(1, steps, 800)).astype(int))
        table = trajectories(found.game, found.policies[0], at.tolist(), found.settings)
        curves = robust_curves(found.users, SAMPLES)
        own = np.asarray(jax.vmap(lambda each: duality_gap(found.game, jnp.log(each)))(jnp.asarray(found.policies)))
        star = equilibrium(found.game, found.policies.shape[1])
    gaps = {name: each[1][1:] for name, each in table.items()}
    shown = [name for name in SHOWN if name in table]
    bold = "AdaptiveComal"
    if path is not None:
        bold = found.name
        here = np.minimum(at, len(own) - 1)
        gaps[bold] = np.where(at < len(own), np.maximum(own[here], RUN_FLOOR), np.nan)
    files = gap_against_steps(at.astype(float), gaps, out, bold=bold)
    if len(star) == 3:
        paths = [Path3(name, table[name][0]) for name in shown]
        if path is not None:
            paths = [*paths[1:], Path3(bold, found.policies)]
        files += simplex(paths, star, "abc", out)
    best = np.array([guarantee(k) for k in SAMPLES])
    return files + robust_win_rate(SAMPLES, curves, best, out)


def three_action_run() -> GameRun:
    """What is drawn without a run: the learners alone, at COMAL's usual settings here."""
    game = MatrixGame(jnp.asarray(three_action()))
    settings = {"eta": 0.3, "tau": 0.1, "inner": 100}
    return GameRun(game, two_kinds(), np.array([[0.2, 0.5, 0.3]]), settings, "")


def two_kinds() -> PopulationGame:
    """The users of the robust win rates where a run has none: 60 % want a, the rest b."""
    order, weights = two_types(0.6)
    return PopulationGame(jnp.asarray(order), jnp.asarray(weights))
