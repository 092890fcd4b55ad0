"""What is said of a schedule on sampled games is what exact steps on them do; and so is the advice."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.games.advice import advice, at_this_step, described, settles, smaller_steps
from jaxalign.games.certificates import SILENT, diagnose, round_factor, skew_spectrum, step_modulus
from jaxalign.games.families import bradley_terry, cyclic, random_skew, three_action, with_dominated
from jaxalign.games.files import read_matrix
from jaxalign.games.game import MatrixGame
from jaxalign.games.judge_certificates import FAMILIES, judge
from jaxalign.games.learner import run
from jaxalign.games.learners.comal import Comal
from jaxalign.games.prox import prox
from jaxalign.games.sampled_games import SampledGames, equilibria, gaps, kl, log_weights, mirror_steps, rounds
from jaxalign.games.stability import LARGEST, Setting, stability, times

AUDIT = Path(__file__).parents[3] / "shared" / "data" / "audit"
NASH = np.array([[4, 3, 4]]) / 11
QUICKSTART = Setting(10.0, 0.02, 2)


def one(prefer, weights=None, anchor=None):
    """One game; the policy uniform, and its own anchor, unless said otherwise."""
    weights = np.full(len(prefer), 1 / len(prefer)) if weights is None else np.asarray(weights)
    ratio = None if anchor is None else np.log(weights / np.asarray(anchor))[None]
    return SampledGames.of(prefer[None], weights[None], ratio)


# ----------------------------------------------------------------------------------------------------------------------
# Exact steps


def test_rounds_are_those_of_the_learner():
    begin = jnp.log(jnp.asarray([0.2, 0.5, 0.3]))
    expected = run(Comal(0.3, 0.1, 7), MatrixGame(jnp.asarray(three_action())), begin, jnp.asarray([21]), 21).logp
    found = rounds(three_action()[None], np.asarray(begin)[None], 0.3, 0.1, 7, 3)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("tau", [0.001, 0.02, 0.1, 1.0])
def test_regularised_equilibria_are_those_of_the_prox(tau):
    rng = np.random.default_rng(0)
    prefer, anchor = np.stack([random_skew(rng, 8) for _ in range(4)]), rng.dirichlet(np.ones(8), 4)
    games = SampledGames.of(prefer, np.full((4, 8), 1 / 8), np.log(1 / 8 / anchor))
    found = games.regularised(tau)
    for index in range(4):
        expected = prox(MatrixGame(jnp.asarray(prefer[index])), jnp.log(jnp.asarray(anchor[index])), tau)
        np.testing.assert_allclose(np.exp(found[index]), np.exp(expected), atol=1e-6)


def test_equilibria_of_games_with_winners_ties_and_neither():
    tied = np.full((3, 3), 0.5)
    tied[2, :2], tied[:2, 2] = 0.1, 0.9
    prefer = np.stack([bradley_terry(np.array([0.0, 2.0, 1.0])), tied, three_action()])
    found = equilibria(prefer, np.tile([0.6, 0.3, 0.1], (3, 1)))
    np.testing.assert_allclose(found, [[0, 1, 0], [2 / 3, 1 / 3, 0], NASH[0]], atol=1e-7)
    assert SampledGames.of(prefer, np.full((3, 3), 1 / 3)).rotating.tolist() == [False, False, True]


@pytest.mark.parametrize("setting", [Setting(6.0, 0.1, 4), Setting(1.0, 0.1, 2), Setting(1.0, 0.1, None)])
def test_answers_that_are_one_action_are_examined_as_one(setting):
    rng = np.random.default_rng(1)
    drawn = [rng.integers(0, size, 40) for size in (3, 5, 7)]
    prefer = np.stack([random_skew(rng, 7)[np.ix_(each, each)] for each in drawn])
    ratio = np.stack([rng.normal(size=7)[each] for each in drawn])
    games = SampledGames.of(prefer, np.full((3, 40), 1 / 40), ratio)
    merged = games.merged()
    assert merged.prefer.shape == (3, 7, 7)
    np.testing.assert_allclose(merged.prefer + merged.prefer.swapaxes(1, 2), 1.0)
    np.testing.assert_allclose(merged.weights.sum(1), 1.0)
    assert (merged.weights > 0).sum(1).tolist() == [3, 5, 7]
    found, expected = stability(merged, setting), stability(games, setting)
    np.testing.assert_allclose(found.factors, expected.factors, rtol=1e-6)
    assert found.metrics() == pytest.approx(expected.metrics(), rel=1e-5)
    assert found.warning == expected.warning
    if found.warning:
        assert advice(merged, setting) == advice(games, setting)


# ----------------------------------------------------------------------------------------------------------------------
# Transitive games


def test_nothing_is_warned_of_where_one_annotator_ranks():
    """Linearised at the uniform policy, all of these would seem to expand, by 2.5 on average."""
    rng = np.random.default_rng(0)
    prefer = np.stack([bradley_terry(rng.normal(size=8) * 4) for _ in range(100)])
    games = SampledGames.of(prefer, np.full((100, 8), 1 / 8))
    seeming = round_factor(skew_spectrum(prefer, games.weights), 10.0, 0.02, 2).max(-1)
    assert (seeming > 1).all()
    found = stability(games, QUICKSTART)
    metrics = found.metrics()
    assert found.warning == ""
    assert metrics["align/expanding"] == metrics["align/rotating"] == 0.0
    assert "align/contraction" not in metrics
    # A round takes the policies nearly all the way.
    assert metrics["align/round_kl"] < 0.1
    assert metrics["align/round_gap"] < 0.1
    assert stability(games, dataclasses.replace(QUICKSTART, inner=None)).warning == ""


@pytest.mark.skipif(not AUDIT.exists(), reason=f"needs {AUDIT}, which lies beside the checkout")
def test_the_change_of_a_round_is_measured_where_nothing_rotates():
    """Eight answers of one annotator: KL(Nash ‖ policy) 2.079 → 0.0041 nats."""
    prefer = read_matrix(AUDIT / "bradley_terry8.csv")
    metrics = stability(one(prefer), QUICKSTART).metrics()
    assert metrics["align/round_kl"] == pytest.approx(0.0041 / 2.079, rel=0.02)
    verdict = diagnose(prefer, equilibria(prefer[None], np.full((1, 8), 1 / 8))[0], 10, 0.02, 2)
    assert verdict.contracts
    assert verdict.factor < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_utilities_alone_do_not_rotate_whatever_rounding_says(seed):
    """P = 1/2 + (u_i - u_j) / 2 has no skew part beside u; in fp32 rounding leaves one of 1e-8."""
    utility = np.random.default_rng(seed).uniform(0, 1, 5).astype(np.float32)
    prefer = np.float32(0.5) + (utility[:, None] - utility[None, :]) / 2
    games = SampledGames.of(prefer[None], np.full((1, 5), 0.2, np.float32))
    assert skew_spectrum(games.prefer, games.weights).max() < SILENT
    assert not games.rotating.any()
    assert stability(games, Setting(0.3, 0.1, 12)).metrics()["align/expanding"] == 0.0


def test_games_of_ties_are_at_their_equilibrium():
    found = stability(one(np.full((4, 4), 0.5)), QUICKSTART)
    assert found.metrics() == {"align/expanding": 0.0, "align/rotating": 0.0}
    assert found.warning == ""


# ----------------------------------------------------------------------------------------------------------------------
# Games that rotate


@pytest.mark.parametrize("weights", [(0.2, 0.5, 0.3), (0.98, 0.01, 0.01)])
def test_the_local_factor_is_that_at_the_equilibrium_wherever_the_policy_is(weights):
    metrics = stability(one(three_action(), weights), Setting(1.5, 0.1, 12)).metrics()
    assert metrics == {
        "align/expanding": 0.0,
        "align/rotating": 1.0,
        "align/contraction": pytest.approx(0.2251, abs=1e-4),
    }


@pytest.mark.parametrize(
    ("step", "tau", "modulus"), [(10, 0.02, 2.23), (10, 0.1, 2.04), (10, 0.1 / 3, 2.18), (500, 0.002 / 3, 104.4)]
)
def test_inpo_that_never_settles_is_warned_of(step, tau, modulus):
    """The settings under which the exact recursion's duality gap swings up to .6 to .8 for good."""
    games = one(three_action(), (0.2, 0.5, 0.3))
    found = stability(games, Setting(step, tau, None))
    assert found.metrics() == {"align/expanding": 1.0, "align/modulus": pytest.approx(modulus, rel=0.01)}
    assert "leads away" in found.warning
    logp = mirror_steps(games.prefer, games.start, games.start, step, tau, 1500)
    seen = []
    for _ in range(100):
        logp = mirror_steps(games.prefer, logp, games.start, step, tau, 1)
        seen.append(gaps(games.prefer, logp)[0])
    assert max(seen) > 0.55
    assert max(seen) - min(seen) > 0.1


def test_inpo_that_settles_has_the_rate_of_its_modulus():
    games, setting = one(three_action(), (0.2, 0.5, 0.3)), Setting(1.5, 0.1, None)
    found = stability(games, setting)
    assert found.warning == ""
    goal = games.regularised(0.1)
    near = mirror_steps(games.prefer, games.start, games.start, 1.5, 0.1, 60)
    after = mirror_steps(games.prefer, near, games.start, 1.5, 0.1, 60)
    rate = (kl(goal, after) / kl(goal, near))[0] ** (1 / 120)
    assert rate == pytest.approx(found.metrics()["align/modulus"], rel=0.01)


def test_the_modulus_is_taken_around_the_anchor_and_not_around_the_policy():
    """The anchor is what the log-ratio makes of the policy's weights: a policy far away changes nothing."""
    there = [
        stability(one(three_action(), who, anchor=(0.2, 0.5, 0.3)), Setting(10, 0.02, None))
        for who in ((0.2, 0.5, 0.3), (0.999, 0.0005, 0.0005))
    ]
    assert there[0].factors == pytest.approx(there[1].factors, rel=1e-6)


def test_answers_that_are_left_out_count_by_the_rate_at_which_they_vanish():
    """Two more answers that lose to all by .02: slower than the rotation, and the rate of the whole."""
    games, setting = one(with_dominated(three_action(), 2, 0.02)), Setting(1.5, 0.1, 12)
    factor = stability(games, setting).metrics()["align/contraction"]
    assert 0.2251 < factor < 1
    goal, near = log_weights(games.nash), rounds(games.prefer, games.start, 1.5, 0.1, 12, 30)
    after = rounds(games.prefer, near, 1.5, 0.1, 12, 10)
    assert (kl(goal, after) / kl(goal, near))[0] ** (1 / 20) == pytest.approx(factor, rel=1e-3)


def test_answers_that_were_sampled_again_are_not_left_out():
    """Copies of what the equilibrium mixes lose by no margin: the factor is that of the different answers."""
    again = np.array([0, 1, 2, 2, 0, 1, 1])
    setting, prefer = Setting(1.5, 0.1, 12), three_action()
    once = stability(one(prefer), setting).factors
    np.testing.assert_allclose(stability(one(prefer[np.ix_(again, again)]), setting).factors, once, rtol=1e-9)
    assert once[0] == pytest.approx(0.225, abs=1e-3)


def test_few_prompts_that_lead_away_are_counted_and_not_warned_of():
    calm = bradley_terry(np.array([0.0, 1.0, 2.5]))
    games = SampledGames.of(np.stack([three_action(), *[calm] * 9]), np.full((10, 3), 1 / 3))
    found = stability(games, QUICKSTART)
    assert found.metrics()["align/expanding"] == found.metrics()["align/rotating"] == 0.1
    assert found.warning == ""
    more = SampledGames.of(np.stack([three_action(), cyclic(3), *[calm] * 8]), np.full((10, 3), 1 / 3))
    assert "near 2 of these" in stability(more, QUICKSTART).warning


def test_many_prompts_are_thinned_evenly():
    prefer = np.tile(three_action(), (1000, 1, 1))
    thinned = SampledGames.of(prefer, np.arange(3.0, 3003.0).reshape(1000, 3)).thinned()
    assert thinned.prefer.shape == (256, 3, 3)
    assert thinned.weights[-1].tolist() == pytest.approx([3000 / 9003, 3001 / 9003, 3002 / 9003])


@pytest.mark.parametrize("swapped", [True, False], ids=["COMAL", "INPO"])
def test_certificates_come_true(swapped):
    """Of the games said to contract 95 % do, of those said to expand 90 % do not, in every family together."""
    rows = [judge(family, swapped, games=8, tried=4, seed=1) for family in FAMILIES]
    total = {name: sum(getattr(row.tally, name) for row in rows) for name in vars(rows[0].tally)}
    assert total["contracted"] >= 0.95 * total["contracting"] > 0
    assert total["diverged"] >= 0.9 * total["expanding"] > 0
    assert total["calm_reached"] >= 0.95 * total["calm"]
    assert total["undecided"] < 0.4 * 8 * 4 * len(rows)
    ranked = rows[list(FAMILIES).index("Bradley-Terry")].tally
    assert ranked.expanding == 0


# ----------------------------------------------------------------------------------------------------------------------
# Advice


def faint(omega):
    """A rotation of frequency omega alone: rock, paper, scissors, as strong as that takes."""
    return cyclic(3, omega * 3**0.5)


def test_more_iterations_a_swap_are_advised_where_they_do():
    """At omega .05 and the quickstart's setting five or more iterations a swap contract."""
    games = one(faint(0.05), (0.5, 0.3, 0.2))
    assert games.frequencies[0] == pytest.approx(0.05)
    found = at_this_step(games, QUICKSTART)
    assert found is not None
    assert (found.step, found.tau) == (10, 0.02)
    assert found.inner >= 5
    assert round_factor(np.array(0.05), 10, 0.02, found.inner) < 1
    assert settles(games, found)
    assert advice(games, QUICKSTART) == f"swap_every {found.inner} would contract on these answers"


@pytest.mark.parametrize("omega", [0.02, 0.05, 0.1, 0.2, 0.3])
def test_two_inner_steps_at_a_small_tau_expand_at_every_step(omega):
    steps = np.geomspace(1e-3, 10, 200)
    assert min(round_factor(np.array(omega), step, 0.02, 2) for step in steps) > 1 - 1e-9


@pytest.mark.parametrize("omega", [0.15, 0.2, 0.28])
def test_where_nothing_helps_at_a_step_that_is_said_and_a_smaller_one_found(omega):
    games = one(faint(omega), (0.5, 0.3, 0.2))
    assert at_this_step(games, QUICKSTART) is None
    found = next(smaller_steps(games, QUICKSTART))
    assert found.step < 10
    said = advice(games, QUICKSTART)
    none = "no loss.tau and swap_every up to 100 that was tried contracts by 2% or more a round on these answers"
    assert said.startswith(f"{none} at loss.eta 0.1; loss.eta")
    count = 3000 // found.inner
    end = rounds(games.prefer, games.start, found.step, found.tau, found.inner, count)
    goal = log_weights(games.nash)
    assert (kl(goal, end) < 1e-3 * kl(goal, games.start)).all()


@pytest.mark.parametrize(("step", "tau"), [(10, 0.02), (500, 0.002 / 3)])
def test_inpo_is_advised_what_settles(step, tau):
    games, now = one(three_action(), (0.2, 0.5, 0.3)), Setting(step, tau, None)
    assert at_this_step(games, now) is None  # a step above 1 / omega = 4.8
    found = next(smaller_steps(games, now))
    end = mirror_steps(games.prefer, games.start, games.start, found.step, found.tau, 2000)
    assert kl(games.regularised(found.tau), end)[0] < 1e-6
    closer = Setting(3.0, 0.05, None)
    assert stability(games, closer).expanding.all()
    assert "loss.tau" in advice(games, closer)
    assert "loss.eta" not in advice(games, closer)


def test_fewer_iterations_are_advised_where_a_loop_has_not_diverged_yet():
    """A step above 1 / omega, whose inner loops diverge at every tau."""
    games, now = one(three_action(), (0.2, 0.5, 0.3)), Setting(5.5, 0.02, 9)
    found = at_this_step(games, now)
    assert found is not None
    assert (found.step, found.inner) == (5.5, 3)
    assert (step_modulus(games.frequencies[0], found.step, found.tau) > 1).all()
    assert (round_factor(games.frequencies[0], found.step, found.tau, 3) < 0.6).all()
    end = rounds(games.prefer, games.start, found.step, found.tau, 3, 40)
    assert kl(log_weights(games.nash), end)[0] < 1e-9
    assert advice(games, now) == f"loss.tau {found.tau:.3g}, swap_every 3 would contract on these answers"


@pytest.mark.parametrize("step", [4.97, 5.0])
def test_what_contracts_by_less_than_is_advised_is_not_denied(step):
    """A tau of 1 / step settles, by 1 to 2 % a step; the step is 1 / omega, nearly."""
    games, now = one(three_action(), (0.2, 0.5, 0.3)), Setting(step, 0.02, None)
    slow = dataclasses.replace(now, tau=1 / step)
    end = mirror_steps(games.prefer, games.start, games.start, step, slow.tau, 1500)
    assert kl(games.regularised(slow.tau), end)[0] < 1e-9
    assert "contracts by 2% or more a step" in advice(games, now)


def test_what_is_in_force_is_no_advice():
    """A warning may be of prompts that are not among those that are tried."""
    games = one(three_action(), (0.2, 0.5, 0.3))
    for now in (Setting(3.0, 0.05, None), Setting(5.5, 0.02, 9)):
        found = at_this_step(games, now)
        assert found is not None
        assert at_this_step(games, found) != found


def test_it_is_said_where_only_some_prompts_were_tried():
    games = SampledGames.of(np.tile(faint(0.05), (40, 1, 1)), np.tile([0.5, 0.3, 0.2], (40, 1)))
    assert advice(games, QUICKSTART).endswith("would contract on 32 of these 40 prompts, which were tried")


def test_advice_for_many_games_contracts_on_all_of_them():
    """Their slowest frequencies have factors of almost 1 whatever is done; that is no reason to advise nothing."""
    rng = np.random.default_rng(5)
    calm = [bradley_terry(rng.normal(size=8)) for _ in range(30)]
    games = SampledGames.of(np.stack([*calm, *(random_skew(rng, 8) for _ in range(30))]), np.full((60, 8), 1 / 8))
    assert stability(games, QUICKSTART).warning
    rotating = games.those(games.rotating)
    assert at_this_step(rotating, QUICKSTART) is None
    found = next(smaller_steps(rotating, QUICKSTART))
    assert described(found, QUICKSTART) in advice(games, QUICKSTART)
    assert not stability(games, found).expanding.any()
    end = rounds(rotating.prefer, rotating.start, found.step, found.tau, found.inner, 3000 // found.inner)
    before = kl(log_weights(rotating.nash), rotating.start)
    assert (kl(log_weights(rotating.nash), end) < before).all()


def test_nothing_is_compiled_for_certificates():
    """They are made on the host, in fp64, whatever a run computes in."""
    with jax.log_compiles(), jax.transfer_guard("disallow"):
        assert stability(one(three_action()), QUICKSTART).factors.dtype == np.float64


# ----------------------------------------------------------------------------------------------------------------------
# What is told of a factor


@pytest.mark.parametrize(
    ("factor", "said"),
    [(1.07, "1.07"), (0.5, "0.5"), (1.0, "1"), (1.0000087, "1 + 9e-06"), (0.99997, "1 - 3e-05"), (1e100, "1e+100")],
)
def test_factors_are_told_from_one(factor, said):
    assert times(factor) == said


@pytest.mark.parametrize("setting", [Setting(10.0, 0.02, 2000), Setting(500.0, 0.002 / 3, 1000)])
def test_a_round_that_overflows_is_one_that_leads_away(setting):
    found = stability(one(three_action()), setting)
    assert found.metrics() == {"align/expanding": 1.0, "align/rotating": 1.0, "align/contraction": LARGEST}
    assert "on 1 of 1 prompts the sampled answers have a mixed equilibrium, and near 1 of these" in found.warning
    assert found.warning.endswith("by 1e+100")
