"""The theorems as properties of random games, a hundred at a time: each test sees at least 1,000 games."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxalign.games.divergence import kl
from jaxalign.games.families import planted, random_skew
from jaxalign.games.game import MatrixGame
from jaxalign.games.learner import Anchored, run
from jaxalign.games.learners.inpo import INPO, mirror_step
from jaxalign.games.learners.mwu import MWU
from jaxalign.games.metrics import exploitability
from jaxalign.games.populations import random_rankings
from jaxalign.games.prox import best_response, prox, regularised_gap, solved
from jaxalign.games.universal import PopulationGame, regret_bound, step_size

BATCH, STEPS = 100, 200
thousand_games = settings(
    max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SEEDS = st.integers(0, 2**32 - 1)


def planted_batch(seed: int, actions: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices, their equilibria (log, the support 1 … 7 actions wide), and random full-support starts (log)."""
    rng = np.random.default_rng(seed)
    games = [planted(rng, actions, int(rng.integers(1, actions + 1))) for _ in range(BATCH)]
    starts = np.log(rng.dirichlet(np.ones(actions), BATCH) * 0.99 + 0.01 / actions)
    nash = np.stack([policy for _, policy in games])
    return np.stack([matrix for matrix, _ in games]), np.log(np.maximum(nash, 1e-300)), starts


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, 0, None))
def slack_of_prox(matrix, equilibrium, logp, tau):
    def step(logp, _):
        after = prox(MatrixGame(matrix), logp, tau)
        drop = kl(equilibrium, logp) - kl(equilibrium, after)
        return after, drop - kl(after, logp)

    return jax.lax.scan(step, logp, None, length=3)[1]


@thousand_games
@given(SEEDS, st.sampled_from([0.02, 0.1, 0.5, 2.0]))
def test_exact_prox_steps_approach_every_equilibrium(seed, tau):
    """Lemma 4: KL(π* ‖ π') <= KL(π* ‖ π) - KL(π' ‖ π), three steps in a row."""
    matrices, nash, starts = (jnp.asarray(part) for part in planted_batch(seed))
    # KLs here reach about 10 nats; their rounding, and the solver's, stays below 1e-12.
    assert slack_of_prox(matrices, nash, starts, tau).min() >= -1e-12


def test_what_the_solver_leaves_is_said():
    """Of 100 actions at tau .01 sixty Newton steps solve the regularised game, ten do not."""
    game, start = MatrixGame(jnp.asarray(random_skew(np.random.default_rng(1), 100))), jnp.full(100, -jnp.log(100.0))
    for limit, done in ((60, True), (10, False)):
        found = solved(game, start, 0.01, limit)
        np.testing.assert_allclose(found.gap, regularised_gap(game, found.logp, start, 0.01), rtol=1e-3, atol=1e-25)
        assert (found.gap < 1e-20) == done
        assert (found.gap > 1e-3) != done


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, 0, None, None))
def slack_of_mirror_descent(matrix, anchor, logp, eta, tau):
    game = MatrixGame(matrix)
    solution = prox(game, anchor, tau)

    def step(logp, _):
        after = mirror_step(game, Anchored(logp, anchor), eta, tau)
        return after, (1 - eta * tau) * kl(solution, logp) - kl(solution, after)

    return jax.lax.scan(step, logp, None, length=5)[1]


@thousand_games
@given(SEEDS, st.floats(0.05, 1.5))
def test_mirror_descent_contracts_at_the_certified_step_size(seed, tau):
    """KL(π*_tau ‖ μ') <= (1 - eta tau) KL(π*_tau ‖ μ) at eta = 4 tau / (1 + 4 tau²), from any μ and anchor."""
    matrices, _, anchors = (jnp.asarray(part) for part in planted_batch(seed))
    _, _, starts = planted_batch(seed + 1)
    eta = 4 * tau / (1 + 4 * tau**2)
    assert slack_of_mirror_descent(matrices, anchors, jnp.asarray(starts), eta, tau).min() >= -1e-12


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, 0, None, None))
def difference_of_fit(matrix, anchor, last, eta, pull):
    pairs = jnp.exp(last)[:, None] * jnp.exp(last)[None, :]

    def loss(logits):
        h = logits - pull * anchor - (1 - pull) * last
        margin = h[:, None] - h[None, :]
        return (pairs * (matrix * (margin - eta / 2) ** 2 + (1 - matrix) * (margin + eta / 2) ** 2)).sum()

    # Quadratic and blind to a constant: one Newton step with that direction pinned is the exact minimiser.
    system = jax.hessian(loss)(last) + jnp.ones((5, 5))
    fitted = jax.nn.log_softmax(last - jnp.linalg.solve(system, jax.grad(loss)(last)))
    return jnp.abs(fitted - mirror_step(MatrixGame(matrix), Anchored(last, anchor), eta, pull / eta)).max()


@thousand_games
@given(SEEDS, st.floats(0.05, 2.0), st.floats(0.0, 1.0))
def test_least_squares_on_policy_pairs_is_one_mirror_step(seed, eta, pull):
    """argmin E_{y, y' ~ π⊗π} over labels (h - ± eta/2)² is the mirror step; any other pair law gives another."""
    matrices, _, starts = (jnp.asarray(part) for part in planted_batch(seed, 5))
    anchors = jnp.roll(starts, 1, axis=0)
    # Rare actions make the least-squares system ill-conditioned: up to 1e4 times rounding.
    assert difference_of_fit(matrices, anchors, starts, eta, pull).max() < 1e-10


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, 0, None))
def inner_of_gains(order, weights, pair, k):
    game = PopulationGame(order, weights, k)
    return (game.gain(pair[0]) - game.gain(pair[1])) @ (pair[0] - pair[1])


@thousand_games
@given(SEEDS, st.sampled_from([1, 2, 3, 5, 8, 16, 63]))
def test_the_population_game_is_monotone(seed, k):
    """<u_k(π) - u_k(π'), π - π'> <= 0, zero for k = 1, where the game is zero-sum."""
    rng = np.random.default_rng(seed)
    populations = [random_rankings(rng, 5, 6) for _ in range(BATCH)]
    order, weights = (jnp.asarray(np.stack(part)) for part in zip(*populations, strict=True))
    policies = jnp.asarray(rng.dirichlet(np.full(6, 0.5), (BATCH, 2)))
    products = inner_of_gains(order, weights, policies, k)
    assert products.max() <= 1e-15
    if k == 1:
        np.testing.assert_allclose(products, 0, atol=1e-15)


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, None))
def best_deviation_of_self_play(order, weights, k):
    game = PopulationGame(order, weights, k)
    start = jnp.full(6, -jnp.log(6.0))
    found = run(MWU(step_size(6, STEPS)), game, start, jnp.arange(1, STEPS), STEPS)
    played = jnp.concatenate([start[None], found.logp])
    return jax.vmap(game.gain)(jnp.exp(played)).mean(0).max()


@thousand_games
@given(SEEDS, st.sampled_from([1, 2, 4, 8]))
def test_no_regret_self_play_meets_its_bound(seed, k):
    """(1/T) Σ_t P(π' beats π_t^k) <= 1 / (k + 1) + sqrt(ln |Y| / (2 T)), for the best π' in hindsight."""
    rng = np.random.default_rng(seed)
    populations = [random_rankings(rng, 5, 6) for _ in range(BATCH)]
    order, weights = (jnp.asarray(np.stack(part)) for part in zip(*populations, strict=True))
    assert best_deviation_of_self_play(order, weights, k).max() <= 1 / (k + 1) + regret_bound(6, STEPS) / STEPS


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, 0, None))
def three_ways_of_gap(matrix, anchor, logp, tau):
    game, policy = MatrixGame(matrix), jnp.exp(logp)
    response, solution = best_response(game, logp, anchor, tau), prox(game, anchor, tau)
    payoff = jnp.exp(response) @ (matrix - 0.5) @ policy
    by_definition = payoff - tau * kl(response, anchor) + tau * kl(logp, anchor)
    by_solution = tau * kl(logp, solution) + tau * kl(solution, response)
    return jnp.stack([regularised_gap(game, logp, anchor, tau), by_definition, by_solution])


@thousand_games
@given(SEEDS, st.floats(0.02, 2.0))
def test_the_regularised_gap_is_a_computable_distance(seed, tau):
    """max_μ J_tau(μ, π) = tau KL(π ‖ BR(π)) = tau KL(π ‖ π*_tau) + tau KL(π*_tau ‖ BR(π))."""
    matrices, _, anchors = (jnp.asarray(part) for part in planted_batch(seed))
    _, _, policies = planted_batch(seed + 1)
    gap, by_definition, by_solution = three_ways_of_gap(matrices, anchors, jnp.asarray(policies), tau).T
    # log-ratios reach 1 / tau = 50 nats and are multiplied by tau again: a few hundred roundings of 1e-16.
    np.testing.assert_allclose(gap, by_definition, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(gap, by_solution, rtol=1e-10, atol=1e-13)


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, 0, 0, None))
def slack_of_certificate(matrix, equilibrium, anchor, logp, tau):
    response = best_response(MatrixGame(matrix), logp, anchor, tau)
    progress = kl(equilibrium, anchor) - kl(equilibrium, response)
    return progress - (kl(logp, anchor) - kl(logp, response))


@thousand_games
@given(SEEDS, st.floats(0.02, 2.0))
def test_an_accepted_anchor_is_closer_to_every_equilibrium_by_the_certificate(seed, tau):
    """KL(π* ‖ a) - KL(π* ‖ BR(μ)) >= KL(μ ‖ a) - KL(μ ‖ BR(μ)) for any μ at all, not only accepted ones."""
    matrices, nash, anchors = (jnp.asarray(part) for part in planted_batch(seed))
    _, _, policies = planted_batch(seed + 1)
    assert slack_of_certificate(matrices, nash, anchors, jnp.asarray(policies), tau).min() >= -1e-11


def test_inpo_converges_linearly_where_the_certificate_says_so():
    """A hand-sized instance of the contraction: after 100 steps the bound and the run are both below 1e-9."""
    rng = np.random.default_rng(0)
    game, start, tau = MatrixGame(jnp.asarray(random_skew(rng, 6))), jnp.full(6, -jnp.log(6.0)), 0.3
    eta = 4 * tau / (1 + 4 * tau**2)
    solution = prox(game, start, tau)
    found = run(INPO(eta, tau), game, start, jnp.asarray([100]), 100)
    bound = (1 - eta * tau) ** 100 * kl(solution, start)
    assert kl(solution, found.logp[0]) <= bound < 1e-9
    assert exploitability(game, found.logp[0]) > 1e-3, "the regularised equilibrium is not the game's"
