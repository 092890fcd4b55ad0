"""The judge that trains and the judge that evaluates are two: each answers for its own part of a run."""

import dataclasses
import json

import pytest
from made_runs import run_here, tiny_lm

from jaxalign.__main__ import main
from jaxalign.config.load import validate
from jaxalign.errors import ConfigError
from jaxalign.evals.judges_apart import JudgesApart
from jaxalign.evals.win_rate import WinRate
from jaxalign.experiment import Experiment
from jaxalign.oracles.annotators import Detail
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.storage.record import read_metrics


def two_judges() -> Experiment:
    experiment = tiny_lm("--iterations", "1", "--swap_every", "none", "--optimizer.learning_rate.peak", "0.01")
    evaluation = dataclasses.replace(
        experiment.evaluation,
        oracle=Panel((Weighted(Detail(), temperature=0.1),)),
        evals=(WinRate(against=("base",)), JudgesApart()),
    )
    return dataclasses.replace(experiment, evaluation=evaluation)


def test_each_judge_answers_for_its_part(tmp_path, capsys):
    experiment = two_judges()
    summary = run_here(experiment, tmp_path)
    lines = {(line["iteration"], line["phase"]): line for line in read_metrics(tmp_path)}
    evals = lines[(0, "evals")]
    assert evals["judges/win_rate_oracle"] == evals["win_rate/vs_base"] == summary["win_rate_vs_base"]
    assert evals["win_rate/vs_base/detail"] == pytest.approx(evals["win_rate/vs_base"])
    assert evals["judges/win_rate_trainer"] != evals["judges/win_rate_oracle"]
    assert not list(tmp_path.rglob("*.parts"))

    capsys.readouterr()
    main(["eval", str(tmp_path), "--json"])
    again = json.loads(capsys.readouterr().out)["evals"]["iterate-1"]
    assert again["judges/win_rate_trainer"] == evals["judges/win_rate_trainer"]
    assert again["win_rate/vs_base"] == evals["win_rate/vs_base"]


def test_one_judge_is_never_apart_from_itself():
    experiment = two_judges()
    same = dataclasses.replace(experiment.evaluation, oracle=None)
    with pytest.raises(ConfigError, match="JudgesApart needs trainer"):
        validate(dataclasses.replace(experiment, evaluation=same))
