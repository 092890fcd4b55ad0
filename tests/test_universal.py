"""Universal alignment through the loop: a tiny language model, its k samples measured again, mixtures of its policies,
and what of a population is refused."""

import dataclasses
import json
import pathlib
import re

import jax
import numpy as np
import pytest
from made_runs import CONFIGS, lines_of, run_here

from jaxalign.__main__ import main
from jaxalign.config.load import load, override, validate
from jaxalign.errors import ConfigError
from jaxalign.experiment import Experiment
from jaxalign.oracles.k_samples import KSamples
from jaxalign.reopen import reopen
from jaxalign.report.k_samples import draw_k_samples, of_nash, points
from jaxalign.rollouts.beside_anchor import BesideAnchor
from jaxalign.rollouts.keys import by_content
from jaxalign.rollouts.one_of_policies import drawn, rolled_from
from jaxalign.rollouts.seam import rolled
from jaxalign.storage.rundir import home
from jaxalign.types import Preferences, Rollouts

TINY = CONFIGS / "universal" / "tiny.py"
SMALL = (
    *("--iterations", "2", "--swap_every", "1", "--feedback.prompts_per_iteration", "8"),
    *("--feedback.rollout.samples", "4", "--feedback.rollout.max_tokens", "8", "--evaluation.rollout.max_tokens", "8"),
    *("--evaluation.prompts.limit", "6", "--fit.batch_size", "12", "--fit.rows.groups", "6"),
    *("--placement.rollout_rows", "16", "--placement.mesh.fsdp", "1"),
)


def tiny(*overrides: str) -> Experiment:
    return override(override(load(TINY), SMALL), overrides)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("universal") / "run"
    run_here(tiny(), path)
    return path


def evals(capsys, *arguments: object) -> dict:
    capsys.readouterr()
    assert main(["eval", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["evals"]


@pytest.mark.parametrize("path", sorted((CONFIGS / "universal").glob("*.py")), ids=lambda path: path.stem)
def test_configs_load_and_are_valid(path):
    validate(load(path))


def test_a_run_plays_for_what_its_users_pick(made):
    said = reopen(made).directory.load(0, "preferences", Preferences)
    assert said.annotators == ("brevity", "detail", "coverage")
    assert said.scores is not None
    np.testing.assert_allclose(said.scores.mean(-1), 1 / 3, atol=1e-6)  # one of three answers is picked
    assert (said.notes["k_samples/picks_off"] < 1e-5).all()
    for line in lines_of(made, "evals")[1:]:
        assert line["k_samples/1/vs_base"] == pytest.approx(line["win_rate/vs_base"], abs=1e-5)
        assert line["k_samples/4/vs_base"] > line["k_samples/1/vs_base"]
        assert line["k_samples/4/worst"] <= line["k_samples/4/vs_base"]


def test_eval_says_again_what_the_run_measured(made, capsys):
    found = evals(capsys, made, "--k", "1,2,4")
    assert list(found) == ["base", "iterate-1", "iterate-2", "mixture"]
    for name, line in zip(found, lines_of(made, "evals"), strict=False):
        assert found[name] == pytest.approx({key: line[key] for key in found[name]}, abs=1e-6)
    members = [found[f"iterate-{number}"] for number in (1, 2)]
    for k in (1, 2, 4):
        mean = np.mean([each[f"k_samples/{k}/vs_base"] for each in members])
        assert found["mixture"][f"k_samples/{k}/vs_base"] == pytest.approx(mean, abs=1e-9)
    assert all("against" not in key for key in found["mixture"])


def test_eval_asks_for_more_answers_where_there_are_too_few(made, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    found = evals(
        capsys, made, "--k", "2,6", "--against", "1,2", "--policies", "base,last", "--out", tmp_path / "drawn"
    )
    assert list(found) == ["base", "iterate-2"]
    assert {"k_samples/6/vs_base", "k_samples/6_against_2/worst", "k_samples/2/distinct"} < set(found["iterate-2"])
    assert found["iterate-2"]["k_samples/6/vs_base"] > found["iterate-2"]["k_samples/6_against_2/vs_base"]
    assert {each.name for each in (tmp_path / "drawn").iterdir()} == {"k_samples.png", "k_samples.svg"}


def test_report_draws_what_was_measured(made, capsys):
    pytest.importorskip("matplotlib")
    assert main(["report", str(made)]) == 0
    assert {"k_samples.svg", "win_rate.svg"} < {each.name for each in (made / "report").iterdir()}
    text = (made / "report" / "k_samples.svg").read_text()
    assert "k/(k+1)" in text


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--k", "1,x"), "--k: numbers with commas"),
        (("--k", "0"), "ks must be different numbers of at least 1"),
        (("--k", "1", "--pairs", "x.jsonl"), "needs answers to held-out prompts"),
        (("--out", "x"), "--out is where a figure of --k goes"),
    ],
)
def test_what_cannot_be_asked_is_said(made, options, named, capsys):
    assert main(["eval", str(made), *options]) == 2
    assert named in capsys.readouterr().err


def test_points_are_exact_where_they_are_and_the_worst_elsewhere():
    metrics = {
        "k_samples/2/robust": 0.6,
        "k_samples/2/worst": 0.7,
        "k_samples/2/vs_base": 0.8,
        "k_samples/2_against_2/worst": 0.4,
        "k_samples/2_against_2/worst_ci95_low": 0.3,
        "k_samples/2_against_2/worst_ci95_high": 0.5,
    }
    found = points(metrics)
    assert found[1][2].rate == 0.6
    assert (found[2][2].rate, found[2][2].low, found[2][2].high) == (0.4, 0.3, 0.5)
    nash = of_nash({**metrics, "k_samples/2/robust_of_nash": 0.5})
    assert nash == {"k_samples/2/robust": 0.5}
    assert draw_k_samples({"base": {"win_rate/vs_base": 0.5}}, pathlib.Path("nowhere")) == []


def test_a_mixture_draws_one_policy_for_each_prompt(made, key):
    """Whose answers are those that it would have given alone."""
    run = reopen(made)
    machine = run.machine()
    roller = machine.roller(run.experiment.evaluation.rollout)
    prompts = run.directory.load(home(0), "heldout", Rollouts).prompts
    keys = by_content(key, prompts)
    whose = drawn([1, 2], keys)
    assert set(drawn([1, 2], jax.random.split(key, 200)).tolist()) == {1, 2}
    mixed = rolled_from(roller, lambda number: machine.params(run.directory.policy(number)), whose, prompts, keys)
    alone = {number: rolled(roller, machine.params(run.directory.policy(number)), prompts, keys) for number in (1, 2)}
    assert mixed.prompts == prompts
    for at, number in enumerate(whose.tolist()):
        assert mixed.texts[at] == alone[number].texts[at]


def test_sample_answers_from_the_mixture(made, tmp_path, capsys):
    told = ("--prompt", "Why?", "--prompt", "What now?", "--max-tokens", "4", "--samples", "2")
    assert main(["sample", str(made), "--policy", "mixture", *told]) == 0
    assert capsys.readouterr().out.count("> ") >= 2


def test_fewer_answers_than_users_pick_from_are_refused_before_any_compute(tmp_path):
    with pytest.raises(ConfigError, match=r"feedback\.oracle: KSamples wants 5 answers to a prompt, and there are 4"):
        run_here(tiny("--feedback.oracle.k", "4"), tmp_path / "run")
    assert not (tmp_path / "run" / "0").exists()


def test_users_pick_from_answers_of_one_policy():
    feedback = tiny().feedback
    beside = dataclasses.replace(tiny(), feedback=dataclasses.replace(feedback, rollout=BesideAnchor(feedback.rollout)))
    assert any("has its anchor's beside them" in each for each in beside.problems())


def test_what_users_pick_cannot_judge_who_wins():
    unsaid = dataclasses.replace(tiny(), evaluation=dataclasses.replace(tiny().evaluation, oracle=None))
    assert isinstance(unsaid.judge, KSamples)
    sentences = list(unsaid.problems())
    assert any(
        re.search("KSampleWinRate needs users, and there are none: .*evaluation.oracle", each) for each in sentences
    )
