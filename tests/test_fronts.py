"""Fronts between objectives: volumes by hand and by drawing, cells by their names, a sweep from the command line."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from made_heldout import held_out

from jaxalign.__main__ import main
from jaxalign.commands.sweep import refuse_no_front
from jaxalign.config.load import load
from jaxalign.config.overrides import combinations
from jaxalign.errors import ConfigError
from jaxalign.evals.objectives import HeldOutObjectives
from jaxalign.objectives.mixed import Mixed
from jaxalign.report.arms import arms_of
from jaxalign.report.fronts import MARGINS, drawn, fronts, told
from jaxalign.report.hypervolume import hypervolume, on_front

CONFIG = Path(__file__).parents[1] / "configs" / "raco" / "raco_tiny.py"
ORIGIN = np.zeros(2)


def test_volumes_by_hand():
    steps = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [1.0, 1.0]])
    assert hypervolume(steps, ORIGIN) == 6.0
    assert hypervolume(steps, np.array([1.0, 1.0])) == 1.0
    assert hypervolume(steps, np.array([3.0, 0.0])) == 0.0
    assert hypervolume(np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.5], [0.5, 2.0, 2.0]]), np.zeros(3)) == pytest.approx(3.0)
    assert on_front(steps).tolist() == [True, True, True, False]
    assert on_front(np.array([[1.0, 1.0], [1.0, 1.0]])).all()


@pytest.mark.parametrize("objectives", [2, 3])
def test_volumes_are_those_of_points_drawn_at_random(objectives):
    rng = np.random.default_rng(objectives)
    points = rng.uniform(size=(12, objectives))
    inside = (rng.uniform(size=(200_000, 1, objectives)) <= points).all(-1).any(-1).mean()
    assert hypervolume(points, np.zeros(objectives)) == pytest.approx(inside, abs=5e-3)
    # what no point adds to, and what order does
    kept = points[on_front(points)]
    assert hypervolume(rng.permutation(kept), np.zeros(objectives)) == pytest.approx(
        hypervolume(points, np.zeros(objectives))
    )


def finished(root: Path, name: str, seed: int, evals: Mapping[str, float]) -> None:
    run = root / name / f"seed-{seed}"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"seed": seed}))
    (run / "metrics.jsonl").write_text("")
    (run / "summary.json").write_text(json.dumps({"evals": evals}))


def margins(*values: float) -> dict[str, float]:
    there = {f"{MARGINS}{index}": float(value) for index, value in enumerate(values)}
    return there | {f"{name}_ci95_low": value - 1 for name, value in there.items()}


def test_methods_are_compared_from_the_worst_of_all(tmp_path):
    for seed, more in ((0, 0.0), (1, 1.0)):
        finished(tmp_path, "raco@weights=0.1,0.9", seed, margins(1 + more, 3))
        finished(tmp_path, "raco@weights=0.9,0.1", seed, margins(3, 1 + more))
        finished(tmp_path, "plain", seed, margins(0, 0))
    found = fronts(arms_of(tmp_path))
    assert (found["metrics"], found["reference"]) == ([f"{MARGINS}0", f"{MARGINS}1"], [0.0, 0.0])
    raco, plain = found["methods"]["raco"], found["methods"]["plain"]
    assert (raco["of_each_seed"], raco["hypervolume"]) == ([5.0, 8.0], 6.5)
    assert raco["ci95"][0] < 5 < 8 < raco["ci95"][1]
    assert plain["hypervolume"] == 0
    assert raco["cells"]["weights=0.1,0.9"] == {
        "mean": [1.5, 3.0],
        "on_front": True,
        "points": {"0": [1.0, 3.0], "1": [2.0, 3.0]},
    }
    lines = told(found).splitlines()
    assert lines[1].split()[:2] == ["raco", "6.5"]
    assert [path.name for path in drawn(found, tmp_path)] == ["pareto.png", "pareto.svg"]
    assert "raco" in (tmp_path / "pareto.svg").read_text()


def test_seeds_that_lack_a_cell_are_left_out(tmp_path):
    finished(tmp_path, "raco@weights=0.1,0.9", 0, margins(1, 3))
    finished(tmp_path, "raco@weights=0.1,0.9", 1, margins(9, 9))
    finished(tmp_path, "raco@weights=0.9,0.1", 0, margins(0, 0))
    found = fronts(arms_of(tmp_path))["methods"]["raco"]
    assert (found["seeds"], found["hypervolume"], found["ci95"]) == ([0], 3.0, None)


def test_what_makes_no_front_is_refused(tmp_path):
    finished(tmp_path, "raco", 0, margins(1))
    with pytest.raises(ConfigError, match="fronts are of two or three metrics"):
        fronts(arms_of(tmp_path))
    with pytest.raises(ConfigError, match="raco, seed 0: has not measured elsewhere"):
        fronts(arms_of(tmp_path), (f"{MARGINS}0", "elsewhere"))


def test_options_that_are_given_twice_are_swept_over():
    args = ["--fit.epochs", "1", "--combiner.weights", "0.1,0.9", "--combiner.weights=0.5,0.5", "--loss.beta", "1"]
    assert list(combinations(args)) == [
        (f"weights={each}", ["--fit.epochs=1", f"--combiner.weights={each}", "--loss.beta=1"])
        for each in ("0.1,0.9", "0.5,0.5")
    ]
    assert len(list(combinations([*args, "--loss.beta", "2"]))) == 4
    assert list(combinations([])) == [("", [])]
    with pytest.raises(ConfigError, match=r"loss\.beta: a value is given twice"):
        list(combinations(["--loss.beta", "1", "--loss.beta", "1"]))
    with pytest.raises(ConfigError, match="two settings would be called file=a_b"):
        list(combinations(["--file", "a/b", "--file", "a_b"]))


@pytest.mark.parametrize(
    ("config", "options", "named"),
    [
        (CONFIG.parents[1] / "preference" / "bt_tiny.py", (), "the experiment measures none: add HeldOutObjectives"),
        (CONFIG, ("--metrics", f"{MARGINS}0"), "two or three metrics, and there are 1"),
        (CONFIG, ("--combiner.weights", "0.4,0.2,0.2,0.2"), "two or three metrics, and there are 4"),
    ],
)
def test_what_comes_to_no_front_is_refused_before_anything_is_trained(tmp_path, capsys, config, options, named):
    assert main(["sweep", str(config), "--workdir", str(tmp_path), *options]) == 2
    assert named in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_baseline_whose_labels_are_mixed_has_a_front_too():
    made = load(CONFIG)
    refuse_no_front(dataclasses.replace(made, combiner=Mixed()), ())
    refuse_no_front(dataclasses.replace(made, evaluation=dataclasses.replace(made.evaluation, evals=())), ("a", "b"))


def test_a_sweep_trains_its_cells_and_draws_their_front(tmp_path, capsys):
    weights = [word for each in ("0.9,0.1", "0.1,0.9") for word in ("--combiner.weights", each)]
    small = ("--fit.epochs", "1", "--placement.mesh.fsdp", "1", "--seeds", "1")
    command = ["sweep", str(CONFIG), "--workdir", str(tmp_path), *small, *weights]
    assert main([*command, "--loss.beta", "wide"]) != 0
    assert not list(tmp_path.iterdir())
    assert main(command) == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        "raco_tiny@weights=0.1,0.9",
        "raco_tiny@weights=0.9,0.1",
    ]
    found = json.loads((tmp_path / "hypervolume.json").read_text())
    assert found["methods"]["raco_tiny"]["seeds"] == [0]
    assert "Hypervolume of heldout/margin_nats/objective_0" in capsys.readouterr().out
    before = (tmp_path / "hypervolume.json").read_bytes()
    assert main(command) == 0  # all is there already
    assert (tmp_path / "hypervolume.json").read_bytes() == before


def test_an_objective_that_decides_nothing_has_no_place_on_a_front():
    context = held_out(2)
    assert context.pairs is not None
    votes = np.array(context.pairs.votes)
    votes[:, 1] = 0.5
    told = HeldOutObjectives()(dataclasses.replace(context, pairs=dataclasses.replace(context.pairs, votes=votes)))
    assert {name.split("/")[2][:11] for name in told} == {"objective_0"}
