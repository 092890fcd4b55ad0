"""The skew spectrum, round factors, verdicts, and the certificates of sampled preference matrices."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.games.certificates import (
    SILENT,
    contraction,
    diagnose,
    inner_gap,
    leading_frequency,
    round_factor,
    run_metrics,
    skew_spectrum,
    smallest_inner,
)
from jaxalign.games.compare import log_policy
from jaxalign.games.divergence import kl
from jaxalign.games.families import bradley_terry, cyclic, planted, three_action
from jaxalign.games.files import read_matrix
from jaxalign.games.game import MatrixGame, uniform
from jaxalign.games.learner import run
from jaxalign.games.learners.comal import Comal
from jaxalign.games.metrics import duality_gap
from jaxalign.games.prox import regularised_gap
from jaxalign.games.solve import nash

RANKED = Path(__file__).parents[3] / "shared" / "data" / "audit" / "bradley_terry8.csv"
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


@pytest.mark.parametrize("seed", range(5))
def test_utilities_alone_do_not_rotate_whatever_rounding_says(seed):
    """P = 1/2 + (u_i - u_j) / 2 has no skew part beside u; in fp32 rounding leaves one of 1e-8."""
    utility = np.random.default_rng(seed).uniform(0, 1, 5).astype(np.float32)
    prefer = np.float32(0.5) + (utility[:, None] - utility[None, :]) / 2
    weights = np.full((1, 5), 0.2)
    assert skew_spectrum(prefer[None], weights).max() < SILENT
    assert contraction(prefer[None], weights, 0.3, 0.1, 12)[0] == 0.0


@pytest.mark.skipif(not RANKED.exists(), reason=f"needs {RANKED}, which lies beside the checkout")
def test_one_annotator_s_ranking_is_reached_in_a_round_and_the_verdict_says_so():
    """Eight answers, step 10, tau .02, K 2: linearised at the uniform policy a round would expand by 2.65."""
    prefer, begin = read_matrix(RANKED), uniform(8, jnp.float64)
    equilibrium = nash(prefer)
    verdict = diagnose(prefer, equilibrium, 10, 0.02, 2)
    found = run(Comal(10, 0.02, 2), MatrixGame(jnp.asarray(prefer)), begin, jnp.asarray([2]), 2).logp[0]
    left = float(kl(jnp.asarray(log_policy(equilibrium)), found))
    assert verdict.contracts
    assert left == pytest.approx(0.0041, abs=1e-4)
    assert verdict.factor < 0.1
    assert contraction(prefer, np.full(8, 1 / 8), 10, 0.02, 2) == pytest.approx(2.654, abs=1e-3)


def test_a_refused_setting_indeed_fails_and_an_accepted_one_does_not():
    game, begin = MatrixGame(jnp.asarray(cyclic(5))), jnp.log(jnp.asarray([0.3, 0.25, 0.2, 0.15, 0.1]))
    for inner in (2, 200):
        found = run(Comal(0.3, 0.1, inner), game, begin, jnp.asarray([24_000]), 24_000).logp[0]
        verdict = diagnose(cyclic(5), nash(cyclic(5)), 0.3, 0.1, inner)
        assert verdict.contracts == bool(duality_gap(game, found) < 1e-6)


def test_inner_gap_of_an_enumeration_is_the_regularised_gap():
    rng = np.random.default_rng(0)
    policies, anchors = rng.dirichlet(np.ones(3), 5), rng.dirichlet(np.ones(3), 5)
    prefer = np.broadcast_to(three_action(), (5, 3, 3))
    found = inner_gap(prefer, np.log(policies / anchors), policies, 0.1)
    game = MatrixGame(jnp.asarray(three_action()))
    expected = [regularised_gap(game, jnp.log(p), jnp.log(a), 0.1) for p, a in zip(policies, anchors, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_inner_gap_of_samples_approaches_that_of_the_policy_from_above():
    rng = np.random.default_rng(0)
    policy, anchor, tau = np.array([0.3, 0.3, 0.4]), np.array([0.2, 0.5, 0.3]), 0.2
    exact = float(inner_gap(three_action(), np.log(policy / anchor), policy, tau))
    means = []
    for samples in (4, 16, 256):
        drawn = rng.choice(3, (400, samples), p=policy)
        prefer = three_action()[drawn[:, :, None], drawn[:, None, :]]
        estimate = inner_gap(prefer, np.log(policy / anchor)[drawn], np.full((400, samples), 1 / samples), tau)
        assert estimate.min() >= -1e-15
        means.append(estimate.mean())
    # The bias falls as 1 / m: from about four times the gap at m = 4 to a tenth of it at 256.
    assert means[0] > means[1] > means[2] > 0.98 * exact
    assert means[2] == pytest.approx(exact, rel=0.2)


def test_inner_gap_stands_log_ratios_of_language_models():
    prefer = np.broadcast_to(three_action(), (2, 3, 3))
    log_ratio = np.array([[1e4, -1e4, 0.0], [250.0, -250.0, 3.0]])
    assert np.isfinite(inner_gap(prefer, log_ratio, np.full((2, 3), 1 / 3), 0.002)).all()


def test_contraction_of_sampled_matrices():
    prefer = np.stack([three_action(), cyclic(3), bradley_terry(np.zeros(3))])
    weights = np.full((3, 3), 1 / 3)
    factors = contraction(prefer, weights, 0.3, 0.1, 100)
    assert (factors[:2] < 1).all()
    assert factors[2] == 0.0
    assert (contraction(prefer, weights, 0.3, 0.1, 1)[:2] > 1).all()
    assert (contraction(prefer, weights, 500.0, 1 / 1500, 6)[:2] > 1).all()


def test_run_metrics_have_the_names_and_means_of_a_run():
    prefer, weights = np.stack([three_action()] * 2), np.full((2, 3), 1 / 3)
    metrics = run_metrics(prefer, np.zeros((2, 3)), weights, 0.3, 0.1, np.inf)
    assert set(metrics) == {"align/inner_gap", "align/contraction"}
    assert 0 < metrics["align/contraction"] < 1
    assert metrics["align/inner_gap"] > 0
