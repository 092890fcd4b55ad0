"""The skew spectrum, round factors and verdicts of games whose equilibrium is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.games.certificates import (
    diagnose,
    leading_frequency,
    round_factor,
    skew_spectrum,
    smallest_inner,
    step_modulus,
)
from jaxalign.games.divergence import kl
from jaxalign.games.families import bradley_terry, cyclic, planted, three_action
from jaxalign.games.game import MatrixGame
from jaxalign.games.learner import run
from jaxalign.games.learners.comal import Comal
from jaxalign.games.metrics import duality_gap
from jaxalign.games.solve import nash

NASH = np.array([4, 3, 4]) / 11
OMEGA = 0.208893


def test_frequency_of_the_three_action_game():
    np.testing.assert_allclose(skew_spectrum(three_action(), NASH), [0, OMEGA, OMEGA], atol=0.51e-6)
    assert leading_frequency(MatrixGame(jnp.asarray(three_action())), jnp.asarray(NASH)) == pytest.approx(
        OMEGA, abs=1e-6
    )


def test_spectrum_equals_the_eigenvalues_of_the_linearised_game():
    prefer, policy = planted(np.random.default_rng(1), 7, 7)
    eigenvalues = np.linalg.eigvals(np.diag(policy) @ (prefer - 0.5))
    np.testing.assert_allclose(skew_spectrum(prefer, policy), np.sort(np.abs(eigenvalues.imag)), atol=1e-12)
    # Power iteration closes in on the top from below, at a rate set by the distance to the next frequency.
    top = leading_frequency(MatrixGame(jnp.asarray(prefer)), jnp.asarray(policy), 200)
    assert top == pytest.approx(np.abs(eigenvalues.imag).max(), rel=1e-3)


@pytest.mark.parametrize(
    ("eta", "tau", "fewest"),
    [(0.3, 0.1, 11), (0.3, 0.3, 6), (1, 0.3, 4), (1, 1 / 3, 3), (0.1, 0.1, 18), (0.05, 0.1, 25)],
)
def test_fewest_inner_steps_that_contract(eta, tau, fewest):
    assert smallest_inner(np.array([OMEGA]), eta, tau) == fewest


@pytest.mark.parametrize(("inner", "contracts"), [(1, False), (6, False), (10, False), (12, True), (25, True)])
def test_the_verdict_is_what_then_happens(inner, contracts):
    """Started 1e-3 from the Nash policy at (.3, .1): runs approach or leave it as the factor says, and at its rate."""
    game, rounds = MatrixGame(jnp.asarray(three_action())), 30
    begin = jnp.log(jnp.asarray(NASH + np.array([1e-3, -1e-3, 0])))
    found = run(Comal(0.3, 0.1, inner), game, begin, jnp.asarray([inner * rounds]), inner * rounds).logp[0]
    nash_logp = jnp.log(jnp.asarray(NASH))
    measured = (kl(nash_logp, found) / kl(nash_logp, begin)) ** (0.5 / rounds)
    verdict = diagnose(three_action(), NASH, 0.3, 0.1, inner)
    assert verdict.contracts == contracts
    assert measured == pytest.approx(verdict.factor, rel=0.02)


def test_round_factors_known_to_three_digits():
    assert round_factor(np.array(OMEGA), 0.3, 0.1, 25) == pytest.approx(0.875, abs=0.51e-3)
    assert round_factor(np.array(OMEGA), 0.3, 0.1, 100) == pytest.approx(0.444, abs=0.51e-3)
    for tau, factor in ((0.02, 0.0953), (0.05, 0.2328), (0.1, 0.4318), (0.2, 0.6916), (0.3, 0.8207), (0.5, 0.9227)):
        assert round_factor(np.array(OMEGA), 0.3, tau, np.inf) == pytest.approx(factor, abs=0.51e-4)
    assert round_factor(np.array(OMEGA), 0.3, 0.0, 7) == pytest.approx(abs(1 + 0.3j * OMEGA) ** 7)


def test_verdicts_say_what_to_change():
    few = diagnose(three_action(), NASH, 0.3, 0.1, 6)
    assert not few.contracts
    assert "at least 11 inner steps" in few.reason
    assert "eta must be below 2 tau" in diagnose(three_action(), NASH, 10, 1 / 30, 6).reason
    assert "exceeds 1" in diagnose(three_action(), NASH, 10, 1, 6).reason
    sure = diagnose(bradley_terry(np.arange(4.0)), np.eye(4)[3], 0.3, 0.1, 1)
    assert sure.contracts


def test_the_verdict_on_a_pure_equilibrium_is_the_rate_at_which_the_rest_vanishes():
    prefer, inner = bradley_terry(np.array([0.0, 1.0, 2.5])), 5
    verdict = diagnose(prefer, np.eye(3)[2], 0.3, 0.1, inner)
    begin = jnp.log(jnp.asarray([1e-7, 1e-6, 1 - 1.1e-6]))
    found = run(Comal(0.3, 0.1, inner), MatrixGame(jnp.asarray(prefer)), begin, jnp.asarray([inner]), inner).logp[0]
    # The second-best action is the slowest and has nearly all of the rest.
    assert verdict.factor == pytest.approx(float(jnp.exp(found[1] - begin[1])), rel=1e-3)
    assert 0.5 < verdict.factor < 1
    assert diagnose(np.full((3, 3), 0.5), np.full(3, 1 / 3), 0.3, 0.1, inner).contracts


def test_the_verdict_counts_actions_that_the_equilibrium_leaves_out():
    """A fourth action loses to each of three by .002: rounds that shrink a deviation by .44 take it away by .6 %."""
    prefer = np.full((4, 4), 0.5)
    prefer[:3, :3], prefer[:3, 3], prefer[3, :3] = three_action(), 0.502, 0.498
    inner, count = 100, 10
    verdict = diagnose(prefer, np.append(NASH, 0), 0.3, 0.1, inner)
    begin = jnp.log(jnp.asarray([*(NASH * (1 - 1e-3)), 1e-3]))
    found = run(Comal(0.3, 0.1, inner), MatrixGame(jnp.asarray(prefer)), begin, jnp.asarray([1000]), 1000).logp[0]
    left = jnp.exp(found[3] - begin[3]) ** (1 / count)
    assert verdict.contracts
    assert verdict.factor == pytest.approx(float(left) ** 0.5, rel=1e-4)
    assert 0.98 < verdict.factor < 1
    prefer[:3, 3] = prefer[3, :3] = 0.5
    assert diagnose(prefer, np.append(NASH, 0), 0.3, 0.1, inner).factor == pytest.approx(0.444, abs=0.51e-3)


def test_a_factor_of_1_is_neither_contraction_nor_expansion():
    still = diagnose(three_action(), NASH, 0.0, 0.1, 5)
    assert (still.contracts, still.factor) == (False, 1.0)
    assert still.reason.startswith("a round does not contract: ")
    assert smallest_inner(np.array([OMEGA]), 0.0, 0.1) is None


def test_a_refused_setting_indeed_fails_and_an_accepted_one_does_not():
    game, begin = MatrixGame(jnp.asarray(cyclic(5))), jnp.log(jnp.asarray([0.3, 0.25, 0.2, 0.15, 0.1]))
    for inner in (2, 200):
        found = run(Comal(0.3, 0.1, inner), game, begin, jnp.asarray([24_000]), 24_000).logp[0]
        verdict = diagnose(cyclic(5), nash(cyclic(5)), 0.3, 0.1, inner)
        assert verdict.contracts == bool(duality_gap(game, found) < 1e-6)


def test_the_modulus_of_a_step_is_1_at_the_largest_stable_step():
    stable = 2 * 0.1 / (0.1**2 + OMEGA**2)
    assert step_modulus(np.array(OMEGA), stable, 0.1) == pytest.approx(1.0)
    assert step_modulus(np.array(OMEGA), 0.99 * stable, 0.1) < 1 < step_modulus(np.array(OMEGA), 1.01 * stable, 0.1)
    # The setting that looked safest: a round of exact steps would have the factor .095.
    assert step_modulus(np.array(OMEGA), 10, 0.02) == pytest.approx(2.24, abs=0.01)
