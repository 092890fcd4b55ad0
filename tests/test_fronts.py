"""Fronts between objectives: volumes by hand and by drawing, cells by their names, a sweep from the command line."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from made_heldout import held_out

from jaxalign.__main__ import main
from jaxalign.commands.sweep import cells_of, refuse_no_front
from jaxalign.config.load import load
from jaxalign.config.overrides import combinations, taken
from jaxalign.errors import ConfigError
from jaxalign.evals.objectives import HeldOutObjectives
from jaxalign.objectives.mixed import Mixed
from jaxalign.report.arms import arms_of
from jaxalign.report.crossed import over_seeds
from jaxalign.report.fronts import MARGINS, fronts
from jaxalign.report.fronts_told import drawn, told
from jaxalign.report.hypervolume import hypervolume, on_front
from jaxalign.storage import durable, twice
from jaxalign.storage.record import read_perf

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


def begun(root: Path, name: str, seed: int, base: Mapping[str, float] | None) -> Path:
    """A run whose base has been measured, or not."""
    run = root / name / f"seed-{seed}"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"seed": seed}))
    lines = [] if base is None else [{"iteration": "initial", "phase": "evals", "step": 0, **base}]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return run


def finished(
    root: Path, name: str, seed: int, evals: Mapping[str, float], base: Mapping[str, float] | None = None
) -> None:
    """One whose base is at 0, if nothing else is said."""
    run = begun(root, name, seed, dict.fromkeys(evals, 0.0) if base is None else base)
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
    assert not found["reference_given"]
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
    assert "single point" not in lines[1]
    assert lines[2].split()[:2] == ["plain", "0"]
    assert "cells 1, a single point; 0 of 2 runs above the reference" in lines[2]
    assert "over seeds: of these held-out pairs" in told(found)
    assert [path.name for path in drawn(found, tmp_path)] == ["pareto.png", "pareto.svg"]
    assert "raco" in (tmp_path / "pareto.svg").read_text()


def test_methods_without_an_anchor_are_on_the_scale_of_those_with_one(tmp_path):
    """The same gain, of log-probs that begin at -5.9 and 2, and of log-ratios that begin at 0."""
    finished(tmp_path, "dpo", 0, margins(2, 1))
    finished(tmp_path, "amopo", 0, margins(2 - 5.9, 1 + 2), base=margins(-5.9, 2))
    found = fronts(arms_of(tmp_path), reference=(0.0, 0.0))
    assert found["gains"] == found["metrics"]
    for method in ("dpo", "amopo"):
        assert found["methods"][method]["cells"][""]["points"]["0"] == pytest.approx([2.0, 1.0])
        assert found["methods"][method]["hypervolume"] == pytest.approx(2.0)
    assert "objective_0 above the base's" in told(found)
    # what is no margin is taken as it is
    for run in tmp_path.glob("*/seed-0"):
        (run / "summary.json").write_text(json.dumps({"evals": {"a": 0.5, "b": 0.25}}))
    assert fronts(arms_of(tmp_path), ("a", "b"))["methods"]["amopo"]["cells"][""]["mean"] == [0.5, 0.25]


def test_a_run_whose_base_was_not_measured_is_refused(tmp_path):
    finished(tmp_path, "amopo", 0, margins(1, 2), base={})
    with pytest.raises(ConfigError, match=r"amopo, seed 0: has not measured .*objective_0.* of its base"):
        fronts(arms_of(tmp_path))


def test_a_reference_that_is_given_stays_where_it_is(tmp_path):
    """An outlier moves the least of all runs, and with it what the others come to; of the base nothing moves."""
    finished(tmp_path, "raco", 0, margins(2, 3))
    finished(tmp_path, "other", 0, margins(1, 1))
    kept = fronts(arms_of(tmp_path), reference=(0.0, 0.0))["methods"]
    finished(tmp_path, "outlier", 0, margins(-100, 5))
    found = fronts(arms_of(tmp_path), reference=(0.0, 0.0))
    assert (found["reference"], found["reference_given"]) == ([0.0, 0.0], True)
    assert {name: found["methods"][name] for name in kept} == kept
    assert found["methods"]["outlier"]["hypervolume"] == 0
    assert found["methods"]["outlier"]["runs_above_reference"] == 0
    assert fronts(arms_of(tmp_path))["reference"] == [-100.0, 1.0]
    with pytest.raises(ConfigError, match="the reference has 3 numbers"):
        fronts(arms_of(tmp_path), reference=(0.0, 0.0, 0.0))


def test_two_methods_are_compared_seed_by_seed(tmp_path):
    """What seeds have in common falls out: volumes of 1, 10, 100 beside 2, 11, 102."""
    for seed, volume in enumerate((1.0, 10.0, 100.0)):
        finished(tmp_path, "one", seed, margins(volume, 1))
        finished(tmp_path, "two", seed, margins(volume + (1, 1, 2)[seed], 1))
    finished(tmp_path, "two", 3, margins(500, 1))
    finished(tmp_path, "elsewhere", 9, margins(3, 1))
    found = fronts(arms_of(tmp_path), reference=(0.0, 0.0))
    pairs = {(each["method"], each["above"]): each for each in found["differences"]}
    assert set(pairs) == {("elsewhere", "one"), ("elsewhere", "two"), ("one", "two")}
    each = pairs["one", "two"]
    assert (each["seeds"], each["of_each_seed"]) == ([0, 1, 2], [-1.0, -1.0, -2.0])
    assert each["mean"] == pytest.approx(-4 / 3)
    wanted = over_seeds([-1.0, -1.0, -2.0])
    assert wanted is not None
    assert each["ci95"] == [wanted.low, wanted.high]
    assert (pairs["elsewhere", "one"]["seeds"], pairs["elsewhere", "one"]["mean"]) == ([], None)
    lines = [line.split() for line in told(found).splitlines()]
    assert ["one", "-", "two", "-1.333", "[-2.768,", "0.1009]", "seeds", "3"] in lines
    assert ["elsewhere", "-", "one", "no", "seed", "in", "common"] in lines


def test_a_cell_that_is_not_finished_leaves_its_method_without_a_volume(tmp_path):
    """The front of what is there would be of fewer settings than others'."""
    for seed in (0, 1):
        finished(tmp_path, "raco@weights=0.1,0.9", seed, margins(1 + seed, 3))
        finished(tmp_path, "other@weights=0.1,0.9", seed, margins(1 + seed, 2))
    begun(tmp_path, "raco@weights=0.9,0.1", 0, margins(0, 0))
    begun(tmp_path, "waiting", 0, None)
    found = fronts(arms_of(tmp_path))
    raco = found["methods"]["raco"]
    assert (raco["seeds"], raco["hypervolume"], raco["ci95"]) == ([], None, None)
    assert raco["cells"]["weights=0.9,0.1"] == {"mean": None, "on_front": False, "points": {}}
    assert raco["cells"]["weights=0.1,0.9"]["on_front"]
    assert found["unfinished"] == {"raco@weights=0.9,0.1": ["seed-0"], "waiting": ["seed-0"]}
    assert found["differences"] == []
    assert "raco                     no seed has all its cells yet" in told(found)
    drawn(found, tmp_path)  # of a method without a point too


def test_methods_of_other_settings_are_said_to_be(tmp_path):
    for name in ("raco@weights=0.1,0.9", "raco@weights=0.9,0.1", "other@weights=0.1,0.9", "mgda"):
        finished(tmp_path, name, 0, margins(1, 3))
    found = fronts(arms_of(tmp_path))
    assert found["lacking"] == {"other": ["weights=0.9,0.1"]}
    assert [name for name, each in found["methods"].items() if each["single_point"]] == ["mgda", "other"]
    assert "fronts are of different settings: other lacks weights=0.9,0.1" in told(found)


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


def test_each_of_several_configs_takes_of_the_swept_options_those_that_it_has():
    """Weights are the combiner's, the loss's or nobody's."""
    words = ["--combiner.weights=0.1,0.9", "--combiner.weights=0.9,0.1", "--loss.weights=1,0", "--loss.weights=0,1"]
    once = ["--fit.epochs=1", "--typo=1", "--typo=2"]
    leaves = [{"combiner.weights", "fit.epochs"}, {"loss.weights", "fit.epochs"}, {"fit.epochs"}]
    assert taken([*words, *once], leaves) == [[*words[:2], *once], [*words[2:], *once], once]
    assert taken(words, [set()]) == [words]  # nobody has them: whoever reads them says so
    folder = CONFIG.parent
    configs = [str(folder / f"tldr{name}.py") for name in ("", "_amopo", "_mgda")]
    cells = cells_of(configs, [*words, "--fit.epochs=2"])
    assert list(cells) == [
        "tldr@weights=0.1,0.9",
        "tldr@weights=0.9,0.1",
        "tldr_amopo@weights=1,0",
        "tldr_amopo@weights=0,1",
        "tldr_mgda",
    ]
    assert {experiment.fit.epochs for _, experiment in cells.values()} == {2}
    assert cells["tldr_amopo@weights=1,0"][0] == configs[1]
    with pytest.raises(ConfigError, match=r"tldr_mgda\.py: combiner\.weights: unknown option"):  # for all, given once
        cells_of(configs[::2], words[:1])
    with pytest.raises(ConfigError, match=r"loss\.weights: unknown option"):
        cells_of(configs[::2], words)
    with pytest.raises(ConfigError, match="the runs of both would be called tldr_mgda"):
        cells_of([configs[2], configs[2]], [])


@pytest.mark.parametrize(
    ("config", "options", "named"),
    [
        (CONFIG.parents[1] / "preference" / "bt_tiny.py", (), "the experiment measures none: add HeldOutObjectives"),
        (CONFIG, ("--metrics", f"{MARGINS}0"), "two or three metrics, and there are 1"),
        (CONFIG, ("--combiner.weights", "0.4,0.2,0.2,0.2"), "two or three metrics, and there are 4"),
        (CONFIG, ("--reference", "0"), "a number for each metric, got 1 for 2"),
        (CONFIG, ("--reference", "0,nan"), "such as 0,0, got 0,nan"),
        (CONFIG, ("--reference=0,x",), "such as 0,0, got 0,x"),
        (CONFIG, (str(CONFIG),), "the runs of both would be called raco_tiny"),
    ],
)
def test_what_comes_to_no_front_is_refused_before_anything_is_trained(tmp_path, capsys, config, options, named):
    assert main(["sweep", str(config), *options, "--workdir", str(tmp_path)]) == 2
    assert named in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_figure_that_cannot_be_drawn_is_refused_before_anything_is_trained(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["sweep", str(CONFIG), "--workdir", str(tmp_path)]) == 2
    assert "pip install 'jaxalign[report]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_baseline_whose_labels_are_mixed_has_a_front_too():
    made = load(CONFIG)
    refuse_no_front(dataclasses.replace(made, combiner=Mixed()), ())
    refuse_no_front(dataclasses.replace(made, evaluation=dataclasses.replace(made.evaluation, evals=())), ("a", "b"))


def fitted(run: Path) -> int:
    """Optimizer steps that any launch has taken."""
    return sum(line["phase"] == "fit" for line in read_perf(run))


def test_a_sweep_trains_its_cells_and_draws_their_front(tmp_path, capsys):
    pytest.importorskip("matplotlib")
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
    # a cell that was not finished is made again, and no other one; every launch writes its summary, from what is there
    cut, whole = (tmp_path / f"raco_tiny@weights={each}" / "seed-0" for each in ("0.1,0.9", "0.9,0.1"))
    twice.delete(durable.absolute(cut) / "summary.json")
    shutil.rmtree(cut / "0000")
    assert fronts(arms_of(tmp_path))["methods"]["raco_tiny"]["hypervolume"] is None
    files = {path for path in whole.rglob("*") if path.is_file()}
    untouched = {path: path.stat().st_mtime_ns for path in files if "summary" not in path.name and path.name != "lock"}
    assert {"perf.jsonl", "metrics.jsonl", "commit.json"} <= {path.name for path in untouched}
    steps = fitted(cut)
    for name in ("pareto.png", "pareto.svg"):
        (tmp_path / name).unlink()
    assert main(command) == 0
    assert (cut / "summary.json").is_file()
    assert fitted(cut) == 2 * steps > 0
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    assert (tmp_path / "hypervolume.json").read_bytes() == before
    for name in ("pareto.png", "pareto.svg"):
        assert (tmp_path / name).stat().st_size > 1000


def test_an_objective_that_decides_nothing_has_no_place_on_a_front():
    context = held_out(2)
    assert context.pairs is not None
    votes = np.array(context.pairs.votes)
    votes[:, 1] = 0.5
    told = HeldOutObjectives()(dataclasses.replace(context, pairs=dataclasses.replace(context.pairs, votes=votes)))
    assert {name.split("/")[2][:11] for name in told} == {"objective_0"}
