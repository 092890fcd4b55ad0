"""Adaptive COMAL on families it was not designed on, and the learners tuned to each beside it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.games.compare import log_policy
from jaxalign.games.divergence import kl
from jaxalign.games.families import random_skew, three_action
from jaxalign.games.files import read_matrix
from jaxalign.games.foreign import FAMILIES, blotto
from jaxalign.games.game import MatrixGame, pad, uniform
from jaxalign.games.judge import JUDGED, comal_grid, drawn, frequency, judge, omwu_grid, tuned
from jaxalign.games.learner import run
from jaxalign.games.learners.adaptive_comal import LARGEST, AdaptiveComal
from jaxalign.games.learners.comal import Comal
from jaxalign.games.learners.omwu import OMWU
from jaxalign.games.many import steps_to_gap
from jaxalign.games.solve import nash

AUDIT = Path(__file__).parents[3] / "shared" / "data" / "audit"
BLOTTO = AUDIT / "adaptive_comal_blotto36.csv"


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_preferences_of_2_to_100_actions_and_repeat(family):
    for prefer, again in zip(drawn(family, 0, 5), drawn(family, 0, 5), strict=True):
        np.testing.assert_array_equal(prefer, again)
        np.testing.assert_allclose(prefer + prefer.T, 1.0, atol=1e-15)
        assert prefer.min() >= 0.0
        assert prefer.max() <= 1.0
        assert 2 <= len(prefer) <= 100
        assert np.abs(prefer - 0.5).max() > 1e-5


def test_blotto_of_a_soldier_is_decided_by_the_most_valued_field():
    """One soldier on one of three fields: the field of most value beats the others, hard by certainty."""
    hard, soft = (blotto(np.random.default_rng(0), 1, each) for each in (True, False))
    best = int(np.argmax(hard.sum(1)))
    np.testing.assert_array_equal(np.delete(hard[best], best), 1.0)
    np.testing.assert_array_equal(hard > 0.5, soft > 0.5)
    assert soft.max() < 1.0


@pytest.mark.timeout(1200)  # a minute of compute, which a busy machine stretches
def test_reaches_1e8_on_at_least_99_percent_of_200_games_it_was_not_designed_on():
    """20 games of each of the ten families, 100,000 steps, nothing tuned."""
    small = [game for family in FAMILIES for game in drawn(family, JUDGED, 20) if len(game) <= 60]
    large = [game for family in FAMILIES for game in drawn(family, JUDGED, 20) if len(game) > 60]
    assert len(small) + len(large) == 200
    needed = np.concatenate([steps_to_gap(AdaptiveComal(), games, 1e-8, 100_000) for games in (small, large)])
    print(f"{(needed > 0).mean():.1%} of 200, steps {np.percentile(needed[needed > 0], [50, 90, 100])}")
    assert (needed > 0).mean() >= 0.99


def test_what_it_certifies_is_never_more_than_the_progress_made():
    """On every family, Newton steps among the steps: KL(π* ‖ start) - KL(π* ‖ anchor) is at least `certified`."""
    games = [game for family in list(FAMILIES)[1:] for game in drawn(family, 5, 2)]
    padded = [pad(game, np.full(len(game), -np.log(len(game))), 60) for game in games]
    prefer, starts = (jnp.asarray(np.stack(part)) for part in zip(*padded, strict=True))
    solved = jnp.asarray(np.stack([log_policy(np.pad(nash(game), (0, 60 - len(game)))) for game in games]))

    @jax.jit
    @jax.vmap
    def certify(matrix, start, equilibrium):
        final = run(AdaptiveComal(), MatrixGame(matrix), start, jnp.asarray([3000]), 3000).final
        return final.certified, kl(equilibrium, start) - kl(equilibrium, final.anchor), final.rounds

    certified, progress, rounds = certify(prefer, starts, solved)
    # The linear program's policy is off by some 1e-9, which log-ratios of tens of nats multiply.
    assert (certified <= progress + 1e-6).all()
    assert (certified > 0).all()
    assert (rounds >= 1).all()


def test_frequencies_far_apart_are_what_first_order_steps_fail_on():
    """A game with a planted pair of fast and slow rotations: without Newton steps 5,000 steps leave it unsolved."""
    slow = 0.5 + 1e-3 * (three_action() - 0.5)
    both = np.full((6, 6), 0.5)
    both[:3, :3], both[3:, 3:] = three_action(), slow
    steps = [steps_to_gap(AdaptiveComal(newton=each), [both], 1e-8, 5000)[0] for each in (1.0, np.inf)]
    assert 0 < steps[0] <= 1000
    assert steps[1] < 0


@pytest.mark.skipif(not BLOTTO.exists(), reason=f"needs {BLOTTO}, which lies beside the checkout")
def test_a_blotto_game_that_first_order_steps_leave_at_a_gap_of_5e_4_is_solved():
    """36 actions, 17 of them in the equilibrium."""
    steps = [steps_to_gap(AdaptiveComal(newton=each), [read_matrix(BLOTTO)], 1e-8, 10_000)[0] for each in (1.0, np.inf)]
    assert 0 < steps[0] <= 10_000
    assert steps[1] < 0


def test_games_too_large_for_a_jacobian_take_first_order_steps_only():
    matrix = random_skew(np.random.default_rng(0), LARGEST + 1).astype(np.float32)
    game, begin, at = MatrixGame(jnp.asarray(matrix)), uniform(LARGEST + 1), jnp.asarray([3])
    often, never = (run(AdaptiveComal(newton=each), game, begin, at, 3).logp for each in (1e-9, np.inf))
    np.testing.assert_array_equal(often, never)


def test_tuning_takes_the_setting_that_solves_most_in_the_fewest_steps():
    games = [three_action(), random_skew(np.random.default_rng(1), 4)]
    grid = [OMWU(1e-4), OMWU(0.5), OMWU(1e4), OMWU(2.0)]
    alone = [steps_to_gap(learner, games, 1e-8, 2000) for learner in grid]
    assert (alone[3] > 0).all()
    assert (alone[0] < 0).any()
    assert tuned(grid, games, 2000) == grid[3]
    assert tuned([OMWU(2.0), OMWU(1.0)], games, 10_000) == OMWU(2.0)


def test_a_sweep_is_each_setting_on_its_own_game():
    games, learners = (
        [three_action(), random_skew(np.random.default_rng(1), 7)],
        [Comal(1.0, 0.2, 10), Comal(0.5, 0.3, 20)],
    )
    together = Comal(jnp.asarray([1.0, 0.5]), jnp.asarray([0.2, 0.3]), jnp.asarray([10, 20]))
    alone = [int(steps_to_gap(learner, [game], 1e-6, 20_000)[0]) for learner, game in zip(learners, games, strict=True)]
    assert min(alone) > 0
    np.testing.assert_array_equal(steps_to_gap(together, games, 1e-6, 20_000, sweep=True), alone)


def test_grids_stay_where_mirror_descent_is_stable():
    omega = frequency(three_action())
    assert all(each.eta < 2 * each.tau / (each.tau**2 + omega**2) for each in comal_grid(omega))
    assert len(omwu_grid(omega)) == len({each.eta for each in omwu_grid(omega)}) == 8


def test_rows_name_family_learner_and_setting():
    rows = judge("2 actions", 2, 1, 500)
    assert [row.learner for row in rows] == [
        "adaptive COMAL",
        "the same without Newton steps",
        "COMAL, tuned",
        "OMWU, tuned",
    ]
    assert rows[0].solved == 1.0
    assert rows[0].setting == {}
    assert set(rows[2].setting) == {"eta", "tau", "inner"}
