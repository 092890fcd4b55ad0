"""One experiment with several seeds: runs beside one another, and how far what they come to is spread."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from etils import epath
from made_runs import CONFIGS
from made_runs import SMALL as TINY

from jaxalign.__main__ import main
from jaxalign.config.load import load
from jaxalign.evaluate import Votes
from jaxalign.report import games, win_rates
from jaxalign.report.measured import draw_measured, of_steps
from jaxalign.report.seeds import last_policies, measured, spread, table
from jaxalign.storage import pinned
from jaxalign.storage.record import Recorder, read_metrics
from jaxalign.storage.rundir import home, read_run

SMALL = (
    *("--iterations", "1", "--swap_every", "1", "--feedback.prompts_per_iteration", "8"),
    *("--feedback.rollout.samples", "8", "--feedback.pairing.pairs_per_prompt", "16", "--feedback.unseen", "0.5"),
    *("--fit.rows.groups", "16", "--fit.batch_size", "64", "--fit.epochs", "2", "--seed", "3"),
)
"""Every prompt asked twice an iteration, the second time for pairs that are left out."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("seeds") / "D"
    config = str(CONFIGS / "games" / "cyclic_strings.py")
    assert not main(["train", config, "--workdir", str(root), "--seeds", "2", *SMALL])
    return root


def test_each_seed_is_a_run_of_its_own_and_all_are_told_together(runs):
    summaries = [json.loads((runs / f"seed-{seed}" / "summary.json").read_text()) for seed in (3, 4)]
    told = json.loads((runs / "seeds.json").read_text())
    assert told["seeds"] == [3, 4]
    gaps = [summary["evals"]["nash/gap"] for summary in summaries]
    assert gaps[0] != gaps[1]
    assert told["evals"]["nash/gap"]["values"] == gaps
    assert told["evals"]["nash/gap"]["median"] == pytest.approx(np.mean(gaps))
    for summary in summaries:
        assert summary["duality_gap"] == summary["evals"]["nash/gap"]
        assert summary["kl_to_nash"] == summary["evals"]["nash/kl"]


def test_the_game_is_measured_before_and_after_every_fit(runs):
    lines = read_metrics(runs / "seed-3")
    gaps = [line["nash/gap"] for line in lines if line["phase"] == "evals"]
    assert len(gaps) == 2
    assert all(0 < gap < 1 for gap in gaps)
    unseen = [line for line in lines if line["phase"] == "unseen"]
    assert [line["iteration"] for line in unseen] == [0]
    # Before the first fit the margin is 0 on every pair: the loss is the square of the target.
    target = 0.5 / load(CONFIGS / "games" / "cyclic_strings.py").loss.eta
    assert unseen[0]["fit/heldout_loss_before"] == pytest.approx(target**2, rel=1e-4)


def test_the_same_command_again_changes_nothing(runs):
    before = {path: path.read_bytes() for path in runs.glob("*/metrics.jsonl")} | {
        runs / "seeds.json": (runs / "seeds.json").read_bytes()
    }
    config = str(CONFIGS / "games" / "cyclic_strings.py")
    assert not main(["train", config, "--workdir", str(runs), "--seeds", "2", *SMALL])
    assert len(before) == 3
    assert {path: path.read_bytes() for path in before} == before


def test_report_draws_the_gaps_of_all_seeds_or_of_one(runs, capsys):
    pytest.importorskip("matplotlib")
    for path in (runs, runs / "seed-3"):
        assert not main(["report", str(path)])
        assert {each.name for each in (path / "report").iterdir()} == {"gap.png", "gap.svg", "index.html"}
    together, alone = ((path / "report" / "gap.svg").read_text() for path in (runs, runs / "seed-3"))
    assert all(name in together for name in (">seed-4<", ">median<", ">iterate<"))
    assert not any(name in alone for name in ("seed-4", "median"))


def test_what_look_aheads_measure_is_no_step(tmp_path, runs):
    """The same lines, once of a run of plain steps and once of one whose odd iterates are look-aheads."""
    config = json.loads((runs / "seed-3" / "config.json").read_text())
    del config["seal"]
    rates = [0.5, 0.9, 0.6, 0.9, 0.7]
    for name, rule in (("plain", "forward:Forward"), ("ahead", "extragradient:Extragradient")):
        (tmp_path / name).mkdir()
        config["step_rule"] = {"type": f"jaxalign.step_rules.{rule}"}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        recorder = Recorder(epath.Path(tmp_path / name), {})
        for number, rate in enumerate(rates):
            recorder.log(home(number), "evals", 0, {"win_rate/vs_base": rate})
        recorder.close()
    assert [line["win_rate/vs_base"] for line in of_steps(tmp_path / "ahead", 2)] == rates[::2]
    pytest.importorskip("matplotlib")
    for name, said in (("plain", ">iterate<"), ("ahead", ">step (look-aheads left out)<")):
        draw_measured({"this run": tmp_path / name}, tmp_path / name)
        assert said in (tmp_path / name / "win_rate.svg").read_text()


def test_a_curve_goes_past_what_was_not_measured(tmp_path, monkeypatch):
    """To where it was: not from point to point, and not into nothing."""
    pytest.importorskip("matplotlib")
    figures = []
    for module in (win_rates, games):
        monkeypatch.setattr(module, "save", lambda figure, *_: figures.append(figure) or [])
    values = np.array([0.5, np.nan, 0.6, np.nan, 0.7])
    win_rates.win_rates([win_rates.Curve("one", values, (values - 0.1, values + 0.1))], tmp_path)
    games.gap_against_steps(np.arange(5.0), {"one": values}, tmp_path, xscale="linear")
    for figure in figures:
        (drawn,) = (line for line in figure.axes[0].lines if line.get_label() == "one")
        np.testing.assert_array_equal(drawn.get_xydata(), [[0, 0.5], [2, 0.6], [4, 0.7]])
    assert len(figures) == 2


@pytest.fixture(scope="module")
def language_models(tmp_path_factory):
    root = tmp_path_factory.mktemp("seeds") / "D"
    small = (*TINY, "--evaluation.rollout.samples", "2")
    assert not main(["train", str(CONFIGS / "tiny_lm.py"), "--workdir", str(root), "--seeds", "2", *small])
    return root


def test_seeds_of_a_language_model_are_told_with_their_win_rates(language_models, capsys):
    summaries = [json.loads((language_models / f"seed-{seed}" / "summary.json").read_text()) for seed in (0, 1)]
    told = json.loads((language_models / "seeds.json").read_text())["evals"]
    for metric in ("win_rate/vs_base", "win_rate/vs_base_stderr", "win_rate_length_controlled/vs_base"):
        assert told[metric]["values"] == [summary["evals"][metric] for summary in summaries]
    assert told["win_rate/vs_base"]["values"] == [summary["win_rate_vs_base"] for summary in summaries]
    assert told["win_rate/vs_base"]["deviation"] == pytest.approx(np.std(told["win_rate/vs_base"]["values"], ddof=1))
    for summary in summaries:
        low, high = summary["win_rate_ci95"]
        assert low < summary["win_rate_vs_base"] < high
        low, high = summary["win_rate_length_controlled_ci95"]
        assert low < summary["win_rate_length_controlled_vs_base"] < high


def test_the_votes_that_are_kept_make_the_win_rate(language_models):
    """Every prompt counts alike, and so does every pair of its answers."""
    for seed in (0, 1):
        run = read_run(language_models / f"seed-{seed}")
        votes, measured = run.load(1, "votes", Votes), run.summary()["evals"]
        assert votes.prefer.shape == (8, 2, 2)
        assert votes.prefer.mean() == pytest.approx(measured["win_rate/vs_base"], abs=1e-6)
        for index, name in enumerate(votes.annotators):
            alone = votes.by_annotator[:, index].mean()
            assert alone == pytest.approx(measured[f"win_rate/vs_base/{name}"], abs=1e-6)


def test_report_tells_and_draws_the_win_rates_of_all_seeds_or_of_one(language_models, capsys):
    pytest.importorskip("matplotlib")
    for path, said in (
        (language_models, "Last policies of 2 seeds: median [least, most]\n  cycles/condorcet_winner"),
        (language_models / "seed-0", "Last policy:\n  cycles/condorcet_winner"),
    ):
        capsys.readouterr()
        assert not main(["report", str(path)])
        shown = capsys.readouterr().out
        assert shown.startswith(said)
        assert "win_rate/vs_base  " in shown
        assert "_ci95_low" not in shown
        assert {each.name for each in (path / "report").iterdir()} == {"win_rate.png", "win_rate.svg", "index.html"}
    drawn = [(path / "report" / "win_rate.svg").read_text() for path in (language_models, language_models / "seed-0")]
    assert all(name in drawn[0] for name in ("seed-0", "seed-1", "median"))
    assert all(name in drawn[1] for name in ("all pairs", "at equal length (model)"))


def test_a_seed_that_is_not_finished_is_named(language_models, tmp_path):
    runs = {"seed-0": language_models / "seed-0", "seed-1": tmp_path}
    assert last_policies(runs).startswith("not finished yet: seed-1\nLast policies of 1 seeds")


def test_what_is_told_of_several_seeds():
    """Fits too, as at the end of training; what brackets mean, and what is not in every run."""
    told = table([{"a": 1.0, "a_stderr": 0.1, "b": 5.0}, {"a": 3.0, "a_stderr": 0.2}, {"a": 2.0, "a_stderr": 0.2}])
    assert told.splitlines() == [
        "Last policies of 3 seeds: median [least, most]",
        f"  {'a':<40} 2  [1, 3]",
        "The median of all seeds lies between least and most with a chance of 75.0 %.",
        "Not measured by every run, and left out: b",
    ]


def test_report_tells_what_training_told(runs):
    shown = last_policies({each.name: each for each in sorted(runs.glob("seed-*"))})
    assert "nash/gap" in shown
    assert "fits/lowered" in shown
    summaries = [json.loads((path / "summary.json").read_text()) for path in sorted(runs.glob("seed-*"))]
    assert shown == table([measured(each) for each in summaries])


def test_a_run_that_was_continued_by_another_version_says_so(runs, tmp_path, capsys):
    """At its end, in its summary and in reports."""
    path = tmp_path / "seed-4"
    shutil.copytree(runs / "seed-4", path)
    assert "versions" not in json.loads((path / "summary.json").read_text())
    first = pinned.parsed(pinned.read(epath.Path(path)))
    pinned.write(epath.Path(path), dataclasses.replace(first, versions={**first.versions, "jax": "0.1"}))
    config = str(CONFIGS / "games" / "cyclic_strings.py")
    assert not main(["train", config, "--workdir", str(path), *SMALL[:-1], "4"])
    here = pinned.versions()["jax"]
    assert f"(jax 0.1, then {here})" in capsys.readouterr().out
    assert json.loads((path / "summary.json").read_text())["versions"] == {"jax": ["0.1", here]}
    assert f"seed-4: its launches had different versions (jax 0.1, then {here})" in last_policies({"seed-4": path})


def test_spread_by_hand():
    found = spread([{"a": 1.0, "b": 5.0}, {"a": 3.0}, {"a": 2.0, "b": 1.0}])
    assert found == {
        "a": {"values": [1.0, 3.0, 2.0], "median": 2.0, "least": 1.0, "most": 3.0, "mean": 2.0, "deviation": 1.0}
    }
    assert "deviation" not in spread([{"a": 1.0}])["a"]


def test_no_seeds_are_refused(tmp_path, capsys):
    config = str(CONFIGS / "games" / "cyclic_strings.py")
    assert main(["train", config, "--workdir", str(tmp_path / "D"), "--seeds", "0"]) == 2
    assert "--seeds must be at least 1, got 0" in capsys.readouterr().err
    assert not (tmp_path / "D").exists()
