"""The experiments in configs/games: each loads and is valid; short runs take the exact steps of the table."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.__main__ import main
from jaxalign.config.load import load, validate
from jaxalign.games.families import three_action
from jaxalign.games.game import MatrixGame
from jaxalign.games.learner import run
from jaxalign.games.learners.comal import Comal
from jaxalign.games.metrics import exploitability
from jaxalign.report import games_run
from jaxalign.storage.record import read_metrics

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "games").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_load_and_are_valid(path, fp32):
    assert len(CONFIGS) >= 3
    validate(load(path))


def test_the_training_loop_takes_the_learners_steps(tmp_path, fp32):
    """Four iterations with a swap after two, through rollouts, oracle, pairs and fit, equal four COMAL steps."""
    options = ["--iterations", "4", "--swap_every", "2"]
    path = next(path for path in CONFIGS if path.stem == "three_action")
    assert not main(["train", str(path), "--workdir", str(tmp_path / "run"), *options])
    gaps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    measured = [line["nash/gap"] for line in gaps if line["phase"] == "evals"]
    with jax.enable_x64(True):
        game, begin = MatrixGame(jnp.asarray(three_action())), jnp.log(jnp.asarray([0.2, 0.5, 0.3]))
        found = run(Comal(1.5, 0.1, 2), game, begin, jnp.arange(1, 5), 4).logp
        expected = 2 * (np.asarray(jnp.exp(found)) @ (three_action().T - 0.5)).max(-1)
    # fp32 fits of 25 gradient steps: each agrees with the exact minimiser to about 1e-5.
    np.testing.assert_allclose(measured[1:], expected, atol=2e-4)


def test_the_training_loop_plays_the_many_player_game(tmp_path, fp32):
    """Its preferences are halves of the differences of u_k: half the step size, twice the tau of the loss."""
    path = next(path for path in CONFIGS if path.stem == "universal_condorcet")
    assert not main(["train", str(path), "--workdir", str(tmp_path / "run"), "--iterations", "4", "--swap_every", "2"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    measured = [line["nash/gap"] for line in lines if line["phase"] == "evals"]
    oracle = load(path).feedback.oracle
    with jax.enable_x64(True):
        begin = jnp.log(jnp.asarray([0.2, 0.5, 0.3]))
        found = run(Comal(4.0, 0.05, 2), oracle.game(), begin, jnp.arange(1, 5), 4).logp
        expected = jax.vmap(lambda logp: exploitability(oracle.game(), logp))(found)
    # fp32 fits of 25 gradient steps; the steps are larger than those of the matrix game.
    np.testing.assert_allclose(measured[1:], expected, atol=1e-3)


@pytest.mark.parametrize("name", ["three_action", "universal_condorcet"])
def test_report_draws_a_run(name, tmp_path, capsys, fp32):
    pytest.importorskip("matplotlib")
    path = next(path for path in CONFIGS if path.stem == name)
    assert not main(["train", str(path), "--workdir", str(tmp_path / "run"), "--iterations", "2", "--swap_every", "1"])
    assert not main(["report", str(tmp_path / "run"), "--steps", "50"])
    names = {each.name for each in (tmp_path / "run" / "report").iterdir()}
    drawn = {f"{name}.{kind}" for name in ("simplex", "gap", "robust_win_rate") for kind in ("png", "svg")}
    assert names == {*drawn, "index.html"}


def test_report_draws_the_policies_of_a_run_that_answers_with_its_anchor(tmp_path, fp32):
    """Their tables, not the mixtures that were trained on; those that are deleted by what they were asked alone."""
    path = next(path for path in CONFIGS if path.stem == "three_action_nash_md")
    kept, pruned = (str(tmp_path / name) for name in ("kept", "pruned"))
    assert not main(["train", str(path), "--workdir", kept, "--iterations", "3"])
    assert not main(["train", str(path), "--workdir", pruned, "--iterations", "3", "--keep_policies", "1"])
    measured = [line["nash/gap"] for line in read_metrics(kept) if line["phase"] == "evals"]
    for directory in (kept, pruned):
        policies = games_run.read(directory).policies
        gaps = 2 * (policies @ (three_action().T - 0.5)).max(-1)
        np.testing.assert_allclose(gaps, measured, atol=1e-6)
    pytest.importorskip("matplotlib")
    assert not main(["report", pruned, "--steps", "50"])


def test_report_leaves_look_aheads_out_of_the_steps(tmp_path, fp32):
    """Two steps with a look-ahead each are drawn where the learner's two are, and their anchor swaps as often."""
    path = next(path for path in CONFIGS if path.stem == "three_action_egpo")
    directory = str(tmp_path / "run")
    assert not main(["train", str(path), "--workdir", directory, "--iterations", "4", "--swap_every", "2"])
    measured = [line["nash/gap"] for line in read_metrics(directory) if line["phase"] == "evals"]
    found = games_run.read(directory)
    gaps = 2 * (found.policies @ (three_action().T - 0.5)).max(-1)
    np.testing.assert_allclose(gaps, measured[::2], atol=1e-6)
    assert found.settings["inner"] == 1
    pytest.importorskip("matplotlib")
    assert not main(["report", directory, "--steps", "50"])
    drawn = (tmp_path / "run" / "report" / "gap.svg").read_text()
    assert "this run (look-aheads left out)" in drawn


OWN = '''"""The three-action game with an eval of one's own."""
import dataclasses
from typing import ClassVar

from three_action import experiment as base

@dataclasses.dataclass(frozen=True)
class Answers:
    needs: ClassVar[tuple[str, ...]] = ("answers",)

    def __call__(self, context):
        return {"own/answers": float(context.current.lengths.size)}

evals = (*base.evaluation.evals, Answers())
experiment = dataclasses.replace(base, evaluation=dataclasses.replace(base.evaluation, evals=evals))
'''


def test_report_takes_the_classes_from_the_config_file_that_is_named(tmp_path, capsys, fp32):
    pytest.importorskip("matplotlib")
    game = next(path for path in CONFIGS if path.stem == "three_action")
    (tmp_path / "three_action.py").write_bytes(game.read_bytes())
    (tmp_path / "own.py").write_text(OWN)
    own, run = str(tmp_path / "own.py"), str(tmp_path / "run")
    assert not main(["train", own, "--workdir", run, "--iterations", "1", "--swap_every", "none"])
    assert main(["report", run, "--steps", "50"]) == 2
    assert "say which one" in capsys.readouterr().err
    assert not main(["report", run, "--steps", "50", "--config", own])
    assert (tmp_path / "run" / "report" / "gap.png").exists()
    assert main(["report", "--config", own]) == 2
    assert "name the run too" in capsys.readouterr().err


@pytest.fixture
def fp32() -> None:
    """Runs the test in JAX's default precision."""
