"""Adaptive COMAL, untuned, beside COMAL and optimistic multiplicative weights tuned to each foreign family.

`python -m jaxalign.games.judge` prints a row for each family and learner: the share of games whose last iterate has a
duality gap of at most 1e-8 within 100,000 steps of the uniform start, in fp64, and the median of the steps needed.

The tuned learners get, for each family, the setting that solves most of a few games drawn apart from those that are
judged, the fewest median steps among equals. Step sizes and pulls of the grids are multiples of the family's frequency
omega: the median over its tuning games of ‖P - 1/2‖ / v, the spectral norm over the number of actions.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxalign.games.families import Matrix
from jaxalign.games.foreign import FAMILIES
from jaxalign.games.learner import Learner
from jaxalign.games.learners.adaptive_comal import AdaptiveComal
from jaxalign.games.learners.comal import Comal
from jaxalign.games.learners.omwu import OMWU
from jaxalign.games.many import steps_to_gap

TARGET = 1e-8
JUDGED, TUNING = 2026, 7
"""Seeds of the games that are judged and of those that are tuned on."""


@dataclass(frozen=True)
class Row:
    """A learner on a family: the share of its games solved, and the median and largest number of steps of those."""

    family: str
    games: int
    actions: tuple[int, int]
    learner: str
    setting: dict[str, float]
    solved: float
    median_steps: float | None
    most_steps: int | None
    seconds: float


def drawn(family: str, seed: int, count: int) -> list[Matrix]:
    """The first `count` games of a family under a seed; each has a generator of its own."""
    place = list(FAMILIES).index(family)
    return [FAMILIES[family](np.random.default_rng([seed, place, index])) for index in range(count)]


def judge(family: str, games: int, tuning: int, limit: int) -> list[Row]:
    """Rows of one family: adaptive COMAL, the same without Newton steps, COMAL and OMWU tuned on `tuning` games."""
    matrices, apart = drawn(family, JUDGED, games), drawn(family, TUNING, tuning)
    omega = float(np.median([frequency(matrix) for matrix in apart]))
    learners = {
        "adaptive COMAL": AdaptiveComal(),
        "the same without Newton steps": AdaptiveComal(newton=np.inf),
        "COMAL, tuned": tuned(comal_grid(omega), apart, limit),
        "OMWU, tuned": tuned(omwu_grid(omega), apart, limit),
    }
    return [_row(family, name, learner, matrices, limit) for name, learner in learners.items()]


def frequency(prefer: Matrix) -> float:
    """‖P - 1/2‖ / v: the largest omega of a game at the uniform policy, were that an equilibrium."""
    return float(np.linalg.norm(prefer - 0.5, 2)) / len(prefer)


def comal_grid(omega: float) -> list[Comal]:
    """tau from omega down to .03 omega, step sizes below mirror descent's bound 2 tau / (tau² + omega²), and rounds in
    which the distance to the inner solution falls by a factor of e or e³."""
    grid = []
    for pull, share, length in product((1.0, 0.3, 0.1, 0.03), (0.1, 0.25, 0.5), (1.0, 3.0)):
        tau = pull * omega
        eta = share * 2.0 * tau / (tau**2 + omega**2)
        grid.append(Comal(eta, tau, int(np.ceil(length / (eta * tau)))))
    return grid


def omwu_grid(omega: float) -> list[OMWU]:
    """Step sizes from .05 / omega, slow and sure, to 1.4 / omega, past what is stable."""
    return [OMWU(share / omega) for share in (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4)]


def tuned(grid: Sequence[Any], games: Sequence[Float[np.ndarray, "_ _"]], limit: int) -> Learner:
    """The learner of the grid that solves most of the games, by median steps (unsolved: `limit`) among equals."""
    pairs = [(learner, game) for learner in grid for game in games]
    names = [field.name for field in fields(grid[0])]
    swept = type(grid[0])(*(jnp.asarray([getattr(learner, name) for learner, _ in pairs]) for name in names))
    needed = steps_to_gap(swept, [game for _, game in pairs], TARGET, limit, sweep=True).reshape(len(grid), -1)
    return grid[min(range(len(grid)), key=lambda index: _cost(needed[index], limit))]


def _cost(needed: Int[np.ndarray, " b"], limit: int) -> tuple[float, float]:
    return -float((needed > 0).mean()), float(np.median(np.where(needed > 0, needed, limit)))


def _row(family: str, name: str, learner: Any, games: Sequence[Float[np.ndarray, "_ _"]], limit: int) -> Row:
    began = time.perf_counter()
    needed = steps_to_gap(learner, games, TARGET, limit)
    arrived, sizes = needed[needed > 0], [len(game) for game in games]
    untuned = isinstance(learner, AdaptiveComal)
    return Row(
        family=family,
        games=len(games),
        actions=(min(sizes), max(sizes)),
        learner=name,
        setting={} if untuned else {field.name: float(getattr(learner, field.name)) for field in fields(learner)},
        solved=arrived.size / len(games),
        median_steps=float(np.median(arrived)) if arrived.size else None,
        most_steps=int(arrived.max()) if arrived.size else None,
        seconds=time.perf_counter() - began,
    )


def main() -> None:
    """Prints the rows, one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=";".join(FAMILIES), help="only these, separated by semicolons")
    parser.add_argument("--games", type=int, default=20, help="games judged of each family (default 20)")
    parser.add_argument("--tuning", type=int, default=4, help="games tuned on (default 4)")
    parser.add_argument("--limit", type=int, default=100_000, help="steps a game is given (default 100000)")
    args = parser.parse_args()
    with jax.enable_x64(True):
        for family in args.families.split(";"):
            for row in judge(family, args.games, args.tuning, args.limit):
                print(json.dumps(asdict(row)), flush=True)


if __name__ == "__main__":
    main()
