"""Trajectories on the three-action game against independently computed numbers, to their last printed digit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.games.divergence import kl
from jaxalign.games.families import three_action
from jaxalign.games.game import MatrixGame, uniform
from jaxalign.games.learner import run
from jaxalign.games.learners.comal import Comal
from jaxalign.games.learners.comal_exact import ComalExact
from jaxalign.games.learners.egpo import EGPO
from jaxalign.games.learners.inpo import INPO
from jaxalign.games.learners.iter_dpo import IterDPO
from jaxalign.games.learners.magnetic import Magnetic
from jaxalign.games.learners.mwu import MWU
from jaxalign.games.learners.nash_md import NashMD
from jaxalign.games.learners.omwu import OMWU
from jaxalign.games.metrics import duality_gap
from jaxalign.games.prox import prox

STEPS = (1, 10, 100, 1000, 2000, 5000, 10_000)
START = (0.2, 0.5, 0.3)
NASH = (4 / 11, 3 / 11, 4 / 11)

# Half a unit of the last printed digit, and a little for decimals that end in 5.
EIGHT_DIGITS, SEVEN_DIGITS = 0.51e-8, 0.51e-7

POLICIES = {
    "mwu": (
        MWU(),
        {
            1: (0.19342804, 0.49383244, 0.31273952),
            10: (0.15864440, 0.39862057, 0.44273503),
            100: (0.28418038, 0.53844079, 0.17737882),
            1000: (0.88388391, 0.02130509, 0.09481100),
        },
    ),
    "inpo": (
        INPO(),
        {
            1: (0.19342804, 0.49383244, 0.31273952),
            10: (0.16348029, 0.41276419, 0.42375552),
            100: (0.27222604, 0.29149974, 0.43627422),
            1000: (0.27491721, 0.27972258, 0.44536022),
        },
    ),
    "nash_md": (
        NashMD(),
        {
            1: (0.19342804, 0.49383244, 0.31273952),
            10: (0.16282238, 0.41338357, 0.42379405),
            100: (0.27385847, 0.28638557, 0.43975596),
            1000: (0.27411122, 0.27522731, 0.45066147),
        },
    ),
    "egpo": (
        EGPO(),
        {
            1: (0.19395319, 0.49309581, 0.31295100),
            10: (0.16803874, 0.40976990, 0.42219136),
            100: (0.27426941, 0.28744873, 0.43828186),
            1000: (0.27491721, 0.27972258, 0.44536022),
        },
    ),
    "omwu": (
        OMWU(),
        {
            1: (0.19342804, 0.49383244, 0.31273952),
            10: (0.16390857, 0.39512537, 0.44096606),
            100: (0.28111228, 0.47626870, 0.24261902),
            1000: (0.38572457, 0.28722986, 0.32704557),
        },
    ),
    "comal": (
        Comal(),
        {
            10: (0.16348029, 0.41276419, 0.42375552),
            100: (0.27222604, 0.29149974, 0.43627422),
            1000: (0.36370144, 0.27269225, 0.36360631),
        },
    ),
    "magnetic": (
        Magnetic(),
        {
            1: (0.19361863, 0.49401678, 0.31236459),
            10: (0.16385047, 0.41570047, 0.42044905),
            100: (0.27436981, 0.29183041, 0.43379978),
            1000: (0.36368698, 0.27269437, 0.36361865),
        },
    ),
}

# (learner, step) → (gap, half a unit of its last printed digit)
GAPS = {
    ("mwu", 1): (0.27901, 5e-6),
    ("mwu", 10): (0.22371, 5e-6),
    ("mwu", 100): (0.26024, 5e-6),
    ("mwu", 1000): (0.63126, 5e-6),
    ("inpo", 10): (0.23212, 5e-6),
    ("inpo", 100): (0.06986, 5e-6),
    ("inpo", 1000): (0.058828, 5e-7),
    ("inpo", 10_000): (0.058828, 5e-7),
    ("nash_md", 1000): (0.055715, 5e-7),
    ("omwu", 10): (0.21776, 5e-6),
    ("omwu", 100): (0.21235, 5e-6),
    ("omwu", 1000): (0.04694, 5e-6),
    ("omwu", 10_000): (9e-10, 5e-11),
    ("comal", 1000): (7.6e-5, 5e-7),
    ("comal", 2000): (1e-8, 5e-9),
    ("magnetic", 1000): (5.5e-5, 5e-7),
}

REGULARISED = [
    ("start", 0.05, (0.3203252, 0.2659295, 0.4137453), 0.0355036),
    ("start", 0.1, (0.2749172, 0.2797226, 0.4453602), 0.0588277),
    ("start", 0.3, (0.1922506, 0.3801564, 0.4275930), 0.1887748),
    ("start", 1.0, (0.1845107, 0.4711974, 0.3442919), 0.2662515),
    ("uniform", 0.05, (0.3497443, 0.2758272, 0.3744285), 0.0108152),
    ("uniform", 0.1, (0.3371359, 0.2834641, 0.3794000), 0.0244898),
    ("uniform", 0.3, (0.3185863, 0.3126311, 0.3687826), 0.0589531),
    ("uniform", 1.0, (0.3240354, 0.3306220, 0.3453426), 0.0700764),
]


def three() -> MatrixGame:
    return MatrixGame(jnp.asarray(three_action()))


@pytest.fixture(scope="module")
def trajectories() -> dict[str, dict[int, tuple[np.ndarray, float, float]]]:
    """Learner → step → (policy, its gap, the average policy's gap)."""
    with jax.enable_x64(True):
        game, start, at = three(), jnp.log(jnp.asarray(START)), jnp.asarray(STEPS)

        def table(learner):
            found = run(learner, game, start, at, STEPS[-1])
            gaps = jax.vmap(lambda logp: duality_gap(game, logp))
            return jnp.exp(found.logp), gaps(found.logp), gaps(jnp.log(found.average))

        return {
            name: dict(zip(STEPS, zip(*map(np.asarray, jax.jit(table)(learner)), strict=True), strict=True))
            for name, (learner, _) in POLICIES.items()
        }


@pytest.mark.parametrize("name", POLICIES)
def test_policies_match_to_eight_digits(name, trajectories):
    for step, expected in POLICIES[name][1].items():
        np.testing.assert_allclose(trajectories[name][step][0], expected, rtol=0, atol=EIGHT_DIGITS)


@pytest.mark.parametrize(("name", "step"), GAPS)
def test_gaps_match_to_their_printed_digits(name, step, trajectories):
    expected, half_digit = GAPS[name, step]
    assert trajectories[name][step][1] == pytest.approx(expected, abs=1.02 * half_digit)


def test_comal_reaches_the_nash_policy_to_machine_precision(trajectories):
    policy, gap, _ = trajectories["comal"][5000]
    assert gap < 1e-15
    np.testing.assert_allclose(policy, NASH, rtol=0, atol=1e-15)


def test_multiplicative_weights_average_converges_while_its_last_iterate_spirals_out(trajectories):
    for step, expected in ((100, 0.0263), (1000, 0.0148), (10_000, 0.0038)):
        assert trajectories["mwu"][step][2] == pytest.approx(expected, abs=0.51e-4)


def test_kl_to_nash_grows_strictly_under_multiplicative_weights():
    # Until the policy sits within rounding of a vertex, about 4000 steps on, KL of second order is far above rounding.
    found = run(MWU(), three(), jnp.log(jnp.asarray(START)), jnp.arange(1, 3001), 3000)
    distances = jax.vmap(lambda logp: kl(jnp.log(jnp.asarray(NASH)), logp))(found.logp)
    assert (jnp.diff(distances) > 0).all()


def test_start_has_the_known_gap_and_distance():
    game, start = three(), jnp.log(jnp.asarray(START))
    assert duality_gap(game, start) == pytest.approx(0.28, abs=1e-15)
    assert kl(jnp.log(jnp.asarray(NASH)), start) == pytest.approx(0.12203892, abs=EIGHT_DIGITS)
    assert duality_gap(game, uniform(3, jnp.float64)) == pytest.approx(0.0666667, abs=SEVEN_DIGITS)
    assert kl(jnp.log(jnp.asarray(NASH)), uniform(3, jnp.float64)) == pytest.approx(0.00855263, abs=EIGHT_DIGITS)


@pytest.mark.parametrize(("anchor", "tau", "policy", "gap"), REGULARISED)
def test_regularised_equilibria(anchor, tau, policy, gap):
    anchors = {"start": jnp.log(jnp.asarray(START)), "uniform": uniform(3, jnp.float64)}
    solution = prox(three(), anchors[anchor], tau)
    np.testing.assert_allclose(np.exp(solution), policy, rtol=0, atol=SEVEN_DIGITS)
    assert duality_gap(three(), solution) == pytest.approx(gap, abs=SEVEN_DIGITS)


def test_exact_comal_needs_the_known_number_of_rounds():
    taus = jnp.asarray([0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0])
    game, at = three(), jnp.arange(1, 1111)

    def rounds(tau):
        found = run(ComalExact(tau), game, jnp.log(jnp.asarray(START)), at, 1110)
        return jnp.argmax(jax.vmap(lambda logp: duality_gap(game, logp))(found.logp) < 1e-11) + 1

    np.testing.assert_array_equal(jax.jit(jax.vmap(rounds))(taus), [11, 17, 29, 64, 123, 300, 1106])


def test_iterative_dpo_hops_between_vertices():
    def at(beta, step):
        return np.exp(run(IterDPO(beta), three(), jnp.log(jnp.asarray(START)), jnp.asarray([step]), 20).logp[0])

    for step, action, probability, digits in (
        (5, 0, 0.987, 3),
        (7, 1, 0.985, 3),
        (10, 2, 0.907, 3),
        (20, 0, 0.9998, 4),
    ):
        assert round(float(at(0.5, step)[action]), digits) == probability
    # A small beta is a large step: at a vertex to six digits from the third step on.
    assert at(0.1, 3).max() > 1 - 1e-6


def test_iterative_dpo_with_a_large_beta_spirals_outward():
    found = run(IterDPO(3.0), three(), jnp.log(jnp.asarray(START)), jnp.asarray([100, 400, 800]), 800)
    distances = jax.vmap(lambda logp: kl(jnp.log(jnp.asarray(NASH)), logp))(found.logp)
    assert (jnp.diff(distances) > 0).all()


def test_language_model_step_sizes_do_not_transfer_to_the_table():
    """eta tau = 1/3 as in the released recipe: hops at eta = 500 and 10, convergence at eta = 2 and 1 (six steps)."""
    etas = jnp.asarray([500.0, 10.0, 2.0, 1.0])

    def gaps(eta):
        found = run(Comal(eta, 1 / (3 * eta), 6), three(), jnp.log(jnp.asarray(START)), jnp.arange(951, 1001), 1000)
        return jax.vmap(lambda logp: duality_gap(three(), logp))(found.logp)

    found = np.asarray(jax.jit(jax.vmap(gaps))(etas))
    assert found[:2].max(-1).min() > 0.2
    assert found[2, -1] < 1e-15
    assert found[3, -1] == pytest.approx(2e-8, abs=0.5e-8)
