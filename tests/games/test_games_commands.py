"""The verbs `games` and `report`, the games benchmark, and the figures."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.__main__ import main
from jaxalign.bench import games as bench
from jaxalign.games.universal import PopulationGame, guarantee


def games(capsys, *options: str) -> tuple[int, str, str]:
    code = main(["games", *options])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_games_prints_one_object_a_learner(capsys):
    code, out, err = games(capsys, "--json", "--steps", "1,10,100", "--learners", "Comal,MWU,INPO")
    assert code == 0
    table = json.loads(out)
    assert set(table) == {"Comal", "MWU", "INPO"}
    mwu = table["MWU"]
    assert mwu["step"] == [1, 10, 100]
    assert mwu["gap"][0] == pytest.approx(0.27901, abs=5e-6)
    np.testing.assert_allclose(mwu["policy"][-1], [0.28418038, 0.53844079, 0.17737882], atol=0.51e-8)
    assert np.all(np.diff(mwu["kl_to_nash"]) > 0)
    assert "contracts" in err


def test_games_reads_a_matrix_and_starts_uniformly(capsys, tmp_path):
    path = tmp_path / "game.csv"
    path.write_text("0.5,0.9\n0.1,0.5\n")
    code, out, _ = games(capsys, "--game", str(path), "--steps", "400", "--learners", "AdaptiveComal", "--json")
    assert code == 0
    assert json.loads(out)["AdaptiveComal"]["gap"][0] < 1e-8


def test_games_says_when_comal_cannot_contract(capsys):
    _, _, err = games(capsys, "--inner", "6", "--steps", "1", "--learners", "MWU")
    assert "at least 11 inner steps" in err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--game", "absent.csv"], "absent.csv: no such file"),
        (["--learners", "Comall"], "did you mean Comal"),
        (["--start", ".5,.5"], "2 probabilities, the game 3 actions"),
        (["--start", ".5,.4,.2"], "sum to 1"),
        (["--start", "a,b,c"], "probabilities separated by commas"),
        (["--steps", "10,1"], "must ascend"),
        (["--steps", "0,1"], "must ascend"),
        (["--eta", "20"], "exceeds 1"),
        (["--tau", "-1"], "must be positive"),
    ],
)
def test_bad_options_are_refused_before_compute(capsys, options, says):
    code, out, err = games(capsys, *options)
    assert code > 0
    assert out == ""
    assert says in err


def test_bench_compares_with_a_loop_that_ends_at_the_same_policies():
    with jax.enable_x64(False):
        rows = bench._sweep(seeds=8, steps=150, loop_seeds=2)
    assert rows[0]["difference"] < 1e-4
    assert rows[0]["steps_per_s"] > 0
    assert len(bench.LOOPS) == len(bench.LEARNERS) == 10


def test_bench_runs_a_larger_game_in_one_call():
    with jax.enable_x64(False):
        row = bench._large(actions=64, steps=400)
    assert row["gap_after"] < row["gap_before"]


def test_figures_are_written_as_png_and_svg(tmp_path):
    pytest.importorskip("matplotlib")
    from jaxalign.report.games import Path3, gap_against_steps, robust_win_rate, simplex

    steps, ks = np.array([1.0, 10.0, 100.0]), (1, 2, 4)
    path = np.array([[0.2, 0.5, 0.3], [0.3, 0.4, 0.3]])
    files = simplex([Path3("INPO", path), Path3("COMAL", path)], np.full(3, 1 / 3), "abc", tmp_path)
    files += gap_against_steps(steps, {"INPO": np.array([0.1, 0.05, 0.05]), "COMAL": 10.0**-steps}, tmp_path, "COMAL")
    files += robust_win_rate(ks, {"Nash": np.full(3, 0.6)}, np.array([guarantee(k) for k in ks]), tmp_path)
    assert sorted(each.name for each in files) == sorted(
        f"{name}.{kind}" for name in ("simplex", "gap", "robust_win_rate") for kind in ("png", "svg")
    )
    for each in files:
        head = each.read_bytes()[:400]
        assert head.startswith(b"\x89PNG") or b"<svg" in each.read_bytes()[:2000]
    again = gap_against_steps(
        steps, {"INPO": np.array([0.1, 0.05, 0.05]), "COMAL": 10.0**-steps}, tmp_path / "b", "COMAL"
    )
    assert again[1].read_bytes() == (tmp_path / "gap.svg").read_bytes()


def test_robust_curves_reach_the_optimum_and_show_the_collapse():
    from jaxalign.games.populations import two_types
    from jaxalign.report.games_curves import robust_curves

    order, weights = map(jnp.asarray, two_types(0.6))
    curves = robust_curves(PopulationGame(order, weights), (1, 2, 4))
    np.testing.assert_allclose(curves["(k+1)-player equilibrium"], [1 / 2, 2 / 3, 4 / 5], atol=1e-6)
    np.testing.assert_allclose(curves["two-player Nash policy"], [0.5, 0.6, 0.6], atol=1e-6)


def test_report_without_a_run_directory_is_refused_by_name(capsys, tmp_path):
    code = main(["report", str(tmp_path)])
    assert code > 0
    assert str(tmp_path) in capsys.readouterr().err


def test_missing_matplotlib_is_a_clear_error(monkeypatch, tmp_path):
    from jaxalign.report import games as figures

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Exception, match="figures need matplotlib"):
        figures.robust_win_rate((1, 2), {}, np.array([0.5, 0.6]), tmp_path)
