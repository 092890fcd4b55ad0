"""Preference matrices with known structure. All are float64 NumPy arrays [v v] with P + Pᵀ = 1 and diagonal 1/2.

Three-action game: COMAL (arXiv 2410.23223) synthetic experiment. Cyclic, planted and mixture families are ours.
"""

import numpy as np
from jaxtyping import Float

Matrix = Float[np.ndarray, "v v"]


def three_action() -> Matrix:
    """a, b, c with P(b beats a) = P(c beats b) = 0.9 and P(a beats c) = 0.8; Nash (4, 3, 4) / 11."""
    return np.array([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])


def cyclic(actions: int, strength: float = 0.4) -> Matrix:
    """Rock-paper-scissors generalised: each action beats the (v - 1) // 2 before it with probability 1/2 + strength.

    For odd v the uniform policy is an interior Nash equilibrium. For even v the opposite action is a tie and the
    uniform policy is one of a continuum of equilibria. Raises ValueError unless strength is within [0, 0.5].
    """
    if not 0.0 <= strength <= 0.5:
        raise ValueError(f"strength is {strength}; a probability 1/2 + strength needs it within [0, 0.5]")
    ahead = (np.arange(actions)[:, None] - np.arange(actions)[None, :]) % actions
    beats = (ahead > 0) & (2 * ahead < actions)
    loses = 2 * ahead > actions
    return 0.5 + strength * (beats.astype(float) - loses.astype(float))


def with_dominated(prefer: Matrix, extra: int, margin: float = 0.1) -> Float[np.ndarray, "w w"]:
    """The game plus `extra` actions that lose to each old one by `margin`: a Nash equilibrium on the boundary."""
    size = len(prefer)
    wide = np.full((size + extra, size + extra), 0.5)
    wide[:size, :size] = prefer
    wide[size:, :size], wide[:size, size:] = 0.5 - margin, 0.5 + margin
    return wide


def random_skew(rng: np.random.Generator, actions: int, scale: float = 0.5) -> Matrix:
    """1/2 + skew, entries uniform on [-scale, scale]; its Nash equilibrium usually leaves half of the actions out."""
    upper = np.triu(rng.uniform(-scale, scale, (actions, actions)), 1)
    return 0.5 + upper - upper.T


def planted(rng: np.random.Generator, actions: int, support: int) -> tuple[Matrix, Float[np.ndarray, " v"]]:
    """A random game and its planted symmetric equilibrium, which puts mass on the first `support` actions.

    From skew B and the wanted payoffs c (zero on the support, negative off it), A = B - w 1ᵀ + 1 wᵀ with
    w = B π - c is skew and A π = c. An odd `support` makes the equilibrium unique for almost every draw: a skew
    matrix of odd order has a kernel of one dimension, one of even order has none or two. Raises ValueError unless
    1 <= support <= actions.
    """
    if not 1 <= support <= actions:
        raise ValueError(f"support is {support}; it must lie within 1 ... actions = {actions}")
    policy = np.zeros(actions)
    policy[:support] = rng.dirichlet(np.full(support, 3.0))
    upper = np.triu(rng.uniform(-1.0, 1.0, (actions, actions)), 1)
    skew = upper - upper.T
    payoff = np.where(np.arange(actions) < support, 0.0, -rng.uniform(0.05, 0.5, actions))
    shift = skew @ policy - payoff
    skew = skew - shift[:, None] + shift[None, :]
    return 0.5 + 0.5 * skew / max(np.abs(skew).max(), 1e-12), policy


def bradley_terry(scores: Float[np.ndarray, " v"]) -> Matrix:
    """P(i beats j) = sigmoid(scores[i] - scores[j]): transitive; its equilibrium is the best action."""
    margin = scores[:, None] - scores[None, :]
    return 0.5 + 0.5 * np.tanh(0.5 * margin)


def mixture(scores: Float[np.ndarray, "o v"], weights: Float[np.ndarray, " o"]) -> Matrix:
    """Weighted mean of Bradley-Terry annotators. Two with equal weights never cycle; others can."""
    return np.einsum("o,oij->ij", weights / weights.sum(), np.stack([bradley_terry(row) for row in scores]))


def suite(rng: np.random.Generator, count: int, largest: int = 50) -> list[Matrix]:
    """`count` random games of 3 ... `largest` actions, in turn: uniform skew (equilibrium on a random support), planted
    interior equilibrium, planted equilibrium on the boundary, mixture of three Bradley-Terry annotators."""
    games = []
    for index in range(count):
        actions = int(rng.integers(3, largest + 1))
        if index % 4 == 0:
            games.append(random_skew(rng, actions))
        elif index % 4 == 1:
            games.append(planted(rng, actions, actions)[0])
        elif index % 4 == 2:
            games.append(planted(rng, actions, int(rng.integers(1, actions)))[0])
        else:
            scores = rng.normal(size=(3, actions)) * rng.uniform(0.3, 3.0)
            games.append(mixture(scores, rng.dirichlet(np.ones(3))))
    return games
