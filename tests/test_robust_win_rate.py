"""The worst of a pool of opponents: by hand, coverage of its interval, who is in the pool, policies of other runs."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from made_heldout import ANSWERS, ASKED, held_out
from made_rollouts import rollouts
from made_runs import run_here, tiny_lm

from jaxalign.__main__ import main
from jaxalign.config.load import validate
from jaxalign.errors import ConfigError
from jaxalign.evals.context import evenly
from jaxalign.evals.intervals import estimated
from jaxalign.evals.robust_win_rate import RobustWinRate, worst
from jaxalign.evals.win_rate import WinRate
from jaxalign.experiment import Evaluation
from jaxalign.references.of_run import OfRun
from jaxalign.storage.record import read_metrics


def test_it_is_the_least_and_the_mean_of_the_win_rates():
    context = held_out(3)
    metrics = RobustWinRate()(context)
    each = WinRate()(context)
    rates = {"base": each["win_rate/vs_base"], "iterate-1": each["win_rate/vs_previous"]}
    for name, rate in rates.items():
        assert metrics[f"robust_win_rate/vs_{name}"] == pytest.approx(rate)
    assert metrics["robust_win_rate/worst"] == pytest.approx(min(rates.values()))
    assert metrics["robust_win_rate/mean"] == pytest.approx(np.mean(list(rates.values())))
    assert metrics["robust_win_rate/worst_ci95_low"] <= metrics["robust_win_rate/worst"]
    assert metrics["robust_win_rate/worst"] <= metrics["robust_win_rate/worst_ci95_high"]
    assert RobustWinRate()(held_out(1)) == {}


def test_policies_of_other_runs_are_in_the_pool():
    context = dataclasses.replace(held_out(2), others={"other-1": rollouts(ANSWERS[2], ASKED)})
    metrics = RobustWinRate()(context)
    swapped = dataclasses.replace(held_out(3), responses={"base": context.others["other-1"], "now": context.current})
    assert metrics["robust_win_rate/vs_other-1"] == WinRate(("base",))(swapped)["win_rate/vs_base"]
    alone = dataclasses.replace(held_out(1), others=context.others)
    assert alone.names == ("base",)
    assert "robust_win_rate/vs_other-1" in RobustWinRate()(alone)


def test_a_pool_of_one_is_its_win_rate_and_a_larger_pool_is_no_better():
    generator = np.random.default_rng(0)
    rates = generator.uniform(size=(20, 5))
    one = worst(rates[:, :1])
    expected = estimated(rates[:, 0])
    assert (one.value, one.low, one.high) == (expected.value, expected.low, expected.high)
    found = [worst(rates[:, :count]) for count in range(1, 6)]
    assert all(a.value >= b.value and a.low >= b.low for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("apart", [0.0, 0.05, 0.2])
def test_the_interval_holds_the_least_rate_as_often_as_it_says(apart):
    """Six opponents whose rates are equal, nearly, or not; 40 prompts, each hard or easy against all; 600 experiments.
    The interval of the one that came out least, as if it had been chosen beforehand, misses an equal pool too often."""
    truth = 0.5 + apart * np.arange(6) / 6
    generator, covered, naive = np.random.default_rng(1), 0, 0
    for _ in range(600):
        shared, own = generator.uniform(-0.1, 0.1, (40, 1)), (0.4 - apart) * generator.choice([-1, 1], (40, 6))
        rates = truth + shared + own
        found = worst(rates)
        covered += found.low <= 0.5 <= found.high
        alone = estimated(rates[:, rates.mean(0).argmin()])
        naive += alone.low <= 0.5 <= alone.high
    assert covered / 600 >= 0.94
    if apart == 0.0:
        assert naive / 600 < 0.93


def test_the_pool_is_spread_over_the_run():
    names = tuple("abcdefghij")
    assert evenly(names, 4) == ("a", "d", "g", "j")
    assert evenly(names, 10) == evenly(names, 99) == names
    assert evenly(names, 1) == ("j",)
    assert evenly((), 3) == evenly((), 1) == ()
    assert list(RobustWinRate(earlier=0).problems()) == ["earlier must be at least 1, got 0"]


def test_a_run_opposes_the_policies_of_another(tmp_path, capsys):
    """They answer once, with the base's answers, and `eval` says again what the run measured."""
    made = tiny_lm("--iterations", "1", "--swap_every", "none")
    run_here(made, tmp_path / "first")
    evaluation = dataclasses.replace(
        made.evaluation,
        evals=(WinRate(("base",)), RobustWinRate()),
        others=(OfRun(str(tmp_path / "first")), OfRun(str(tmp_path / "first"), 0)),
    )
    summary = run_here(dataclasses.replace(made, seed=1, evaluation=evaluation), tmp_path / "second")
    lines = [line for line in read_metrics(tmp_path / "second") if line["phase"] == "evals"]
    for line in lines:
        assert {"robust_win_rate/vs_other-1", "robust_win_rate/vs_other-2"} < set(line)
    assert "robust_win_rate/vs_base" not in lines[0]
    assert lines[1]["robust_win_rate/vs_base"] == lines[1]["win_rate/vs_base"]
    assert summary["robust_win_rate"] == lines[1]["robust_win_rate/worst"]
    assert summary["robust_win_rate_ci95"][0] <= summary["robust_win_rate"] <= summary["robust_win_rate_ci95"][1]
    assert summary["robust_win_rate_mean"] == lines[1]["robust_win_rate/mean"]
    assert summary["win_rate_equally_long_vs_base"] == lines[1].get("win_rate_equally_long/vs_base")

    capsys.readouterr()
    assert main(["eval", str(tmp_path / "second"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["evals"]
    for name, line in zip(("base", "iterate-1"), lines, strict=True):
        assert again[name] == {key: line[key] for key in again[name]}
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Say one."}\n{"prompt": "Say two."}\n')
    assert main(["eval", str(tmp_path / "second"), "--prompts", str(prompts), "--json"]) == 0
    assert "robust_win_rate/vs_other-2" in json.loads(capsys.readouterr().out)["evals"]["base"]

    other = tiny_lm("--iterations", "1", "--swap_every", "none", "--model.seed", "5")
    with pytest.raises(ConfigError, match=r"evaluation\.others\.0: the policies of .* are of another model"):
        run_here(dataclasses.replace(other, evaluation=evaluation), tmp_path / "third")


def test_others_need_prompts_to_answer(tmp_path):
    made = tiny_lm()
    evaluation = Evaluation(evals=(), others=(OfRun(str(tmp_path)),))
    with pytest.raises(ConfigError, match="others are asked the held-out prompts, and there are none"):
        validate(dataclasses.replace(made, evaluation=evaluation))
