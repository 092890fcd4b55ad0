"""Relations between learners, and what every learner must do, discovered file by file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.games.compare import configured, every_learner, of_matrices
from jaxalign.games.divergence import kl
from jaxalign.games.families import cyclic, mixture, random_skew, three_action
from jaxalign.games.feedback import SampledOpponents
from jaxalign.games.game import ABSENT, MatrixGame, pad, uniform
from jaxalign.games.learner import Learner, run
from jaxalign.games.learners.apo import APO
from jaxalign.games.learners.comal import Comal
from jaxalign.games.learners.dno import DNO, cross_entropy
from jaxalign.games.learners.egpo import EGPO
from jaxalign.games.learners.inpo import INPO
from jaxalign.games.learners.iter_dpo import IterDPO, fit
from jaxalign.games.learners.magnetic import Magnetic
from jaxalign.games.learners.mwu import MWU
from jaxalign.games.learners.nash_md import NashMD
from jaxalign.games.learners.nash_mp import NashMP
from jaxalign.games.learners.omwu import OMWU
from jaxalign.games.learners.online_ipo import OnlineIPO
from jaxalign.games.learners.onpo import ONPO
from jaxalign.games.learners.xpo import XPO
from jaxalign.games.metrics import duality_gap
from jaxalign.games.prox import prox

LEARNERS = every_learner()


def start() -> jax.Array:
    return jnp.log(jnp.asarray([0.2, 0.5, 0.3]))


def three() -> MatrixGame:
    return MatrixGame(jnp.asarray(three_action()))


def policy_after(learner, steps, game=None, begin=None):
    game, begin = three() if game is None else game, start() if begin is None else begin
    return run(learner, game, begin, jnp.asarray([steps]), steps).logp[0]


def test_the_learners_are_found():
    print(sorted(LEARNERS))
    assert len(LEARNERS) >= 15
    assert all(isinstance(learner(), Learner) for learner in LEARNERS.values())


@pytest.mark.parametrize("name", LEARNERS)
def test_learner_keeps_a_policy_a_policy_and_relabelling_relabels_it(name):
    game = MatrixGame(jnp.asarray(random_skew(np.random.default_rng(3), 4)))
    order = jnp.asarray([2, 0, 3, 1])
    begin = jnp.log(jnp.asarray([0.1, 0.2, 0.3, 0.4]))
    turned = MatrixGame(game.prefer[order][:, order])
    one = policy_after(LEARNERS[name](), 7, game, begin)
    other = policy_after(LEARNERS[name](), 7, turned, begin[order])
    np.testing.assert_allclose(jnp.exp(one).sum(), 1.0, atol=1e-12)
    # The adaptive learner's power iteration starts at a fixed vector, so its first step size moves a little.
    tolerance = 0.05 if name == "AdaptiveComal" else 1e-9
    np.testing.assert_allclose(jnp.exp(one)[order], jnp.exp(other), atol=tolerance)


@pytest.mark.parametrize("name", LEARNERS)
def test_learner_runs_in_single_precision_and_stays_there(name, fp32):
    game = MatrixGame(jnp.asarray(three_action(), jnp.float32))
    found = jax.jit(lambda learner: run(learner, game, uniform(3), jnp.asarray([1, 20]), 20))(LEARNERS[name]())
    assert found.logp.dtype == jnp.float32
    assert jnp.isfinite(found.logp).all()


@pytest.mark.parametrize("name", sorted(set(LEARNERS) - {"IterDPO"}))
def test_an_equilibrium_with_full_support_is_a_fixed_point_when_started_there(name):
    nash = jnp.log(jnp.asarray([4.0, 3.0, 4.0]) / 11)
    np.testing.assert_allclose(policy_after(LEARNERS[name](), 5, begin=nash), nash, atol=1e-9)


def test_comal_between_its_two_ends():
    np.testing.assert_allclose(policy_after(Comal(inner=1), 50), policy_after(MWU(), 50), atol=1e-12)
    np.testing.assert_allclose(policy_after(Comal(inner=10**6), 50), policy_after(INPO(), 50), atol=1e-12)
    np.testing.assert_allclose(policy_after(APO(momentum=0.0), 250), policy_after(Comal(), 250), atol=1e-12)


@pytest.mark.parametrize(("momentum", "settles"), [(0.3, True), (0.4, False)])
def test_momentum_beyond_a_third_makes_slow_rotations_grow(momentum, settles):
    """tau is ten times the frequency, and twenty inner steps solve a round: its roots then say the rate."""
    nash, tau = jnp.asarray([4.0, 3.0, 4.0]) / 11, 2.0
    begin = jnp.log(nash + jnp.asarray([1e-4, -1e-4, 0.0]))
    found = run(APO(0.3, tau, 20, momentum), three(), begin, jnp.asarray([2000, 4000]), 4000).logp
    before, after = (kl(jnp.log(nash), each) for each in found)
    rho = tau / (tau - 0.208893j)
    rate = np.abs(np.roots([1, -rho * (1 + momentum), rho * momentum])).max()
    assert (after / before) ** 0.5 == pytest.approx(rate**100, rel=1e-2)
    assert (rate < 1) == settles


def test_without_a_pull_regularised_learners_are_unregularised():
    for learner in (INPO(tau=0.0), NashMD(tau=0.0), Magnetic(tau=0.0)):
        np.testing.assert_allclose(policy_after(learner, 20), policy_after(MWU(), 20), atol=1e-12)
    np.testing.assert_allclose(policy_after(EGPO(tau=0.0), 20), policy_after(NashMP(tau=0.0), 20), atol=1e-12)


@pytest.mark.parametrize("learner", [INPO(), EGPO(), NashMP(), OnlineIPO()], ids=lambda item: type(item).__name__)
def test_regularised_learners_agree_on_their_equilibrium(learner):
    np.testing.assert_allclose(jnp.exp(policy_after(learner, 5000)), jnp.exp(prox(three(), start(), 0.1)), atol=1e-9)


def test_a_mixture_in_online_ipo_moves_its_fixed_point():
    assert kl(prox(three(), start(), 0.1), policy_after(OnlineIPO(mix=0.5), 5000)) > 1e-4


def test_onpo_is_omwu_from_the_second_step_on():
    """Their moves are eta (2 P_t - P_{t-1}) alike; the first differs, so one is the other with an extra first gain."""
    one, omwu = policy_after(ONPO(), 1), MWU(eta=0.6)
    np.testing.assert_allclose(one, policy_after(omwu, 1), atol=1e-12)
    assert kl(policy_after(ONPO(), 3000), policy_after(OMWU(), 3000)) < 1e-5


def test_dno_step_is_where_its_cross_entropy_is_flat():
    reward = three().gain(jnp.exp(start()))
    after = policy_after(DNO(0.7), 1)
    slope = jax.grad(cross_entropy)(after, start(), reward, 0.7)
    np.testing.assert_allclose(slope, 0, atol=1e-12)
    np.testing.assert_allclose(after, policy_after(MWU(0.7), 1), atol=1e-12)


def test_bradley_terry_fit_recovers_bradley_terry_rewards():
    scores = np.array([0.3, -1.0, 2.0, 0.0])
    policy = jnp.asarray([0.1, 0.2, 0.3, 0.4])
    reward = fit(jnp.asarray(mixture(scores[None], np.ones(1))), policy)
    np.testing.assert_allclose(reward, scores - scores @ np.asarray(policy), atol=1e-9)


def test_iterative_dpo_on_bradley_terry_preferences_finds_the_best_action():
    game = MatrixGame(jnp.asarray(mixture(np.array([[0.3, -1.0, 2.0]]), np.ones(1))))
    assert jnp.exp(policy_after(IterDPO(1.0), 30, game))[2] > 1 - 1e-9


@pytest.mark.parametrize("learner", [MWU(), DNO(), IterDPO()], ids=lambda item: type(item).__name__)
def test_what_spirals_around_a_mixed_equilibrium_reaches_a_pure_one(learner):
    """A fourth action beats those of a cycle. Without it the last iterate leaves."""
    prefer = np.full((4, 4), 0.5)
    prefer[:3, :3], prefer[3, :3], prefer[:3, 3] = three_action(), 0.7, 0.3
    game = MatrixGame(jnp.asarray(prefer))
    assert duality_gap(game, policy_after(learner, 1000, game, uniform(4, jnp.float64))) < 1e-9
    assert duality_gap(three(), policy_after(learner, 1000)) > 0.28


def test_iterative_dpo_with_a_small_beta_keeps_hopping_in_log_space():
    """A policy stored as probabilities underflows at a vertex and sits there; stored as logarithms it goes on."""
    found = run(IterDPO(0.1), three(), start(), jnp.arange(1, 61), 60).logp
    assert jnp.exp(found[2]).max() > 1 - 1e-6
    vertices = jnp.argmax(found, axis=-1)
    assert (jnp.diff(vertices) != 0).sum() >= 6
    assert (found.min(-1)[-20:] < -60).any(), "these probabilities are far below what fp32 can hold next to 1"


def test_egpo_stands_steps_that_mirror_descent_does_not():
    """tau = .01: extragradient is stable at eta 4 and not at 6, mirror descent only below 2 tau / (tau² + omega²)."""
    tau, solution = 0.01, prox(three(), start(), 0.01)

    def distance(learner):
        return kl(solution, policy_after(learner, 4000))

    assert distance(EGPO(4.0, tau)) < 1e-20
    assert distance(EGPO(6.0, tau)) > 1e-3
    # Near its limit of 0.457 mirror descent moves by parts in ten thousand a step either way: tried well apart from it.
    assert distance(INPO(0.3, tau)) < 1e-3
    assert distance(INPO(0.6, tau)) > 1e-2


def test_sweeps_over_starts_hyper_parameters_and_games_equal_single_runs():
    starts = jnp.stack([start(), uniform(3, jnp.float64)])
    etas = jnp.asarray([0.1, 0.3])
    pair = three(), MatrixGame(jnp.asarray(cyclic(3)))
    games = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pair)

    def one(game, eta, begin):
        return run(Comal(eta=eta, inner=10), game, begin, jnp.asarray([40]), 40).logp[0]

    over_starts = jax.vmap(one, in_axes=(None, None, 0))
    over_all = jax.jit(jax.vmap(jax.vmap(over_starts, in_axes=(None, 0, None)), in_axes=(0, None, None)))
    found = over_all(games, etas, starts)
    assert found.shape == (2, 2, 2, 3)
    single = policy_after(Comal(eta=0.3, inner=10), 40, MatrixGame(jnp.asarray(cyclic(3))), starts[1])
    np.testing.assert_allclose(found[1, 1, 1], single, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(LEARNERS) - {"AdaptiveComal"}))
def test_absent_actions_change_nothing(name):
    wide, begin = pad(three_action(), np.log([0.2, 0.5, 0.3]), 6)
    padded = policy_after(LEARNERS[name](), 30, MatrixGame(jnp.asarray(wide)), jnp.asarray(begin))
    np.testing.assert_allclose(jnp.exp(padded[:3]), jnp.exp(policy_after(LEARNERS[name](), 30)), atol=1e-9)
    assert begin[-1] == ABSENT
    assert jnp.exp(padded[3:]).max() == 0.0


def test_averages_are_means_of_what_was_played():
    found = run(MWU(), three(), start(), jnp.arange(1, 6), 5)
    played = jnp.concatenate([jnp.exp(start())[None], jnp.exp(found.logp[:-1])])
    np.testing.assert_allclose(found.average[-1], played.mean(0), atol=1e-14)
    np.testing.assert_allclose(found.average[1], played[:2].mean(0), atol=1e-14)


def test_noisy_gains_are_unbiased_and_repeat_with_their_key(key):
    feedback, policy = SampledOpponents(64), jnp.exp(start())
    gains = jax.vmap(lambda each: feedback(three(), each).gain(policy))(jax.random.split(key, 2000))
    # 128,000 votes an action: standard error below 0.0015.
    np.testing.assert_allclose(gains.mean(0), three().gain(policy), atol=0.006)
    runs = [run(Comal(), three(), start(), jnp.asarray([20]), 20, feedback, key).logp for _ in range(2)]
    np.testing.assert_array_equal(*runs)


def test_settings_reach_the_learners_that_have_them():
    assert configured(Comal, eta=0.5, tau=0.2, inner=7) == Comal(0.5, 0.2, 7)
    assert configured(MWU, eta=0.5, tau=0.2, inner=7) == MWU(0.5)


def test_single_precision_comal_reaches_single_precision(fp32):
    game = MatrixGame(jnp.asarray(three_action(), jnp.float32))
    begin = jnp.log(jnp.asarray([0.2, 0.5, 0.3], jnp.float32))
    assert duality_gap(game, run(Comal(), game, begin, jnp.asarray([3000]), 3000).logp[0]) < 2e-6


@pytest.fixture
def fp32() -> None:
    """Runs the test in JAX's default precision."""


def test_learners_that_fit_a_model_to_pairs_ask_for_the_matrix():
    assert {name for name, learner in LEARNERS.items() if of_matrices(learner)} == {"IterDPO", "XPO"}


@pytest.mark.parametrize(
    ("beta", "alpha", "end"), [(2.0, 0.05, (0.169, 0.432, 0.400)), (0.5, 0.01, (0.206, 0.163, 0.631))]
)
def test_xpo_settles_beside_its_anchor_and_not_at_nash(beta, alpha, end):
    begin = jnp.log(jnp.asarray([0.2, 0.5, 0.3]))
    first, last = (jnp.exp(policy_after(XPO(beta, alpha), steps, begin=begin)) for steps in (60, 100))
    np.testing.assert_allclose(first, last, atol=1e-8)
    np.testing.assert_allclose(last, end, atol=6e-4)


def test_xpo_with_a_small_beta_hops_between_vertices():
    begin = jnp.log(jnp.asarray([0.2, 0.5, 0.3]))
    ends = [jnp.exp(policy_after(XPO(0.1, 0.001), steps, begin=begin)) for steps in (99, 100)]
    assert all(end.max() > 0.99 for end in ends)
    assert jnp.abs(ends[1] - ends[0]).max() > 0.9
