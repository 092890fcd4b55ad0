"""Estimates of the regularised gap from samples: what they converge to, and how they err."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.games.divergence import kl
from jaxalign.games.families import three_action
from jaxalign.games.game import MatrixGame
from jaxalign.games.inner_gap import corrected_inner_gap, denoised_inner_gap, inner_gap, inner_metrics
from jaxalign.games.judge_inner_gap import STEPS, rows
from jaxalign.games.prox import regularised_gap
from jaxalign.games.sampled_games import SampledGames, log_weights, mirror_steps


def drawn(prefer, policy, anchor, samples, prompts, seed=0):
    """Sampled matrices [b m m] and log-ratios [b m]."""
    actions = np.random.default_rng(seed).choice(len(policy), (prompts, samples), p=policy)
    return prefer[actions[:, :, None], actions[:, None, :]], np.log(policy / anchor)[actions]


def second_order(prefer, policy, anchor, tau):
    """tau/2 Var h over the whole policy."""
    h = np.log(policy / anchor) - prefer @ policy / tau
    return 0.5 * tau * (policy @ h**2 - (policy @ h) ** 2)


def clusters(size=400):
    """Three clusters of answers that beat one another in a cycle by .9."""
    block = np.random.default_rng(1).integers(0, 3, size)
    ahead = (block[:, None] - block[None, :]) % 3
    return 0.5 + np.where(ahead == 1, 0.4, np.where(ahead == 2, -0.4, 0.0))


def test_the_plug_in_of_an_enumeration_is_the_regularised_gap():
    rng = np.random.default_rng(0)
    policies, anchors = rng.dirichlet(np.ones(3), 5), rng.dirichlet(np.ones(3), 5)
    prefer = np.broadcast_to(three_action(), (5, 3, 3))
    found = inner_gap(prefer, np.log(policies / anchors), policies, 0.1)
    game = MatrixGame(jnp.asarray(three_action()))
    expected = [regularised_gap(game, jnp.log(p), jnp.log(a), 0.1) for p, a in zip(policies, anchors, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_plug_in_stands_log_ratios_of_language_models():
    prefer = np.broadcast_to(three_action(), (2, 3, 3))
    log_ratio = np.array([[1e4, -1e4, 0.0], [250.0, -250.0, 3.0]])
    assert np.isfinite(inner_gap(prefer, log_ratio, np.full((2, 3), 1 / 3), 0.002)).all()


def test_the_plug_in_errs_to_both_sides():
    """Below the truth where a rare answer is the best, above it where the win rates are noisy."""
    rare = np.full((400, 400), 0.5)
    rare[0, 1:], rare[1:, 0] = 0.95, 0.05
    policy = np.append(0.001, np.full(399, 0.999 / 399))
    game = MatrixGame(jnp.asarray(rare))
    truth = float(regularised_gap(game, jnp.log(policy), jnp.log(policy), 0.02))
    prefer, ratio = drawn(rare, policy, policy, 8, 400)
    missed = inner_gap(prefer, ratio, np.full((400, 8), 1 / 8), 0.02)
    assert truth == pytest.approx(0.311, abs=1e-3)
    assert missed.mean() < 0.05 * truth
    noisy, uniform = clusters(), np.full(400, 1 / 400)
    truth = float(regularised_gap(MatrixGame(jnp.asarray(noisy)), jnp.log(uniform), jnp.log(uniform), 0.1))
    prefer, ratio = drawn(noisy, uniform, uniform, 8, 400)
    assert inner_gap(prefer, ratio, np.full((400, 8), 1 / 8), 0.1).mean() > 5 * truth


@pytest.mark.parametrize("samples", [3, 8])
@pytest.mark.parametrize("tau", [0.02, 0.3])
def test_the_corrected_estimate_is_unbiased(samples, tau):
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(40, 40))
    prefer = 1 / (1 + np.exp(-(scores - scores.T)))
    policy, anchor = rng.dirichlet(np.full(40, 2.0)), rng.dirichlet(np.full(40, 2.0))
    found = corrected_inner_gap(*drawn(prefer, policy, anchor, samples, 20_000), tau)
    error = found.std() / len(found) ** 0.5
    assert abs(found.mean() - second_order(prefer, policy, anchor, tau)) < 4 * error


@pytest.mark.parametrize("steps", [20, 60])
def test_near_the_solution_the_corrected_estimate_is_the_gap_and_the_plug_in_is_noise(steps):
    rng, tau = np.random.default_rng(3), 0.1
    scores = rng.normal(size=(60, 60))
    prefer = 1 / (1 + np.exp(-(scores - scores.T)))
    anchor = log_weights(rng.dirichlet(np.full(60, 2.0))[None])
    policy = mirror_steps(prefer[None], anchor, anchor, 2.0, tau, steps)
    truth = float(regularised_gap(MatrixGame(jnp.asarray(prefer)), jnp.asarray(policy[0]), jnp.asarray(anchor[0]), tau))
    sampled, ratio = drawn(prefer, np.exp(policy[0]), np.exp(anchor[0]), 8, 4000)
    corrected = corrected_inner_gap(sampled, ratio, tau)
    error = corrected.std() / len(corrected) ** 0.5
    assert abs(corrected.mean() - truth) < 4 * error + 0.1 * truth
    assert inner_gap(sampled, ratio, np.full(ratio.shape, 1 / 8), tau).mean() > 0.008 + truth
    assert error < 0.001


def better(share, size=50):
    """The policy, and the game, of one answer of that probability which beats the others .95 to .05."""
    prefer = np.full((size, size), 0.5)
    prefer[0, 1:], prefer[1:, 0] = 0.95, 0.05
    return prefer, np.append(share, np.full(size - 1, (1 - share) / (size - 1)))


@pytest.mark.parametrize(
    ("share", "tau", "truth", "second"),
    [(0.1, 0.1, 0.184, 0.091), (0.05, 0.1, 0.147, 0.048), (0.05, 0.02, 0.368, 0.241), (0.02, 0.02, 0.363, 0.099)],
)
def test_the_second_order_is_too_small_where_few_answers_are_better_and_less_noise_is_right(share, tau, truth, second):
    prefer, policy = better(share)
    game = MatrixGame(jnp.asarray(prefer))
    assert float(regularised_gap(game, jnp.log(policy), jnp.log(policy), tau)) == pytest.approx(truth, abs=1e-3)
    assert second_order(prefer, policy, policy, tau) == pytest.approx(second, abs=1e-3)
    sampled, ratio = drawn(prefer, policy, policy, 512, 60)
    found = denoised_inner_gap(sampled, ratio, tau)
    assert abs(found.mean() - truth) < 4 * found.std() / 60**0.5 + 0.01 * truth
    games = SampledGames.of(sampled, np.full(ratio.shape, 1 / 512), ratio)
    assert inner_metrics(games, np.zeros(60, bool), tau)["align/inner_gap_corrected"] == pytest.approx(found.mean())


@pytest.mark.parametrize("tau", [0.02, 0.1])
def test_noise_of_few_samples_does_not_make_an_unsolved_problem_look_solved(tau):
    """Less its noise the plug-in of eight samples is far below zero at a small tau; the second order is logged then."""
    noisy, uniform = clusters(), np.full(400, 1 / 400)
    sampled, ratio = drawn(noisy, uniform, uniform, 8, 2000)
    second, less = (each(sampled, ratio, tau) for each in (corrected_inner_gap, denoised_inner_gap))
    assert less.mean() < -4 * less.std() / 2000**0.5
    logged = inner_metrics(SampledGames.of(sampled, np.full(ratio.shape, 1 / 8), ratio), np.zeros(2000, bool), tau)
    assert logged["align/inner_gap_corrected"] == pytest.approx(second.mean())
    assert abs(second.mean() - second_order(noisy, uniform, uniform, tau)) < 4 * second.std() / 2000**0.5


def test_the_metrics_of_a_run():
    rng = np.random.default_rng(4)
    policy, anchor = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3))
    prefer, ratio = drawn(three_action(), policy, anchor, 6, 50)
    samples, none = SampledGames.of(prefer, np.full((50, 6), 1 / 6), ratio), np.zeros(50, bool)
    metrics = inner_metrics(samples, none, 0.1)
    pair = [each(prefer, ratio, 0.1) for each in (corrected_inner_gap, denoised_inner_gap)]
    each = max(pair, key=np.mean)
    assert metrics["align/inner_gap_corrected"] == pytest.approx(each.mean())
    assert metrics["align/inner_gap_stderr"] == pytest.approx(each.std(ddof=1) / 50**0.5)
    assert metrics["align/anchor_kl_nats"] == pytest.approx(ratio.mean())
    one = SampledGames.of(prefer[:1], np.full((1, 6), 1 / 6), ratio[:1])
    assert "align/inner_gap_stderr" not in inner_metrics(one, none[:1], 0.1)
    whole = SampledGames.of(three_action()[None], policy[None], np.log(policy / anchor)[None])
    metrics = inner_metrics(whole, np.ones(1, bool), 0.1)
    assert metrics["align/inner_gap_corrected"] == metrics["align/inner_gap"]
    assert metrics["align/inner_gap_stderr"] == 0.0
    assert metrics["align/anchor_kl_nats"] == pytest.approx(float(kl(jnp.log(policy), jnp.log(anchor))))
    two = SampledGames.of(prefer[:, :2, :2], np.full((50, 2), 0.5), ratio[:, :2])
    metrics = inner_metrics(two, none, 0.1)
    assert metrics["align/inner_gap_corrected"] == metrics["align/inner_gap"]


def test_the_table_of_the_benchmarks_has_its_rows():
    table = rows("Elo and noise")
    assert [row["steps"] for row in table] == list(STEPS)
    last = table[-1]
    assert last["truth"] < 1e-4
    assert last["plug_in"] > 0.01
    assert abs(last["second"]) < 4 * last["second_stderr"]
