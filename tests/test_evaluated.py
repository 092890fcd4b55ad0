"""Which policies are evaluated, and what a person is shown of them."""

import dataclasses
import json

import pytest
from made_pairs import dpo
from made_runs import run_here, same_when_stopped, tiny_lm

from jaxalign.__main__ import main
from jaxalign.config.load import validate
from jaxalign.data.prompts import InlinePrompts
from jaxalign.errors import ConfigError, DataError
from jaxalign.evals.drift import Drift
from jaxalign.evals.win_rate import WinRate
from jaxalign.report.measured import of_steps
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.samplers import Greedy
from jaxalign.storage.record import read_metrics, read_perf
from jaxalign.storage.rundir import home, read_run
from jaxalign.types import Rollouts

SHOWN = Sample(samples=1, max_tokens=12, sampler=Greedy())


def evaluating(**changes):
    experiment = tiny_lm("--iterations", "3", "--swap_every", "2")
    return dataclasses.replace(experiment, evaluation=dataclasses.replace(experiment.evaluation, **changes))


def measured(workdir) -> dict:
    """Metrics of evals by the number of the policy."""
    lines = [line for line in read_metrics(workdir) if line["phase"] == "evals"]
    return {0 if line["iteration"] == "initial" else line["iteration"] + 1: line for line in lines}


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("every") / "policy"
    return workdir, run_here(evaluating(), workdir)


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("second") / "policy"
    return workdir, run_here(evaluating(every=2), workdir)


def test_every_second_policy_and_the_last_are_evaluated_as_if_all_were(every, second):
    workdir, summary = second
    found, all_of_them = measured(workdir), measured(every[0])
    assert list(found) == [0, 2, 3]
    assert list(all_of_them) == [0, 1, 2, 3]
    for number in (0, 2, 3):
        # Policy 1 was not asked: it is nobody's opponent, and its answers are not among those cycles are sought in.
        for name in (name for name in found[number] if not ("vs_previous" in name or name.startswith("cycles/"))):
            assert found[number][name] == all_of_them[number][name], (number, name)
    assert not read_run(workdir).has(home(1), "heldout")
    assert summary["win_rates"]["policies"] == ["base", "iterate-2", "iterate-3"]
    assert summary["win_rate_vs_base"] == every[1]["win_rate_vs_base"]
    assert summary["samples"] == every[1]["samples"]


def test_those_that_were_evaluated_are_measured_again(second, capsys):
    workdir, summary = second
    capsys.readouterr()
    assert main(["eval", str(workdir), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["policies"] == summary["win_rates"]["policies"]
    assert found["row_beats_column"] == summary["win_rates"]["row_beats_column"]
    for number, name in ((0, "base"), (2, "iterate-2"), (3, "iterate-3")):
        for metric, value in found["evals"][name].items():
            assert value == pytest.approx(measured(workdir)[number][metric], rel=1e-5), (name, metric)
    assert main(["eval", str(workdir), "--policies", "base,1"]) == 2
    assert "policy 1 has answered no held-out prompts" in capsys.readouterr().err


def test_what_was_measured_is_drawn_at_its_iterate(second):
    lines = of_steps(second[0], 1)
    assert [bool(line) for line in lines] == [True, False, True, True]
    assert [line["iteration"] for line in lines if line] == ["initial", 1, 2]
    assert [bool(line) for line in of_steps(second[0], 2)] == [True, True]


@pytest.mark.parametrize("measures", [WinRate(("base", "iterate-1")), Drift(("iterate-1",)), WinRate(("iterate-4",))])
def test_a_policy_that_is_not_evaluated_opposes_nobody(measures):
    """It has no answers, and the eval would measure nothing without a word."""
    named = (
        f"{type(measures).__name__} measures against {measures.against[-1]}, which is not evaluated; base, iterate-2"
    )
    with pytest.raises(ConfigError, match=named):
        validate(evaluating(every=2, evals=(measures,)))
    validate(evaluating(every=2, evals=(WinRate(("iterate-2", "previous", "iterate-3")),)))


def test_an_anchor_that_is_not_evaluated_is_known_before_its_fit(tmp_path):
    """Held-out pairs are scored by it while there is room, not beside the optimizer's state."""
    experiment = dpo("--iterations", "2", "--swap_every", "1")
    run_here(dataclasses.replace(experiment, evaluation=dataclasses.replace(experiment.evaluation, every=2)), tmp_path)
    assert list(measured(tmp_path)) == [0, 2]
    done = [(line["iteration"], line["phase"]) for line in read_perf(tmp_path)]
    assert done.index((0, "heldout_anchor")) < done.index((1, "fit"))


def test_what_is_shown_is_drawn_as_asked_for_and_changes_no_metric(every, tmp_path):
    summary = run_here(evaluating(shown=SHOWN), tmp_path / "shown")
    assert measured(tmp_path / "shown") == measured(every[0])
    run = read_run(tmp_path / "shown")
    base, last = (run.load(home(number), "shown", Rollouts) for number in (0, 3))
    assert [(each["base"], each["last"]) for each in summary["samples"]] == [
        (one[0], other[0]) for one, other in zip(base.texts, last.texts, strict=True)
    ]
    assert base.lengths.max() <= 12
    assert summary["samples"] != every[1]["samples"]


@pytest.mark.slow
def test_stopped_and_continued_it_evaluates_and_shows_the_same(tmp_path):
    same_when_stopped(evaluating(every=2, shown=SHOWN), tmp_path, questions=12)
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "stopped")]
    assert summaries[0]["samples"] == summaries[1]["samples"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"every": 0}, "evaluation: every must be at least 1"),
        ({"shown": SHOWN, "prompts": None, "rollout": None, "evals": ()}, "evaluation: shown are answers"),
    ],
)
def test_what_cannot_be_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        validate(evaluating(**changes))


def test_prompts_that_nobody_is_shown_may_be_longer_than_what_shows_them(tmp_path):
    prompts = InlinePrompts(("a", "b", "c", "a long one " * 10))
    shown = dataclasses.replace(SHOWN, max_prompt_tokens=64)
    experiment = dataclasses.replace(evaluating(prompts=prompts, shown=shown), iterations=1, swap_every=None)
    assert [each["prompt"] for each in run_here(experiment, tmp_path / "three")["samples"]] == ["a", "b", "c"]
    first = InlinePrompts(prompts.texts[::-1])
    with pytest.raises(DataError, match="inline-0"):
        run_here(evaluating(prompts=first, shown=shown), tmp_path / "refused")
