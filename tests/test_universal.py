"""Universal alignment through the loop: a tiny language model, its k samples measured again, mixtures of its policies,
and what of a population is refused."""

import dataclasses
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from made_runs import CONFIGS, lines_of, run_here, write_config

from jaxalign.__main__ import main
from jaxalign.answers import answered, answered_by_pool, pool_for
from jaxalign.config.load import load, override, validate
from jaxalign.errors import ConfigError
from jaxalign.experiment import Experiment
from jaxalign.oracles.k_samples import KSamples
from jaxalign.reopen import Run, reopen
from jaxalign.report.k_samples import draw_k_samples, of_nash, points
from jaxalign.report.measured import draw_compared
from jaxalign.rollouts.beside_anchor import BesideAnchor
from jaxalign.rollouts.keys import by_content
from jaxalign.rollouts.one_of_policies import drawn, mixed, rolled_from
from jaxalign.rollouts.seam import rolled
from jaxalign.storage.rundir import home, open_run
from jaxalign.types import Preferences, Prompt, Rollouts

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


@pytest.fixture(scope="module")
def nash(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("universal") / "nash"
    run_here(tiny("--feedback.oracle.k", "1", "--iterations", "1", "--seed", "3"), path)
    return path


def printed(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert main(["eval", *map(str, arguments)]) == 0
    return capsys.readouterr().out


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
    assert all("against" not in key for key in found["mixture"])


def test_the_mixture_is_of_the_base_and_all_iterates_but_the_last(made, capsys):
    """The last policy has not been played, and opposes it: what the mixture wins of single answers it loses."""
    capsys.readouterr()
    assert main(["eval", str(made), "--k", "1,2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mixture_of"] == ["base", "iterate-1"]
    mixture, last = told["evals"]["mixture"], told["evals"]["iterate-2"]
    expected = 1 - np.mean([last[f"k_samples/1/vs_{name}"] for name in told["mixture_of"]])
    assert mixture["k_samples/1/vs_iterate-2"] == pytest.approx(expected, abs=1e-6)
    assert "k_samples/1/vs_base" not in mixture  # who would oppose itself, with the same answers
    assert "mixture of base, iterate-1:" in printed(capsys, made, "--k", "1")
    assert "mixture" not in printed(capsys, made, "--k", "1", "--policies", "0,1,2")


def test_policies_that_were_not_evaluated_answer_for_the_mixture(made):
    run = reopen(made)
    found, _ = answered(run, run.machine(), [0, 2], None, unasked=[1])
    assert set(found) == {"base", "iterate-1", "iterate-2"}
    for number, name in ((0, "base"), (2, "iterate-2")):
        assert found[name].texts == run.directory.load(home(number), "heldout", Rollouts).texts
    assert found["iterate-1"].prompts == found["base"].prompts
    assert found["iterate-1"].texts != run.directory.load(home(1), "heldout", Rollouts).texts  # drawn anew


def test_two_runs_are_measured_against_one_pool(made, nash, capsys):
    """The base and the last policy of both, whose answers are the same and no run's own, whichever is evaluated."""
    pool = {"base", "last-of-nash", "last-of-run"}
    opponents = re.compile(r"k_samples/2/vs_([^/]+?)(_stderr|_ci95_.*)?")
    for path, other, last in ((made, nash, "iterate-2"), (nash, made, "iterate-1")):
        found = evals(capsys, path, "--k", "1,2", "--others", f"{other},{path}")
        for metrics in found.values():
            assert {match[1] for name in metrics if (match := opponents.fullmatch(name))} == pool
            assert metrics["k_samples/2/worst"] <= min(metrics[f"k_samples/2/vs_{name}"] for name in pool)
        assert last in found
    assert "mixture" not in found  # of one policy
    runs = [reopen(path) for path in (made, nash)]
    asked = runs[0].directory.load(home(0), "heldout", Rollouts)
    pools = [pool_for(*order, "--others", same_prompts=True) for order in ((runs[0], [runs[1]]), (runs[1], [runs[0]]))]
    assert pools[0] == pools[1]
    said = [answered_by_pool(run, run.machine(), pools[0], asked.prompts, 1) for run in runs]
    for name in pool:
        assert said[0][name].texts == said[1][name].texts
    assert said[0]["base"].texts != asked.texts
    assert said[0]["base"].texts != said[0]["last-of-run"].texts


def changed(path: pathlib.Path, into: pathlib.Path, keys: tuple[str | int, ...], value: object) -> pathlib.Path:
    """A copy of a run whose config says another value there."""
    shutil.copytree(path, into)
    config = json.loads((into / "config.json").read_text())
    del config["seal"]
    part = config
    for key in keys[:-1]:
        part = part[key]
    assert part[keys[-1]] != value
    part[keys[-1]] = value
    write_config(into, json.dumps(config))
    return into


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        (("model", "seed"), 5, r"--others: the policies of .* are of another model\n  model\.seed"),
        (("iterations",), 3, r"--others: .* has finished 1 of 3 iterations"),
        (("evaluation", "rollout", "max_tokens"), 9, r"answer held-out prompts otherwise\n  evaluation\.rollout\.max_"),
        (("evaluation", "oracle", "annotators", 0, "weight"), 0.5, r"has other users\n  users\.annotators\.0\.weight"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(made, nash, keys, value, named, tmp_path, capsys, monkeypatch):
    """Before any policy is read."""
    monkeypatch.setattr(Run, "machine", lambda *_: pytest.fail("a machine was asked for"))
    other = changed(nash, tmp_path / "other", keys, value)
    assert main(["eval", str(made), "--k", "1", "--others", str(other)]) == 2
    assert re.search(named, capsys.readouterr().err)


def test_runs_of_other_prompts_or_without_their_policies_are_refused(made, nash, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(nash, other)
    answers = reopen(other).directory.load(home(0), "heldout", Rollouts)
    prompts = (Prompt("p", ({"role": "user", "content": "Why?"},)), *answers.prompts[1:])
    with open_run(other, reopen(other).directory.config) as run:
        run.drop(home(0), "heldout")
        run.phase(home(0), "heldout", lambda: dataclasses.replace(answers, prompts=prompts), Rollouts)
    assert main(["eval", str(made), "--k", "1", "--others", str(other)]) == 2
    assert "has other held-out prompts than" in capsys.readouterr().err
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Say one."}\n')
    asked = ("--prompts", tmp_path / "prompts.jsonl", "--policies", "last")
    assert "k_samples/1/vs_last-of-other" in evals(capsys, made, "--k", "1", "--others", other, *asked)["iterate-2"]
    shutil.rmtree(other / "0000" / "policy")
    assert main(["eval", str(made), "--k", "1", "--others", str(other)]) == 2
    assert str(other) in capsys.readouterr().err


def test_figures_of_several_runs_show_no_worst_of_pools_that_differ(made, nash, tmp_path):
    pytest.importorskip("matplotlib")
    files = draw_compared({"four": {"run": made}, "one": {"run": nash}}, tmp_path)
    assert {each.stem for each in files} == {"win_rate"}


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
        (("--others", "x"), "--others are opponents of --k samples"),
        (("--k", "1", "--others", "nowhere"), "is no run directory"),
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
    shown = capsys.readouterr()
    assert shown.out.count("> ") >= 2
    assert "mixture of base, iterate-1\n" in shown.err


def test_a_mixture_has_no_last_policy():
    """π_1, the start, to π_T: not what the last step made of π_T."""
    assert mixed([2, 0, 1, 4]) == [0, 1, 2]
    assert mixed([0]) == []


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
