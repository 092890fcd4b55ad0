"""Adaptive COMAL: no tuning, a thousand random games, and what it certifies on the way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.games.divergence import kl
from jaxalign.games.families import cyclic, planted, suite, three_action, with_dominated
from jaxalign.games.game import MatrixGame, uniform
from jaxalign.games.learner import run
from jaxalign.games.learners.adaptive_comal import AdaptiveComal
from jaxalign.games.learners.comal import Comal
from jaxalign.games.many import steps_to_gap
from jaxalign.games.metrics import duality_gap
from jaxalign.games.populations import random_rankings
from jaxalign.games.universal import PopulationGame


@pytest.fixture(scope="module")
def thousand() -> list[np.ndarray]:
    """3 to 50 actions, interior and boundary equilibria; a seed that no constant of the method was chosen on."""
    return suite(np.random.default_rng(2026), 1000)


@pytest.mark.timeout(1200)  # a minute of compute, which a busy machine stretches
def test_reaches_1e8_on_at_least_99_percent_of_random_games_with_defaults(thousand):
    needed = steps_to_gap(AdaptiveComal(), thousand, 1e-8, 100_000)
    share = (needed > 0).mean()
    print(f"adaptive COMAL: {share:.1%} of 1,000 games, steps {np.percentile(needed[needed > 0], [50, 90, 99])}")
    assert share >= 0.99


def test_fixed_steps_with_the_headline_settings_solve_far_fewer(thousand):
    """The same games at eta .3, tau .1, K 100, given 2,000 steps; 100,000 do not help much (see BENCHMARKS.md)."""
    needed = steps_to_gap(Comal(), thousand[:200], 1e-8, 2000)
    adaptive = steps_to_gap(AdaptiveComal(), thousand[:200], 1e-8, 2000)
    print(f"fixed K: {(needed > 0).mean():.1%}, adaptive: {(adaptive > 0).mean():.1%} within 2,000 steps")
    assert (needed > 0).mean() < (adaptive > 0).mean() - 0.2


@pytest.mark.parametrize(
    "prefer",
    [three_action(), cyclic(5), cyclic(6), cyclic(9, 0.01), with_dominated(three_action(), 4), np.full((4, 4), 0.5)],
    ids=["three", "cyclic", "even", "faint", "dominated", "ties"],
)
def test_solves_each_family(prefer):
    game, size = MatrixGame(jnp.asarray(prefer)), len(prefer)
    start = jnp.log(jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(size))))
    assert duality_gap(game, run(AdaptiveComal(), game, start, jnp.asarray([5000]), 5000).logp[0]) < 1e-8


def test_its_certificate_never_exceeds_the_true_progress():
    rng = np.random.default_rng(5)
    for support in (3, 8):
        matrix, nash = planted(rng, 8, support)
        game, equilibrium = MatrixGame(jnp.asarray(matrix)), jnp.log(jnp.maximum(jnp.asarray(nash), 1e-300))
        final = run(AdaptiveComal(), game, uniform(8, jnp.float64), jnp.asarray([3000]), 3000).final
        progress = kl(equilibrium, uniform(8, jnp.float64)) - kl(equilibrium, final.anchor)
        assert 0 < final.certified <= progress + 1e-12
        assert final.rounds > 3


def test_solves_the_many_player_game_for_every_k():
    order, weights = random_rankings(np.random.default_rng(1), 20, 8)
    game = PopulationGame(jnp.asarray(order), jnp.asarray(weights))

    def gap(k):
        many = PopulationGame(game.order, game.weights, k)
        return duality_gap(many, run(AdaptiveComal(), many, uniform(8, jnp.float64), jnp.asarray([3000]), 3000).logp[0])

    assert jax.jit(jax.vmap(gap))(jnp.asarray([1, 2, 4, 8, 16])).max() < 1e-8


def test_single_precision_reaches_single_precision(fp32):
    game = MatrixGame(jnp.asarray(three_action(), jnp.float32))
    start = jnp.log(jnp.asarray([0.2, 0.5, 0.3], jnp.float32))
    assert duality_gap(game, run(AdaptiveComal(), game, start, jnp.asarray([1000]), 1000).logp[0]) < 2e-6


@pytest.fixture
def fp32() -> None:
    """Runs the test in JAX's default precision."""
