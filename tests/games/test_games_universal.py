"""The (k + 1)-player game: its table of exact values, its gain against brute force, and its learners."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.games.game import MatrixGame, uniform
from jaxalign.games.learner import run
from jaxalign.games.learners.adaptive_comal import AdaptiveComal
from jaxalign.games.learners.comal import Comal
from jaxalign.games.metrics import exploitability
from jaxalign.games.populations import all_rankings, condorcet, ordered, random_rankings, random_utility, two_types
from jaxalign.games.universal import (
    PopulationGame,
    ceiling,
    guarantee,
    majority,
    robust_win_rate,
    win_rate,
    worst_against_sets,
)

# share of users who prefer a → k → (equilibrium probability of a, robust win rate, that of the two-player Nash policy)
TABLE = {
    0.51: {
        1: (1.0, 0.5, 0.50),
        2: (0.530000, 0.666667, 0.51),
        3: (0.517503, 0.75, 0.51),
        4: (0.513639, 0.80, 0.51),
        8: (0.510325, 0.888889, 0.51),
    },
    0.60: {
        1: (1.0, 0.5, 0.50),
        2: (0.800000, 0.666667, 0.60),
        3: (0.678175, 0.75, 0.60),
        4: (0.638897, 0.80, 0.60),
        8: (0.604146, 0.888889, 0.60),
    },
    0.80: {
        1: (1.0, 0.5, 0.5),
        2: (1.0, 0.666667, 0.666667),
        3: (1.0, 0.75, 0.75),
        4: (1.0, 0.8, 0.8),
        8: (0.843002, 0.888889, 0.80),
        16: (0.805008, 0.941176, 0.80),
    },
}


def game_of(population, k=1) -> PopulationGame:
    return PopulationGame(jnp.asarray(population[0]), jnp.asarray(population[1]), k)


@pytest.fixture(scope="module")
def solutions() -> dict[float, dict[int, tuple[np.ndarray, float, float]]]:
    """share → k → (equilibrium policy, its robust win rate, the robust win rate of always answering a)."""
    with jax.enable_x64(True):
        order = jnp.asarray(two_types(0.5)[0])

        @jax.jit
        @jax.vmap
        def solve(share, k):
            game = PopulationGame(order, jnp.stack([share, 1 - share]), k)
            logp = run(AdaptiveComal(), game, uniform(2, jnp.float64), jnp.asarray([4000]), 4000).logp[0]
            return jnp.exp(logp), robust_win_rate(game, logp), robust_win_rate(game, jnp.asarray([0.0, -1e4]))

        cells = [(share, k) for share, row in TABLE.items() for k in row]
        found = solve(jnp.asarray([share for share, _ in cells]), jnp.asarray([k for _, k in cells]))
        table: dict[float, dict[int, tuple[np.ndarray, float, float]]] = {share: {} for share in TABLE}
        for (share, k), policy, rate, nash in zip(cells, *map(np.asarray, found), strict=True):
            table[share][k] = policy, float(rate), float(nash)
        return table


@pytest.mark.parametrize("share", TABLE)
def test_equilibria_and_robust_win_rates_match_to_the_printed_digits(share, solutions):
    for k, (mass, rate, nash) in TABLE[share].items():
        policy, found, collapsed = solutions[share][k]
        assert policy[0] == pytest.approx(mass, abs=0.51e-6)
        assert found == pytest.approx(rate, abs=0.51e-6)
        assert collapsed == pytest.approx(nash, abs=0.51e-6)
        assert found == pytest.approx(guarantee(k), abs=1e-8)


def test_two_samples_have_a_closed_form():
    for share in (0.5, 0.55, 0.7):
        game = game_of(two_types(share), 2)
        found = run(AdaptiveComal(), game, uniform(2, jnp.float64), jnp.asarray([3000]), 3000).logp[0]
        assert jnp.exp(found[0]) == pytest.approx(np.clip(3 * share - 1, 0, 1), abs=1e-7)


def test_opponents_with_several_responses_meet_the_known_rates(solutions):
    order, weights = two_types(0.6)
    policy = solutions[0.6][4][0]
    for opponents, rate, bound, cap in ((1, 0.800, 0.8, 0.8), (2, 0.615, 0.6, 0.667), (3, 0.524, 0.4, 0.571)):
        assert worst_against_sets(order, weights, policy, 4, opponents) == pytest.approx(rate, abs=0.51e-3)
        assert guarantee(4, opponents) == pytest.approx(bound)
        assert ceiling(4, opponents) == pytest.approx(cap, abs=0.51e-3)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_gain_is_what_counting_every_draw_gives(k):
    order, weights = random_rankings(np.random.default_rng(k), 4, 3)
    policy = np.random.default_rng(9).dirichlet(np.ones(3))
    rank = np.argsort(order, axis=-1)
    expected = np.zeros(3)
    for action, user in itertools.product(range(3), range(4)):
        for draw in itertools.product(range(3), repeat=k):
            together = (action, *draw)
            best = max(rank[user, each] for each in together)
            picked = [each for each in together if rank[user, each] == best]
            expected[action] += weights[user] * np.prod(policy[list(draw)]) * (rank[user, action] == best) / len(picked)
    np.testing.assert_allclose(game_of((order, weights), k).gain(jnp.asarray(policy)), expected, atol=1e-14)


def test_against_sets_counts_ties_as_brute_force_does():
    order, weights = random_rankings(np.random.default_rng(0), 3, 3)
    policy, k, opponents = np.random.default_rng(1).dirichlet(np.ones(3)), 2, 2
    rank = np.argsort(order, axis=-1)

    def wins(chosen):
        total = 0.0
        for user, draw in itertools.product(range(3), itertools.product(range(3), repeat=k)):
            best = max(rank[user, each] for each in (*chosen, *draw))
            theirs = sum(rank[user, each] == best for each in chosen)
            ours = sum(rank[user, each] == best for each in draw)
            total += weights[user] * np.prod(policy[list(draw)]) * ours / (ours + theirs)
        return total

    brute = min(wins(chosen) for chosen in itertools.product(range(3), repeat=opponents))
    assert worst_against_sets(order, weights, policy, k, opponents) == pytest.approx(brute, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5, 16, 63])
def test_gains_sum_to_the_value_under_the_policy_itself(k):
    game = game_of(random_rankings(np.random.default_rng(k), 6, 5), k)
    policy = jnp.asarray(np.random.default_rng(k).dirichlet(np.ones(5)))
    assert policy @ game.gain(policy) == pytest.approx(1 / (k + 1), abs=1e-14)
    assert win_rate(game, jnp.log(policy), jnp.log(policy)) == pytest.approx(k / (k + 1), abs=1e-14)


def test_a_user_who_does_not_care_is_no_mixture_of_rankings():
    """k = 4, policy (.8, .2): among five answers that one likes alike each is picked with 1/5; the mixture differs."""
    gain = game_of(two_types(0.5), 4).gain(jnp.asarray([0.8, 0.2]))
    by_hand = [(1 - 0.2**5 + 0.8**5) / (10 * 0.8), (1 - 0.8**5 + 0.2**5) / (10 * 0.2)]
    np.testing.assert_allclose(gain, by_hand, atol=1e-14)
    assert abs(gain - 0.2).min() > 0.03


def liking(users: int = 5, actions: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What actions are worth to users who like some alike, one of them all, and the users' weights."""
    rng = np.random.default_rng(seed)
    utility = rng.integers(0, 3, (users, actions)).astype(float)
    utility[0] = 1.0
    return utility, rng.dirichlet(np.ones(users))


def tied_game(utility: np.ndarray, weights: np.ndarray, k: int = 1) -> PopulationGame:
    order, tied = ordered(utility)
    return PopulationGame(jnp.asarray(order), jnp.asarray(weights), k, jnp.asarray(tied))


def picked(utility: np.ndarray, weights: np.ndarray, ours: tuple[int, ...], theirs: tuple[int, ...]) -> float:
    """The weight of users who pick one of theirs, counted."""
    best = utility[:, [*ours, *theirs]].max(-1, keepdims=True)
    mine, others = ((utility[:, list(each)] == best).sum(-1) for each in (ours, theirs))
    return float(weights @ (others / (mine + others)))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_gains_of_indifferent_users_are_what_counting_every_draw_gives(k):
    utility, weights = liking(seed=k)
    policy = np.random.default_rng(k).dirichlet(np.ones(4))
    draws = list(itertools.product(range(4), repeat=k))
    expected = [
        sum(np.prod(policy[list(draw)]) * picked(utility, weights, draw, (action,)) for draw in draws)
        for action in range(4)
    ]
    np.testing.assert_allclose(tied_game(utility, weights, k).gain(jnp.asarray(policy)), expected, atol=1e-14)


def test_a_user_who_does_not_care_gives_every_action_the_value():
    gain = tied_game(np.zeros((1, 2)), np.ones(1), 4).gain(jnp.asarray([0.8, 0.2]))
    np.testing.assert_allclose(gain, 0.2, atol=1e-14)


def test_against_sets_indifferent_users_share_as_brute_force_does():
    (utility, weights), k = liking(4, 3, seed=5), 2
    order, tied = ordered(utility)
    policy = np.random.default_rng(6).dirichlet(np.ones(3))
    draws = list(itertools.product(range(3), repeat=k))
    brute = min(
        sum(np.prod(policy[list(draw)]) * (1 - picked(utility, weights, draw, chosen)) for draw in draws)
        for chosen in itertools.product(range(3), repeat=2)
    )
    assert worst_against_sets(order, weights, policy, k, 2, tied) == pytest.approx(brute, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("k", [1, 2, 5, 63])
def test_the_game_of_indifferent_users_is_monotone_and_of_constant_sum(seed, k):
    game, rng = tied_game(*liking(seed=seed), k), np.random.default_rng(seed)
    one, other = (jnp.asarray(rng.dirichlet(np.full(4, 0.3))) for _ in range(2))
    assert one @ game.gain(one) == pytest.approx(1 / (k + 1), abs=1e-13)
    assert (game.gain(one) - game.gain(other)) @ (one - other) <= 1e-13


def test_ties_that_nobody_has_change_nothing():
    order, weights = random_rankings(np.random.default_rng(7), 6, 5)
    strict, policy = game_of((order, weights), 3), jnp.asarray(np.random.default_rng(8).dirichlet(np.ones(5)))
    told = PopulationGame(strict.order, strict.weights, 3, jnp.zeros(order.shape, bool))
    np.testing.assert_allclose(told.gain(policy), strict.gain(policy), atol=1e-15)
    found = ordered(np.argsort(order, -1).astype(float))
    np.testing.assert_array_equal(found[0], order)
    assert not found[1].any()


def test_of_one_sample_indifferent_users_count_half():
    utility, weights = liking(seed=2)
    order, tied = ordered(utility)
    matrix = majority(order, weights, tied)
    by_hand = np.einsum("o,oij->ij", weights, (1 + np.sign(utility[:, :, None] - utility[:, None, :])) / 2)
    np.testing.assert_allclose(matrix, by_hand, atol=1e-15)
    policy = jnp.asarray(np.random.default_rng(3).dirichlet(np.ones(4)))
    game = tied_game(utility, weights)
    np.testing.assert_allclose(game.gain(policy), MatrixGame(jnp.asarray(matrix)).gain(policy), atol=1e-14)


def test_learners_reach_the_equilibrium_of_indifferent_users():
    game = tied_game(*liking(seed=1), 3)
    found = run(AdaptiveComal(), game, uniform(4, jnp.float64), jnp.asarray([4000]), 4000).logp[0]
    assert robust_win_rate(game, found) == pytest.approx(guarantee(3), abs=1e-8)


@pytest.mark.parametrize("k", [0, 64, 1000])
def test_more_samples_than_the_quadrature_is_exact_for_are_refused(k):
    for each in (k, jnp.asarray(k), np.array([2.0, k])):
        with pytest.raises(ValueError, match=f"k is .*{k}"):
            game_of(two_types(0.6), each)


def test_of_traced_numbers_of_samples_those_out_of_range_are_nan():
    gains = jax.vmap(lambda k: game_of(two_types(0.6), k).gain(jnp.asarray([0.8, 0.2])))(jnp.asarray([0, 1, 63, 64]))
    np.testing.assert_array_equal(jnp.isnan(gains).any(-1), [True, False, False, True])


def test_one_sample_is_the_alignment_game_of_the_majority():
    order, weights = random_rankings(np.random.default_rng(4), 9, 5)
    policy = jnp.asarray(np.random.default_rng(5).dirichlet(np.ones(5)))
    matrix = MatrixGame(jnp.asarray(majority(order, weights)))
    np.testing.assert_allclose(game_of((order, weights)).gain(policy), matrix.gain(policy), atol=1e-14)


@pytest.mark.parametrize("k", [2, 4])
def test_comal_with_fixed_steps_converges_on_the_cyclic_population(k):
    """From the uniform policy to an exploitability below 2e-9 in 40 rounds of 400 steps at tau .1."""
    game = game_of(condorcet(np.array([0.5, 0.3, 0.2])), k)
    found = run(Comal(0.3, 0.1, 400), game, uniform(3, jnp.float64), jnp.asarray([16_000]), 16_000).logp[0]
    assert exploitability(game, uniform(3, jnp.float64)) > 1e-2
    assert exploitability(game, found) < 2e-9


def test_equilibrium_is_unique_for_several_samples_from_any_start():
    game = game_of(random_utility(np.random.default_rng(2), np.linspace(0, 1, 4), 30, 0.7), 3)
    starts = jnp.log(jnp.asarray(np.random.default_rng(3).dirichlet(np.ones(4), 6)))
    found = jax.vmap(lambda begin: run(AdaptiveComal(), game, begin, jnp.asarray([4000]), 4000).logp[0])(starts)
    assert jax.vmap(lambda each: exploitability(game, each))(found).max() < 1e-9
    np.testing.assert_allclose(jnp.exp(found), jnp.broadcast_to(jnp.exp(found[0]), found.shape), atol=1e-4)


def test_no_policy_beats_the_bound_on_uniform_rankings():
    """M responses, all rankings: the robust win rate is at most k / (k + 1) + k / M, and k / (k + 1) when uniform."""
    game = game_of(all_rankings(5), 2)
    assert robust_win_rate(game, uniform(5, jnp.float64)) <= 2 / 3 + 2 / 5
    assert robust_win_rate(game, uniform(5, jnp.float64)) == pytest.approx(2 / 3, abs=1e-12)


def test_single_precision_gains_are_single_precision(fp32):
    game = PopulationGame(jnp.asarray(two_types(0.6)[0]), jnp.asarray([0.6, 0.4], jnp.float32), 4)
    gain = game.gain(jnp.asarray([0.638897, 0.361103], jnp.float32))
    assert gain.dtype == jnp.float32
    np.testing.assert_allclose(gain, 0.2, atol=1e-5)


@pytest.fixture
def fp32() -> None:
    """Runs the test in JAX's default precision."""
