"""To which policies pairing rules lead: COMAL's recursion on the three-action game, expectations taken exactly.

The law of a rule's pair is a sum over all multisets of m draws from the policy, the fit a least-squares problem in
three log-ratios. Duality gaps.
"""

import math
from itertools import combinations_with_replacement

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.games.families import three_action
from jaxalign.games.pairs import BestWorst

GAME, ACTIONS = three_action(), 3


def gap(policy: np.ndarray) -> float:
    return 2 * float((GAME @ policy - 0.5).max())


def independent(policy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The law of a pair drawn i.i.d. [3 3], and how surely the first is preferred: by the game."""
    return np.outer(policy, policy), GAME


def ranked(samples: int, texts: bool):
    """The law of best and worst of `samples` draws, the better rank certain.

    `texts` says whether equal actions are one text, a candidate once, or every draw a text of its own, as a language
    model's nearly always are.
    """
    draws = np.array(list(combinations_with_replacement(range(ACTIONS), samples)))
    votes = GAME[draws[:, :, None], draws[:, None, :]]
    named = draws if texts else np.broadcast_to(np.arange(samples), draws.shape)
    first, second = BestWorst()(jax.random.key(0), jnp.asarray(named), jnp.asarray(votes))
    row = np.arange(len(draws))
    best, worst = draws[row, np.asarray(first)], draws[row, np.asarray(second)]
    counts = (draws[:, :, None] == np.arange(ACTIONS)).sum(1)
    orders = np.array([math.factorial(samples) / math.prod(map(math.factorial, each)) for each in counts])

    def law(policy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pairs = np.zeros((ACTIONS, ACTIONS))
        np.add.at(pairs, (best, worst), orders * np.prod(policy**counts, 1))
        return pairs, np.ones((ACTIONS, ACTIONS))

    return law


def iterates(law, step: float, tau: float, swap: int | None, iterations: int) -> np.ndarray:
    """Policies [iterations 3] of COMAL from (.2, .5, .3), each the exact least squares of INPO's loss."""
    policy = anchor = np.log([0.2, 0.5, 0.3])
    found = []
    for iteration in range(iterations):
        weight, prefer = law(np.exp(policy))
        wanted = weight * (2 * prefer - 1) * step / 2
        both = weight + weight.T
        # Σ w_ij (h_i - h_j - wanted_ij)²: a graph Laplacian, whose pseudo-inverse leaves the constant out.
        pulled = np.linalg.pinv(np.diag(both.sum(1)) - both, rcond=1e-13) @ (wanted.sum(1) - wanted.sum(0))
        policy = (1 - step * tau) * policy + step * tau * anchor + pulled
        policy = policy - np.logaddexp.reduce(policy)
        if swap and (iteration + 1) % swap == 0:
            anchor = policy
        found.append(np.exp(policy))
    return np.array(found)


@pytest.mark.parametrize(("step", "tau", "swap"), [(1.5, 0.1, 12), (0.3, 0.1, 100)])
def test_independent_pairs_lead_to_the_equilibrium(step, tau, swap):
    last = iterates(independent, step, tau, swap, 6000)[-1]
    assert gap(last) < 1e-10
    np.testing.assert_allclose(last, np.array([4, 3, 4]) / 11, atol=1e-9)


def test_independent_pairs_without_swaps_lead_to_the_regularised_equilibrium():
    assert gap(iterates(independent, 1.5, 0.1, None, 2000)[-1]) == pytest.approx(0.0588, abs=5e-5)


@pytest.mark.parametrize(
    ("samples", "texts", "policy", "left"),
    [
        (2, True, (1 / 3, 1 / 3, 1 / 3), 0.0667),
        (8, False, (1 / 3, 1 / 3, 1 / 3), 0.0667),
        (5, True, (0.4343, 0.1315, 0.4343), 0.1554),
        (8, True, (0.4584, 0.0832, 0.4584), 0.2085),
    ],
)
def test_best_against_worst_with_small_steps_leads_to_another_policy(samples, texts, policy, left):
    """Certain labels make a tournament of the game, whose equilibrium is uniform; fewer texts than draws shift it."""
    last = iterates(ranked(samples, texts), 0.3, 0.1, 100, 4000)[-1]
    np.testing.assert_allclose(last, policy, atol=2e-4)
    assert gap(last) == pytest.approx(left, abs=2e-4)


@pytest.mark.parametrize(
    ("samples", "texts", "swap", "least", "most"),
    [
        (8, True, 12, 0.09, 0.38),
        (8, False, 12, 0.08, 0.51),
        (8, True, None, 0.04, 0.43),
        (8, False, None, 0.12, 0.44),
    ],
)
def test_best_against_worst_never_settles_at_a_step_where_independent_pairs_do(samples, texts, swap, least, most):
    """Step 1.5, tau .1: the gap of the last thousand of 4,000 iterates swings between these."""
    gaps = [gap(policy) for policy in iterates(ranked(samples, texts), 1.5, 0.1, swap, 4000)[-1000:]]
    np.testing.assert_allclose([min(gaps), max(gaps)], [least, most], atol=0.015)


@pytest.mark.parametrize(("swap", "left"), [(12, 0.0667), (None, 0.0879)])
def test_the_better_of_two_settles_at_a_gap(swap, left):
    """Of two draws best and worst are an i.i.d. pair: it is the certain label alone that changes the game."""
    assert gap(iterates(ranked(2, True), 1.5, 0.1, swap, 3000)[-1]) == pytest.approx(left, abs=1e-4)
