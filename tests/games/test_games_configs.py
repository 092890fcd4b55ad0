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
    assert {"simplex.png", "simplex.svg", "gap.png", "gap.svg", "robust_win_rate.png", "robust_win_rate.svg"} == names


def test_no_figures_of_what_a_policy_says_with_its_anchor(tmp_path, capsys, fp32):
    path = next(path for path in CONFIGS if path.stem == "three_action_nash_md")
    assert not main(["train", str(path), "--workdir", str(tmp_path / "run"), "--iterations", "1"])
    assert main(["report", str(tmp_path / "run")]) == 2
    assert "answers of mixtures with the anchor do not tell them" in capsys.readouterr().err


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
