"""Arms of a comparison over seeds: made, stopped, resumed, and their table recomputed from the files of the runs."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
from made_runs import CONFIGS, Patience, lines_of, run_here, tiny_lm
from scipy import stats

from jaxalign.__main__ import main
from jaxalign.errors import ConfigError, Interrupted
from jaxalign.evals.intervals import ByPrompt
from jaxalign.evals.win_rate import WinRate
from jaxalign.experiment import Experiment
from jaxalign.feedback.sampled import Sampled
from jaxalign.oracles.randomly_oriented import RandomlyOriented
from jaxalign.reopen import reopen
from jaxalign.report.arms import arms_of
from jaxalign.report.by_prompt import Answered, answered
from jaxalign.report.evidence import Measured, evidence
from jaxalign.report.evidence_told import markdown, plain
from jaxalign.types import Rollouts

RATE, FIRST = "win_rate/vs_base", "fit/heldout_change/1"
SEEDS = (0, 1)
LAST = 1
"""Number of the last policy, and of the fits."""


def arm(turned: bool, seed: int) -> Experiment:
    """One of two arms: pairs as the panel has them, or turned at random. Judged by the panel."""
    experiment = tiny_lm(
        *("--iterations", str(LAST), "--swap_every", "none", "--optimizer.learning_rate.peak", "0.02"),
        *("--evaluation.rollout.samples", "2", "--feedback.unseen", "0.25", "--seed", str(seed)),
    )
    assert isinstance(experiment.feedback, Sampled)
    oracle = experiment.feedback.oracle
    feedback = dataclasses.replace(experiment.feedback, oracle=RandomlyOriented(oracle) if turned else oracle)
    evaluation = dataclasses.replace(
        experiment.evaluation, oracle=oracle, evals=(WinRate(against=("base",)), *experiment.evaluation.evals[1:])
    )
    return dataclasses.replace(experiment, feedback=feedback, evaluation=evaluation)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> pathlib.Path:
    """Two arms of two seeds; the last run is stopped before its end, and a directory of something else lies beside."""
    home = tmp_path_factory.mktemp("evidence")
    (home / "compiled").mkdir()
    for name in ("straight", "random"):
        for seed in SEEDS[: 2 if name == "straight" else 1]:
            run_here(arm(name == "random", seed), home / name / f"seed-{seed}")
    with pytest.raises(Interrupted):
        run_here(arm(True, 1), home / "random" / "seed-1", Patience(8))
    return home


@pytest.fixture(scope="module")
def table(root: pathlib.Path) -> dict:
    """The table of what is finished, and then of everything."""
    assert main(["evidence", str(root), "--against", "random"]) == 0
    early = json.loads((root / "evidence.json").read_text())
    assert early["unfinished"] == {"random": ["seed-1"]}
    assert early["arms"]["random"]["seeds"] == [0]
    assert early["arms"]["random"]["metrics"][RATE]["covers"] == "prompts"
    assert early["arms"]["straight"]["metrics"][RATE]["difference"]["seeds"] == [0]
    assert "left out: random: seed-1" in (root / "evidence.md").read_text()

    untouched = {path: path.read_bytes() for path in root.glob("*/seed-0/metrics.jsonl")}
    assert len(untouched) == 2
    for name in ("straight", "random"):
        for seed in SEEDS:
            run_here(arm(name == "random", seed), root / name / f"seed-{seed}")
    assert {path: path.read_bytes() for path in untouched} == untouched
    assert main(["evidence", str(root), "--against", "random"]) == 0
    found: dict = json.loads((root / "evidence.json").read_text())
    return found


def by_prompt(path: pathlib.Path) -> list[float]:
    """Win rates of the last policy against the base, prompt by prompt and pair by pair, from the answers of a run."""
    run = reopen(path)
    oracle = run.experiment.judge
    last, base = (run.directory.load(where, "heldout", Rollouts) for where in (LAST - 1, "initial"))
    rates = []
    for index, prompt in enumerate(last.prompts):
        of_pairs = []
        for mine in last.texts[index]:
            for theirs in base.texts[index]:
                asked = dataclasses.replace(last, prompts=(prompt,), texts=((mine, theirs),))
                of_pairs.append(panel_says(oracle, asked))
        rates.append(float(np.mean(of_pairs)))
    return rates


def panel_says(oracle, asked: Rollouts) -> float:
    """The panel's formula: advantages of scores, by their weights."""
    advantages = []
    for member in oracle.annotators:
        first, second = member.annotator(asked.prompts[0], asked.texts[0])
        advantages.append(np.tanh((first - second) / member.temperature / 2) / 2)
    return 0.5 + float(np.mean(advantages))


def test_means_and_intervals_are_those_of_the_files(table, root):
    rates = {name: np.array([by_prompt(root / name / f"seed-{seed}") for seed in SEEDS]) for name in table["arms"]}
    for name, values in rates.items():
        cell = table["arms"][name]["metrics"][RATE]
        assert cell["mean"] == pytest.approx(values.mean(), abs=1e-6)
        for seed, told in zip(SEEDS, cell["seeds"], strict=True):
            summary = json.loads((root / name / f"seed-{seed}" / "summary.json").read_text())
            assert (told["value"], told["ci95"]) == (summary["win_rate_vs_base"], summary["win_rate_ci95"])
        assert cell["covers"] == "prompts and seeds"
        wider = np.concatenate([values, np.tile([0.0, 1.0], (2, 1))], 1)
        assert cell["ci95"] == pytest.approx(student(wider), abs=1e-6)
    paired = rates["straight"] - rates["random"]
    difference = table["arms"]["straight"]["metrics"][RATE]["difference"]
    assert difference["mean"] == pytest.approx(paired.mean(), abs=1e-6)
    assert difference["ci95"] == pytest.approx(student(paired, bounded=False), abs=1e-5)
    assert "difference" not in table["arms"]["random"]["metrics"][RATE]


def student(values: np.ndarray, bounded: bool = True) -> list[float]:
    """Half widths over seeds and over prompts, added as squares."""
    widths = [stats.t.ppf(0.975, len(means) - 1) * stats.sem(means) for means in (values.mean(1), values.mean(0))]
    low, high = values.mean() - np.hypot(*widths), values.mean() + np.hypot(*widths)
    return [max(low, 0.0), min(high, 1.0)] if bounded else [low, high]


def test_changes_of_fits_are_those_of_the_files_and_not_compared_between_arms(table, root):
    for name, each in table["arms"].items():
        lines = [lines_of(root / name / f"seed-{seed}", "unseen") for seed in SEEDS]
        for index in range(LAST):
            changes = [of[index]["fit/heldout_loss"] - of[index]["fit/heldout_loss_before"] for of in lines]
            cell = each["metrics"][f"fit/heldout_change/{index + 1}"]
            assert cell["mean"] == pytest.approx(np.mean(changes))
            low, high = stats.t.interval(0.95, 1, np.mean(changes), stats.sem(changes))
            assert cell["ci95"] == pytest.approx([low, high])
            assert cell["covers"] == "seeds, own prompts"
            assert "difference" not in cell
        drift = [json.loads((root / name / f"seed-{seed}" / "summary.json").read_text()) for seed in SEEDS]
        told = each["metrics"]["drift/kl_from_base_nats"]
        assert told["mean"] == pytest.approx(np.mean([one["kl_from_base_nats"] for one in drift]))
        assert told["covers"] == "seeds"
    assert "difference" in table["arms"]["straight"]["metrics"]["drift/kl_from_base_nats"]


def test_the_table_is_told_on_the_terminal_and_as_markdown(table, root):
    shown, written = plain(table), markdown(table)
    assert written == (root / "evidence.md").read_text()
    mean = f"{table['arms']['straight']['metrics'][RATE]['mean']:.3g}"
    for text in (shown, written):
        assert f"{RATE} (intervals cover prompts and seeds)" in text
        assert "above random" in text
        assert mean in text
        assert "change of each fit's loss" in text
        assert "left out" not in text
    assert any(line.startswith("| straight | ") and mean in line for line in written.splitlines())


def test_metrics_are_chosen_and_what_is_not_there_is_refused(table, root, tmp_path, capsys):
    for name in ("straight", "random"):
        (tmp_path / name).symlink_to(root / name)
    assert main(["evidence", str(tmp_path), "--metrics", "text/words"]) == 0
    told = json.loads((tmp_path / "evidence.json").read_text())
    assert told["metrics"] == list(told["arms"]["random"]["metrics"]) == ["text/words"]
    assert told["against"] is None
    assert main(["evidence", str(tmp_path), "--metrics", "text/wrods"]) == 2
    assert "no arm measures text/wrods; there are cycles/" in capsys.readouterr().err
    assert main(["evidence", str(tmp_path), "--against", "inpo"]) == 2
    assert "no such arm is finished; there are random, straight" in capsys.readouterr().err
    assert main(["evidence", str(root / "compiled")]) == 2
    assert "holds no runs" in capsys.readouterr().err


def test_a_judge_that_answers_otherwise_now_is_refused(table, root, tmp_path, capsys):
    run = reopen(root / "random" / "seed-0")
    for name in ("straight", "random"):
        (tmp_path / name).symlink_to(root / name)
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in run.directory.path.iterdir():
        if "config.json" not in path.name:  # its copy would count
            (changed / path.name).symlink_to(path)
    config = json.loads((run.directory.path / "config.json").read_text())
    del config["seal"]
    config["evaluation"]["oracle"]["annotators"][0]["weight"] = 100.0
    (changed / "config.json").write_text(json.dumps(config))
    assert main(["evidence", str(tmp_path)]) != 0
    assert "when the run asked its judge" in capsys.readouterr().err


def made(rates: dict[int, list[float]], asked: tuple[str, ...]) -> Measured:
    """An arm of these rates by seed and prompt."""
    return Measured(
        {seed: {RATE: float(np.mean(each)), FIRST: -1.0} for seed, each in rates.items()},
        {seed: Answered(asked, {RATE: ByPrompt(np.array(each), float(len(each)))}) for seed, each in rates.items()},
    )


def test_arms_that_answered_other_prompts_are_paired_by_seed_alone():
    one, other = {0: [0.4, 0.6], 1: [0.5, 0.9], 2: [0.7, 0.7]}, {1: [0.4, 0.4], 2: [0.3, 0.7]}
    arms = {"a": made(one, ("x", "y")), "b": made(other, ("x", "z"))}
    found = evidence(arms, "b")["arms"]["a"]["metrics"][RATE]["difference"]
    low, high = stats.t.interval(0.95, 1, 0.25, stats.sem([0.3, 0.2]))
    assert (found["mean"], found["seeds"], found["covers"]) == (pytest.approx(0.25), [1, 2], "seeds")
    assert found["ci95"] == pytest.approx([low, high])
    # of the same prompts it is narrower or wider by what prompts do, and says so
    arms["b"] = made(other, ("x", "y"))
    assert evidence(arms, "b")["arms"]["a"]["metrics"][RATE]["difference"]["covers"] == "prompts and seeds"


def test_one_run_alone_has_intervals_over_prompts_and_none_over_seeds():
    cells = evidence({"a": made({0: [0.4, 0.6, 0.9]}, ("x", "y", "z"))}, None)["arms"]["a"]["metrics"]
    assert cells[RATE]["covers"] == "prompts"
    assert (cells[FIRST]["ci95"], cells[FIRST]["covers"], cells[FIRST]["mean"]) == (None, None, -1.0)


def test_a_directory_of_runs_without_seeds_is_compared_too(table, root, tmp_path):
    for name in ("straight", "random"):
        (tmp_path / name).symlink_to(root / name / "seed-1")
    assert {name: list(each.runs) for name, each in arms_of(tmp_path).items()} == {"random": [1], "straight": [1]}
    with pytest.raises(ConfigError, match="holds no runs"):
        arms_of(tmp_path / "nothing")


# ----------------------------------------------------------------------------------------------------------------------
# What was measured, without the runs


def test_a_table_is_made_again_without_the_runs(table, root, tmp_path, capsys):
    """From one file, and from two that hold other seeds; the judge is not asked again."""
    capsys.readouterr()
    assert main(["evidence", str(root / "measured.json"), "--against", "random"]) == 0
    assert capsys.readouterr().out.strip() == plain(table).strip()
    everything = json.loads((root / "measured.json").read_text())
    for seed in SEEDS:
        part = {name: {str(seed): runs[str(seed)]} for name, runs in everything.items()}
        (tmp_path / f"{seed}.json").write_text(json.dumps(part))
    assert main(["evidence", str(tmp_path / "1.json"), str(tmp_path / "0.json"), "--against", "random"]) == 0
    assert capsys.readouterr().out.strip() == plain(table).strip()


def test_what_was_measured_stays_when_a_run_goes(table, root, tmp_path):
    """A directory whose runs are deleted one after the other, but for one."""
    home = tmp_path / "arms"
    for name in ("straight", "random"):
        (home / name).mkdir(parents=True)
        for seed in SEEDS:
            (home / name / f"seed-{seed}").symlink_to(root / name / f"seed-{seed}")
    assert main(["evidence", str(home), "--against", "random"]) == 0
    first = (home / "evidence.json").read_bytes()
    assert json.loads(first)["arms"] == table["arms"]
    (home / "random" / "seed-0").unlink()
    (home / "straight" / "seed-1").unlink()
    assert main(["evidence", str(home), "--against", "random"]) == 0
    assert (home / "evidence.json").read_bytes() == first


def test_a_judge_is_asked_once_about_the_answers_of_a_run(table, root, tmp_path, monkeypatch):
    """What it said stays where it is, to the byte; of a run that has measured something else since it is asked anew."""
    for name in ("straight", "random"):
        (tmp_path / name).symlink_to(root / name)
    shutil.copy(root / "measured.json", tmp_path)
    file, asked = tmp_path / "measured.json", []
    monkeypatch.setattr(
        "jaxalign.report.evidence.answered",
        lambda run, metrics: asked.append(run.directory.path.relative_to(tmp_path)) or answered(run, metrics),
    )
    assert main(["evidence", str(tmp_path), "--against", "random"]) == 0
    assert asked == []
    assert file.read_bytes() == (root / "measured.json").read_bytes()
    assert json.loads((tmp_path / "evidence.json").read_text()) == table
    other = json.loads(file.read_text())
    other["random"]["1"]["metrics"][RATE] += 1e-9
    file.write_text(json.dumps(other))
    assert main(["evidence", str(tmp_path), "--against", "random"]) == 0
    assert [str(path) for path in asked] == ["random/seed-1"]
    assert file.read_bytes() == (root / "measured.json").read_bytes()


def test_a_run_beside_a_file_of_other_seeds(table, root, tmp_path, capsys):
    everything = json.loads((root / "measured.json").read_text())
    (tmp_path / "arms" / "straight").mkdir(parents=True)
    (tmp_path / "arms" / "straight" / "seed-0").symlink_to(root / "straight" / "seed-0")
    file = tmp_path / "earlier.json"
    file.write_text(json.dumps({"straight": {"1": everything["straight"]["1"]}}))
    assert main(["evidence", str(tmp_path / "arms"), str(file), "--metrics", RATE]) == 0
    found = json.loads((tmp_path / "arms" / "evidence.json").read_text())
    assert found["arms"]["straight"]["metrics"][RATE]["ci95"] == pytest.approx(
        table["arms"]["straight"]["metrics"][RATE]["ci95"]
    )
    kept = json.loads((tmp_path / "arms" / "measured.json").read_text())
    assert list(kept["straight"]) == ["0"]

    file.write_text(json.dumps({"straight": {"0": everything["straight"]["0"]}}))
    assert main(["evidence", str(tmp_path / "arms"), str(file)]) == 2
    assert "straight, seed 0, is in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "cannot be read"),
        ("[]", "holds no arms"),
        ('{"a": {"x": {}}}', "a: is not what `jaxalign evidence` writes"),
        ('{"a": {"0": {"metrics": {"m": 1}}}}', "'answered'"),
        (
            '{"a": {"0": {"metrics": {}, "answered": {"prompts": ["p"], "values": {"m": {"values": [1, 2], '
            '"effective": 2}}}}}}',
            "m: not a number for each of 1 prompts",
        ),
    ],
)
def test_a_file_of_something_else_is_refused_by_its_place(tmp_path, capsys, content, named):
    file = tmp_path / "measured.json"
    file.write_text(content)
    assert main(["evidence", str(file)]) != 0
    told = capsys.readouterr().err
    assert str(file) in told
    assert named in told


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_every_arm_of_the_target_has_a_config_and_a_directory_of_its_own():
    said = subprocess.run(["make", "-n", "evidence"], cwd=CONFIGS.parent, capture_output=True, text=True, check=True)
    configs, homes = (re.findall(pattern, said.stdout) for pattern in (r"configs/(\S+\.py)", r"--workdir (\S+)"))
    assert len(set(configs)) == len(set(homes)) == len(homes) >= 7
    assert all((CONFIGS / config).exists() for config in configs)
    (root, reference) = re.findall(r"jaxalign evidence (\S+) --against (\S+)", said.stdout)[0]
    assert f"{root}/{reference}" in homes
