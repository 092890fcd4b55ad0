"""Chances to be picked: against sets that are listed, closed forms, and the (k + 1)-player game."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom

from jaxalign.games.picks import gains_of_law, gains_of_samples, gains_of_sets, kept, over_draws, over_sets
from jaxalign.games.populations import ordered
from jaxalign.games.universal import PopulationGame

CLOSE = {"rtol": 0, "atol": 1e-10}
"""What the nodes are said to be exact to."""


def user(kind: str, answers: int, rng: np.random.Generator) -> np.ndarray:
    """P(i ≻ j) of a user: who scores, hot or cold, or who is certain and likes some alike."""
    if kind == "likes some alike":
        score = rng.integers(0, 3, answers).astype(float)
        return 0.5 + np.sign(score[:, None] - score[None, :]) / 2
    score = rng.normal(size=answers) * {"calm": 0.3, "sharp": 4.0, "nearly certain": 12.0}[kind]
    return 1 / (1 + np.exp(score[None, :] - score[:, None]))


KINDS = ("calm", "sharp", "nearly certain", "likes some alike")


def pick(prefer: np.ndarray, answer: int, others: tuple[int, ...]) -> float:
    """Chance that `answer` is picked from it and the others."""
    with np.errstate(divide="ignore"):
        return float(1 / (1 + sum((1 - prefer[answer, each]) / prefer[answer, each] for each in others)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_gains_of_samples_are_means_over_the_sets_that_there_are(kind, k):
    prefer = user(kind, 6, np.random.default_rng(k))
    expected = [
        np.mean([pick(prefer, answer, each) for each in itertools.combinations(set(range(6)) - {answer}, k)])
        for answer in range(6)
    ]
    np.testing.assert_allclose(gains_of_samples(prefer, k, np.arange(6)), expected, **CLOSE)
    np.testing.assert_allclose(
        gains_of_samples(prefer[[4, 1]], k, np.array([4, 1])), np.take(expected, [4, 1]), **CLOSE
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_gains_of_a_law_are_means_over_every_draw(kind, k):
    rng = np.random.default_rng(k)
    prefer, law = user(kind, 4, rng), rng.dirichlet(np.ones(4))
    draws = list(itertools.product(range(4), repeat=k))
    expected = [sum(np.prod(law[list(each)]) * pick(prefer, answer, each) for each in draws) for answer in range(4)]
    np.testing.assert_allclose(gains_of_law(prefer, law, k), expected, **CLOSE)


@pytest.mark.parametrize("k", [1, 2, 4, 16, 63])
def test_of_a_law_they_are_the_gains_of_the_game(k):
    rng = np.random.default_rng(k)
    utility, weights = rng.integers(0, 4, (5, 7)).astype(float), rng.dirichlet(np.ones(5))
    law = rng.dirichlet(np.full(7, 0.5))
    order, tied = ordered(utility)
    game = PopulationGame(jnp.asarray(order), jnp.asarray(weights), k, jnp.asarray(tied))
    prefer = 0.5 + np.sign(utility[:, :, None] - utility[:, None, :]) / 2
    np.testing.assert_allclose(gains_of_law(prefer, law, k), game.gain_by_user(jnp.asarray(law)), **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("answers", "k"), [(2, 1), (9, 1), (9, 2), (40, 16), (64, 63)])
def test_whatever_was_drawn_somebody_is_picked(kind, answers, k):
    """Gains of m answers sum to m / (k + 1), those under a law to 1 / (k + 1)."""
    rng = np.random.default_rng(k)
    prefer, law = user(kind, answers, rng), rng.dirichlet(np.ones(answers))
    assert gains_of_samples(prefer, k, np.arange(answers)).mean() == pytest.approx(1 / (k + 1), abs=1e-10)
    assert law @ gains_of_law(prefer, law, k) == pytest.approx(1 / (k + 1), abs=1e-10)


def test_of_more_sets_than_fp64_counts_there_is_a_mean():
    """Of 1,100 answers that a user likes alike, one of 501 is picked."""
    assert gains_of_samples(np.full((1, 1100), 0.5), 500, np.array([0])) == pytest.approx(1 / 501, rel=1e-9)


def test_of_one_other_they_are_what_the_user_says():
    prefer = user("sharp", 5, np.random.default_rng(0))
    expected = (prefer.sum(1) - 0.5) / 4
    np.testing.assert_allclose(gains_of_samples(prefer, 1, np.arange(5)), expected, **CLOSE)
    odd = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]])  # who prefers 0 to 1 to 2 to 0
    np.testing.assert_allclose(gains_of_samples(odd, 1, np.arange(3)), (odd.sum(1) - 0.5) / 2, **CLOSE)


def test_of_a_strict_ranking_the_gain_has_the_law_that_it_is_said_to_have():
    """C(R, k) / C(m − 1, k), R of the m − 1 others worse; its mean over binomial R is the mass below to the k."""
    rank = np.random.default_rng(1).permutation(9)
    prefer = 0.5 + np.sign(rank[:, None] - rank[None, :]) / 2
    found = gains_of_samples(prefer, 3, np.arange(9))
    np.testing.assert_allclose(found, [math.comb(each, 3) / math.comb(8, 3) for each in rank], **CLOSE)
    worse = np.arange(9)
    mean = binom.pmf(worse, 8, 0.4) @ [math.comb(each, 3) / math.comb(8, 3) for each in worse]
    assert mean == pytest.approx(0.4**3)


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_unbiased(kind):
    """Every way to draw four others from a law, with its chance: the mean gain is the law's, for each k."""
    rng = np.random.default_rng(2)
    prefer, law = user(kind, 3, rng), rng.dirichlet(np.ones(3))
    for k in (1, 2, 4):
        mean = np.zeros(3)
        for others in itertools.product(range(3), repeat=4):
            for answer in range(3):
                drawn = [answer, *others]
                found = gains_of_samples(prefer[np.ix_([answer], drawn)], k, np.array([0]))
                mean[answer] += np.prod(law[list(others)]) * found[0]
        np.testing.assert_allclose(mean, gains_of_law(prefer, law, k), **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_sets_win_what_listing_every_draw_says(kind):
    rng = np.random.default_rng(4)
    prefer, law = user(kind, 3, rng), rng.dirichlet(np.ones(3))
    sets = list(itertools.combinations_with_replacement(range(3), 2))
    for k in (1, 3):
        draws = [(np.prod(law[list(each)]), each) for each in itertools.product(range(3), repeat=k)]
        expected = [
            sum(
                chance * sum(pick(prefer, one, (*ours, other)) for one, other in (chosen, chosen[::-1]))
                for chance, ours in draws
            )
            for chosen in sets
        ]
        np.testing.assert_allclose(gains_of_sets(prefer, law, (1, k), 2)[1], expected, **CLOSE)
    np.testing.assert_allclose(gains_of_sets(prefer, law, (2,), 1)[0], gains_of_law(prefer, law, 2), **CLOSE)


def test_sets_and_draws_of_none_are_one():
    each = kept(user("calm", 4, np.random.default_rng(3)))
    np.testing.assert_array_equal(over_sets(each, 2, 4)[0], 1.0)
    np.testing.assert_array_equal(over_draws(each, np.full(4, 0.25), 2)[0], 1.0)
    np.testing.assert_allclose(over_sets(each, 1, 4)[1], over_draws(each, np.full(4, 0.25), 1)[1], atol=1e-15)
