"""Ten families of games that no constant of a learner was chosen on, 2 to 100 actions, for judging learners.

Disc games and spinning tops as in Balduzzi et al. 2019 (arXiv 1901.08106) and Czarnecki et al. 2020 (arXiv 2004.09468),
Blotto as in Borel 1921; the others are skew matrices with a structure. Matrices as in `families`.
"""

from collections.abc import Callable, Mapping
from itertools import product

import numpy as np

from jaxalign.games.families import Matrix, mixture, random_skew

Draw = Callable[[np.random.Generator], Matrix]


def of_skew(skew: np.ndarray) -> Matrix:
    """1/2 + skew / 2, the skew scaled down where its largest entry exceeds 1."""
    return 0.5 + 0.5 * skew / max(1.0, float(np.abs(skew).max()))


def uniform_hundred(rng: np.random.Generator) -> Matrix:
    """Uniform skew, 100 actions: about half of them in the equilibrium."""
    return random_skew(rng, 100)


def disc(rng: np.random.Generator) -> Matrix:
    """3 to 60 actions; two rotations of random points in the plane, summed and squashed by tanh."""
    actions = int(rng.integers(3, 61))
    skew = np.zeros((actions, actions))
    for _ in range(2):
        x, y = rng.normal(size=(2, actions))
        skew += np.outer(x, y) - np.outer(y, x)
    return of_skew(np.tanh(skew))


def blotto(rng: np.random.Generator, soldiers: int | None = None, hard: bool | None = None) -> Matrix:
    """All ways to spread 4 to 8 soldiers over three fields of unequal value (15 to 45 actions).

    Hard: who takes more value wins. Soft: wins with the sigmoid of four times the difference in value.
    """
    soldiers = int(rng.integers(4, 9)) if soldiers is None else soldiers
    hard = bool(rng.integers(2)) if hard is None else hard
    ways = np.array([way for way in product(range(soldiers + 1), repeat=3) if sum(way) == soldiers])
    difference = np.sign(ways[:, None, :] - ways[None, :, :]) @ rng.dirichlet(np.full(3, 5.0))
    # Equal values cancel only up to rounding; without rounding them away a tie would be decided by it.
    return of_skew(np.sign(difference.round(12)) if hard else np.tanh(2.0 * difference))


def heavy_tailed(rng: np.random.Generator) -> Matrix:
    """5 to 60 actions; entries of Student's t with 1.5 degrees of freedom: few decide, most nearly tie."""
    actions = int(rng.integers(5, 61))
    upper = np.triu(rng.standard_t(1.5, (actions, actions)), 1)
    return of_skew(upper - upper.T)


def block_cyclic(rng: np.random.Generator) -> Matrix:
    """3, 5 or 7 blocks of 2 to 8 actions, each block ahead of half of the others; noise of a tenth everywhere."""
    blocks, each = int(rng.choice([3, 5, 7])), int(rng.integers(2, 9))
    block = np.repeat(np.arange(blocks), each)
    ahead = (block[:, None] - block[None, :]) % blocks
    skew = np.where(ahead == 0, 0.0, np.where(2 * ahead < blocks, 0.8, -0.8))
    noise = np.triu(rng.uniform(-0.1, 0.1, skew.shape), 1)
    return of_skew(skew + noise - noise.T)


def tournament(rng: np.random.Generator) -> Matrix:
    """3 to 60 actions; every pair is decided for certain by a coin."""
    actions = int(rng.integers(3, 61))
    upper = np.triu(rng.choice([-1.0, 1.0], (actions, actions)), 1)
    return of_skew(upper - upper.T)


def panel(rng: np.random.Generator) -> Matrix:
    """3 to 60 actions; three raters of random weight with scores of their own, near-certain votes."""
    actions = int(rng.integers(3, 61))
    return mixture(rng.normal(size=(3, actions)) * rng.uniform(3.0, 20.0), rng.dirichlet(np.full(3, 5.0)))


def spinning_top(rng: np.random.Generator) -> Matrix:
    """5 to 60 actions; skill decides, and cycles within a skill level are widest in the middle."""
    actions = int(rng.integers(5, 61))
    skill = np.sort(rng.uniform(-1.0, 1.0, actions))
    upper = np.triu(rng.normal(size=(actions, actions)), 1)
    width = np.sqrt(np.outer(1.0 - skill**2, 1.0 - skill**2))
    return of_skew(np.tanh(2.0 * (skill[:, None] - skill[None, :]) + width * (upper - upper.T)))


def two_actions(rng: np.random.Generator) -> Matrix:
    """One number: by how much the first action is ahead."""
    ahead = float(rng.uniform(-1.0, 1.0))
    return of_skew(np.array([[0.0, ahead], [-ahead, 0.0]]))


def faint(rng: np.random.Generator) -> Matrix:
    """3 to 60 actions, uniform skew of 1e-4: all preferences nearly tie."""
    return random_skew(rng, int(rng.integers(3, 61)), 1e-4)


FAMILIES: Mapping[str, Draw] = {
    "uniform skew, 100 actions": uniform_hundred,
    "disc": disc,
    "Blotto": blotto,
    "heavy-tailed": heavy_tailed,
    "block-cyclic": block_cyclic,
    "tournament": tournament,
    "panel of 3": panel,
    "spinning top": spinning_top,
    "2 actions": two_actions,
    "faint": faint,
}
