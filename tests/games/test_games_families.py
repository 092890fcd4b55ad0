"""Games, their exact equilibria, metrics, and matrices from files."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.errors import DataError
from jaxalign.evals.cycles import cycle_metrics
from jaxalign.games.compare import log_policy
from jaxalign.games.families import (
    bradley_terry,
    cyclic,
    mixture,
    planted,
    random_skew,
    suite,
    three_action,
    with_dominated,
)
from jaxalign.games.files import read_matrix
from jaxalign.games.game import MatrixGame
from jaxalign.games.metrics import duality_gap, exploitabilities, exploitability
from jaxalign.games.populations import condorcet, random_utility, two_types
from jaxalign.games.solve import nash
from jaxalign.games.universal import majority

GOLDENS = Path(__file__).parent.parent / "goldens" / "games"
METAGAME = GOLDENS / "soccer_metagame.txt"


def gap(prefer, policy) -> float:
    """The duality gap in NumPy: two dozen game sizes are not worth two dozen compilations."""
    return 2 * float((prefer @ policy - 0.5).max())


@pytest.mark.parametrize(
    "prefer", [three_action(), *suite(np.random.default_rng(0), 24), cyclic(6), np.full((3, 3), 0.5)]
)
def test_matrices_are_preferences_and_the_linear_program_solves_them(prefer):
    np.testing.assert_allclose(prefer + prefer.T, 1.0, atol=1e-15)
    assert prefer.min() >= 0.0
    assert prefer.max() <= 1.0
    # HiGHS solves to its feasibility tolerance of 1e-7.
    assert gap(prefer, nash(prefer)) < 2.1e-7


def test_known_equilibria():
    np.testing.assert_allclose(nash(three_action()), np.array([4, 3, 4]) / 11, atol=1e-9)
    np.testing.assert_allclose(nash(cyclic(7)), 1 / 7, atol=1e-9)
    np.testing.assert_allclose(nash(bradley_terry(np.array([0.0, 1.0, 0.5]))), [0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(nash(with_dominated(three_action(), 2)), np.array([4, 3, 4, 0, 0]) / 11, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-8, 1e-5, 1.0])
def test_faint_preferences_are_solved_as_closely_as_strong_ones(scale):
    """The solver's tolerance is absolute: unscaled it takes almost any policy for an equilibrium of a game of 1e-8."""
    for seed in range(5):
        prefer = random_skew(np.random.default_rng(seed), 12, 0.5 * scale)
        assert gap(prefer, nash(prefer)) < 2.1e-7 * scale


@pytest.mark.parametrize(("actions", "support"), [(5, 5), (6, 3), (9, 1), (4, 4)])
def test_planted_equilibria_are_equilibria(actions, support):
    prefer, policy = planted(np.random.default_rng(actions), actions, support)
    assert (policy > 0).sum() == support
    assert gap(prefer, policy) < 1e-15
    if support % 2:
        np.testing.assert_allclose(nash(prefer), policy, atol=1e-6)


def cyclic_triples(prefer) -> float:
    """Share of the strict triples of actions that cycle."""
    return cycle_metrics(prefer[None])["cycles/cyclic_triples"]


def test_equal_mixtures_of_two_annotators_never_cycle_and_others_do():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(300, 2, 6)) * 2
    assert max(cyclic_triples(mixture(each, np.array([0.5, 0.5]))) for each in scores) == 0.0
    assert max(cyclic_triples(mixture(each, np.array([0.6, 0.4]))) for each in scores) > 0.0


def test_cyclic_triples_of_known_games():
    assert cyclic_triples(three_action()) == 1.0
    assert cyclic_triples(bradley_terry(np.arange(5.0))) == 0.0
    # A regular tournament of n actions has n (n² - 1) / 24 cycles, the most there can be.
    assert cyclic_triples(cyclic(7)) == pytest.approx(7 * 48 / 24 / 35)
    # Of six actions the opposite ones tie: of the triples without such a pair two cycle and six do not.
    assert cyclic_triples(cyclic(6)) == pytest.approx(2 / 8)
    assert cyclic_triples(np.full((2, 2), 0.5)) == 0.0


def test_gap_counts_both_players_and_exploitability_one():
    game, logp = MatrixGame(jnp.asarray(three_action())), jnp.log(jnp.asarray([0.2, 0.5, 0.3]))
    assert duality_gap(game, logp) == pytest.approx(0.28)
    assert exploitability(game, logp) == pytest.approx(0.14)
    both = exploitabilities(game.prefer, logp, logp)
    np.testing.assert_allclose(both, 0.14, atol=1e-15)


def test_exploitabilities_of_two_different_players():
    """Row always a, column always b: the row wins .1 and could win .9 with c; the column has nothing better than b."""
    row, column = (jnp.asarray(log_policy(np.eye(3)[index])) for index in (0, 1))
    np.testing.assert_allclose(exploitabilities(jnp.asarray(three_action()), row, column), [0.8, 0.0], atol=1e-15)


def test_populations_have_the_majorities_they_promise():
    assert cyclic_triples(majority(*condorcet(np.ones(3)))) == 1.0
    np.testing.assert_allclose(majority(*two_types(0.6)), [[0.5, 0.6], [0.4, 0.5]])
    strong = majority(*random_utility(np.random.default_rng(0), np.array([0.0, 3.0]), 2000, 0.5))
    assert strong[1, 0] == pytest.approx(1 / (1 + np.exp(-6)), abs=0.01)


def test_metagame_equilibrium_has_three_agents():
    """Four agents (1, 8, 9, 4 at .47, .32, .145, .06) are sometimes given for this matrix, with 5e-4 to exploit.

    That is an approximation: exact rational arithmetic gives three agents and nothing to exploit.
    """
    exact = json.loads((GOLDENS / "soccer_nash.json").read_text())
    prefer = read_matrix(METAGAME)
    assert exact["support"] == [1, 8, 9]
    np.testing.assert_allclose(nash(prefer), exact["policy"], atol=1e-7)
    assert gap(prefer, exact["policy"]) < 1e-15
    noted = np.zeros(10)
    noted[[1, 8, 9, 4]] = 0.47, 0.32, 0.145, 0.06
    assert gap(prefer, noted / noted.sum()) > 5e-4
    assert cyclic_triples(prefer) == pytest.approx(6 / 120)


def test_one_matrix_in_three_formats(tmp_path):
    prefer = random_skew(np.random.default_rng(0), 4)
    np.savetxt(tmp_path / "a.csv", prefer, delimiter=",")
    np.savetxt(tmp_path / "a.txt", prefer, header="a comment")
    np.save(tmp_path / "a.npy", prefer)
    for name in ("a.csv", "a.txt", "a.npy"):
        np.testing.assert_allclose(read_matrix(tmp_path / name), prefer, atol=1e-15)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("0.5,0.2\n0.7,0.5\n", r"P\[0, 1\] = 0\.2, but P\[1, 0\] = 0\.7: they must sum to 1"),
        ("0.4,0.2\n0.8,0.5\n", r"P\[0, 0\] = 0\.4; the diagonal must be 0\.5"),
        ("0.5,1.2\n-0.2,0.5\n", r"P\[0, 1\] = 1\.2 is no probability"),
        ("0.5,nan\n0.5,0.5\n", r"P\[0, 1\] = nan is not a finite number"),
        ("0.5,0.5\n0.5,0.5\n0.5,0.5\n", r"square .* shape \(3, 2\)"),
        ("0.5,0.5\n0.5\n", r":2: 1 fields where the first row has 2"),
        ("0.5,x\n0.5,0.5\n", r":1: field 2 is 'x', not a number"),
        ("", "holds no numbers"),
        ("0.5\n", "at least 2 rows"),
    ],
)
def test_bad_files_are_refused_with_the_cell(tmp_path, content, says):
    path = tmp_path / "game.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=says) as error:
        read_matrix(path)
    assert str(path) in str(error.value)


def test_files_that_are_no_text_or_no_array_are_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.npy").write_bytes(b"no array")
    np.save(tmp_path / "c.npy", np.array(["a", "b"]))
    np.save(tmp_path / "d.npy", np.full((2, 2), 0.5 + 1j))
    np.save(tmp_path / "e.npy", np.full((2, 2), 0.5))
    whole = (tmp_path / "e.npy").read_bytes()
    (tmp_path / "e.npy").write_bytes(whole.replace(b"(2, 2), }         ", b"(1000000, 999999),"))  # more than is there
    (tmp_path / "f.npy").write_bytes(whole.replace(b"(2, 2)", b"((2, 2"))
    for name in ("a.csv", "b.npy", "c.npy", "d.npy", "e.npy", "f.npy", "absent.csv"):
        with pytest.raises(DataError, match=name):
            read_matrix(tmp_path / name)
