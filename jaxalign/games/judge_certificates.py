"""Do certificates come true? Exact runs on small random games, beside what was said of each before its first step.

`python -m jaxalign.games.judge_certificates` prints a row for each family and kind of schedule (rounds of COMAL, INPO
with a fixed anchor): of the games that `stability` calls contracting the share on which the exact recursion comes to
its goal, and of those that it calls expanding the share on which it does not. The goal is the Nash policy, for INPO
the equilibrium regularised around the start; it is reached when KL(goal ‖ policy) is a thousandth of what it was.
Then a row with the share of games that are solved by anchors swapped at fixed numbers of iterations, and adaptively.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from jaxalign.games.families import Matrix, bradley_terry, mixture, planted, random_skew
from jaxalign.games.foreign import Draw, of_skew
from jaxalign.games.sampled_games import SampledGames, adaptive_rounds, gaps, kl, log_weights, mirror_steps, rounds
from jaxalign.games.stability import Setting, stability

STEPS = 6000
"""Steps of a run: a factor that shrinks KL by less than a thousand in so many is not judged."""

REACHED = 1e-3

SWAPS = (1, 2, 5, 10, 20, 50)
"""Iterations a swap that the adaptive anchor is compared with."""

WITHIN, NEAR = 600, 1e-2
"""Steps, and the duality gap that is asked for after them."""


def ranked(rng: np.random.Generator, size: int) -> Matrix:
    """One Bradley-Terry annotator: transitive, and with frequencies at every policy but the equilibrium."""
    return bradley_terry(rng.normal(size=size) * rng.uniform(0.5, 5.0))


def panel(rng: np.random.Generator, size: int) -> Matrix:
    """Three Bradley-Terry annotators of random weights, near-certain votes."""
    return mixture(rng.normal(size=(3, size)) * rng.uniform(3.0, 20.0), rng.dirichlet(np.full(3, 5.0)))


def interior(rng: np.random.Generator, size: int) -> Matrix:
    """A planted equilibrium of all answers but the last few; their number is odd."""
    return planted(rng, size, 2 * ((size - 1) // 4) + 1)[0]


def tops(rng: np.random.Generator, size: int) -> Matrix:
    """Skill decides, but for noise of the same size."""
    skill, noise = rng.normal(size=size), np.triu(rng.normal(size=(size, size)), 1)
    return of_skew(np.tanh(skill[:, None] - skill[None, :] + noise - noise.T))


FAMILIES: Mapping[str, Draw] = {
    "Bradley-Terry": lambda rng: ranked(rng, ANSWERS),
    "panel of 3": lambda rng: panel(rng, ANSWERS),
    "spinning top": lambda rng: tops(rng, ANSWERS),
    "uniform skew": lambda rng: random_skew(rng, ANSWERS),
    "planted interior": lambda rng: interior(rng, ANSWERS),
}
ANSWERS = 8


@dataclass
class Tally:
    """How often a certificate of each kind was given, and came true."""

    contracting: int = 0
    contracted: int = 0
    expanding: int = 0
    diverged: int = 0
    calm: int = 0
    """games without a mixed equilibrium, of which no local factor speaks"""
    calm_reached: int = 0
    undecided: int = 0
    """too slow to be judged in `STEPS` steps"""

    def add(self, factors: Float[np.ndarray, " b"], reached: Bool[np.ndarray, " b"], count: int) -> None:
        """What was said of b games, and whether each came to its goal in `count` rounds or steps."""
        local = ~np.isnan(factors)
        slow = local & (np.abs(np.log(np.maximum(factors, 1e-300))) * 2 * count < -np.log(REACHED) * 1.5)
        away = local & ~slow & (factors > 1.0)
        near = local & ~slow & (factors < 1.0)
        self.undecided += int(slow.sum())
        self.contracting, self.contracted = (
            self.contracting + int(near.sum()),
            self.contracted + int(reached[near].sum()),
        )
        self.expanding, self.diverged = self.expanding + int(away.sum()), self.diverged + int((~reached)[away].sum())
        self.calm, self.calm_reached = self.calm + int((~local).sum()), self.calm_reached + int(reached[~local].sum())


@dataclass(frozen=True)
class Row:
    """Verdicts on one family of games under one schedule."""

    family: str
    schedule: str
    tally: Tally = field(default_factory=Tally)


def settings(rng: np.random.Generator, count: int, swapped: bool) -> list[Setting]:
    """Steps of .1 to 30 and pulls of .01 to .5, log-uniform, step times tau at most 1; 1 to 40 inner steps."""
    found: list[Setting] = []
    while len(found) < count:
        step, tau = (
            float(np.exp(rng.uniform(np.log(0.1), np.log(30)))),
            float(np.exp(rng.uniform(np.log(0.01), np.log(0.5)))),
        )
        if step * tau <= 1:
            found.append(Setting(step, tau, int(np.exp(rng.uniform(0, np.log(40)))) if swapped else None))
    return found


def judge(family: str, swapped: bool, games: int, tried: int, seed: int = 0) -> Row:
    """`games` games of a family at each of `tried` settings, started at random policies."""
    rng = np.random.default_rng([seed, list(FAMILIES).index(family), swapped])
    row = Row(family, "COMAL" if swapped else "INPO")
    for setting in settings(rng, tried, swapped):
        prefer = np.stack([FAMILIES[family](rng) for _ in range(games)])
        weights = rng.dirichlet(np.full(ANSWERS, 2.0), games)
        sampled = SampledGames.of(prefer, weights)
        factors = stability(sampled, setting).factors
        if setting.inner is None:
            goal, count = sampled.regularised(setting.tau), STEPS
            end = mirror_steps(prefer, sampled.start, sampled.start, setting.step, setting.tau, STEPS)
        else:
            goal, count = log_weights(sampled.nash), STEPS // setting.inner
            end = rounds(prefer, sampled.start, setting.step, setting.tau, setting.inner, count)
        reached = kl(goal, end) <= np.maximum(REACHED * kl(goal, sampled.start), 1e-12)
        row.tally.add(factors, reached, count)
    return row


def compare(family: str, games: int, tried: int, seed: int = 0) -> dict[str, float]:
    """Share of games whose duality gap is at most `NEAR` after `WITHIN` steps, by schedule: the anchor swapped every so
    many iterations, or by the certificate; the same games, starts and settings for all."""
    rng = np.random.default_rng([seed, list(FAMILIES).index(family), 7])
    solved: dict[str, list[float]] = {}
    for setting in settings(rng, tried, swapped=False):
        prefer = np.stack([FAMILIES[family](rng) for _ in range(games)])
        start = log_weights(rng.dirichlet(np.full(ANSWERS, 2.0), games))
        ends = {
            f"swap_every {inner}": rounds(prefer, start, setting.step, setting.tau, inner, WITHIN // inner)
            for inner in SWAPS
        }
        ends["adaptive"] = adaptive_rounds(prefer, start, setting.step, setting.tau, 0.5, WITHIN)[0]
        for name, logp in ends.items():
            solved.setdefault(name, []).append(float((gaps(prefer, logp) <= NEAR).mean()))
    return {name: float(np.mean(shares)) for name, shares in solved.items()}


def main() -> None:
    """Prints a line of JSON for each family with and without swaps, and what the schedules solve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", type=int, default=10, help="games at each setting (default 10)")
    parser.add_argument("--settings", type=int, default=40, help="settings of each family and schedule (default 40)")
    args = parser.parse_args()
    for family in FAMILIES:
        for swapped in (True, False):
            print(json.dumps(asdict(judge(family, swapped, args.games, args.settings))), flush=True)
        found = compare(family, args.games, args.settings)
        print(json.dumps({"family": family, "solved": {name: round(share, 3) for name, share in found.items()}}))


if __name__ == "__main__":
    main()
