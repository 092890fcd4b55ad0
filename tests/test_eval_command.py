"""`jaxalign eval` where nobody answers: evals on the run's held-out pairs, and any policy on the pairs of a file."""

import dataclasses
import json
import pathlib

import pytest
from made_pairs import CONFIG, dpo
from made_runs import run_here, tiny_lm

from jaxalign.__main__ import main
from jaxalign.config.load import load, override
from jaxalign.data.tables.strict import Tally
from jaxalign.evals.drift import Drift
from jaxalign.evals.text import Text
from jaxalign.storage.record import read_metrics

ONE = ("--placement.mesh.fsdp", "1")


@pytest.fixture(scope="module")
def offline(tmp_path_factory) -> pathlib.Path:
    home = tmp_path_factory.mktemp("offline") / "run"
    run_here(dpo(), home)
    return home


@pytest.fixture(scope="module")
def heldout(tmp_path_factory) -> pathlib.Path:
    """The held-out pairs of the offline run, in a file."""
    path = tmp_path_factory.mktemp("pairs") / "heldout.jsonl"
    with open(path, "w") as file:
        for each in dpo().feedback.heldout.read(Tally()):
            chosen, rejected = each.answers
            print(json.dumps({"prompt": each.prompt.text, "chosen": chosen, "rejected": rejected}), file=file)
    return path


def evals(capsys, *arguments: object) -> dict:
    capsys.readouterr()
    assert main(["eval", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def recorded(run: pathlib.Path) -> dict[str, dict]:
    """The metrics of every policy's evals, as the run logged them."""
    found = [line for line in read_metrics(run) if line["phase"] == "evals"]
    names = ["base", *(f"iterate-{number}" for number in range(1, len(found)))]
    keys = {"iteration", "phase", "step"}
    return {name: {key: line[key] for key in line if key not in keys} for name, line in zip(names, found, strict=True)}


def test_an_offline_run_says_again_what_it_measured(offline, capsys):
    found = evals(capsys, offline)
    assert found["policies"] == ["base", "iterate-1"]
    assert "row_beats_column" not in found
    assert found["evals"] == {
        name: {key: value for key, value in metrics.items() if key.startswith("heldout/")}
        for name, metrics in recorded(offline).items()
    }
    assert evals(capsys, offline, "--policies", "last")["evals"] == {"iterate-1": found["evals"]["iterate-1"]}


def test_pairs_in_a_file_are_measured_as_those_held_out(offline, heldout, capsys):
    assert evals(capsys, offline, "--pairs", heldout)["evals"] == evals(capsys, offline)["evals"]
    assert main(["eval", str(offline), "--pairs", str(heldout), "--policies", "last"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("iterate-1:\n  heldout/accuracy")
    assert "read as Pairs(table=File(" in shown.err


def test_a_run_of_sampled_answers_is_measured_on_pairs_by_the_loss_of_dpo(heldout, tmp_path, capsys):
    run_here(tiny_lm("--iterations", "1", "--swap_every", "none"), tmp_path / "run")
    found = evals(capsys, tmp_path / "run", "--pairs", heldout)["evals"]
    assert (found["base"]["heldout/accuracy"], found["base"]["heldout/margin_nats"]) == (0.5, 0.0)
    assert set(found["base"]) == set(found["iterate-1"])
    assert main(["eval", str(tmp_path / "run"), "--pairs", str(heldout)]) == 0
    told = capsys.readouterr().err
    assert (
        "needs log-probs of the policy that sampled the pairs (last), and none did; the loss that is told is DPO"
        in told
    )


def test_a_score_model_is_measured_on_pairs(heldout, tmp_path, capsys):
    tiny = override(load(CONFIG.with_name("bt_tiny.py")), ("--fit.epochs", "1", *ONE))
    run_here(tiny, tmp_path / "run")
    found, again = (evals(capsys, tmp_path / "run", *more)["evals"] for more in ((), ("--pairs", heldout)))
    for name in ("base", "iterate-1"):
        # of features that were cached, and with the trunk in the same program
        assert again[name] == pytest.approx(found[name], rel=1e-4, abs=1e-4)
        assert "calibration/temperature" in again[name]


def test_answers_that_nobody_judges_are_measured_all_the_same(tmp_path, capsys):
    """Drift and text need no oracle, and pairs are held out beside the prompts."""
    answering = dataclasses.replace(tiny_lm().evaluation, evals=(Drift(), Text(), *dpo().evaluation.evals))
    run_here(dataclasses.replace(dpo(), evaluation=answering), tmp_path / "run")
    found = evals(capsys, tmp_path / "run")
    assert "row_beats_column" not in found
    assert found["evals"]["iterate-1"] == recorded(tmp_path / "run")["iterate-1"]


def test_what_is_not_there_is_said(offline, tmp_path, capsys):
    assert main(["eval", str(offline), "--prompts", "x.jsonl"]) == 2
    assert "its policies answer no prompts; give pairs to measure them on (--pairs)" in capsys.readouterr().err
    assert main(["eval", str(offline), "--pairs", str(tmp_path / "none.jsonl")]) == 3
    assert "none.jsonl" in capsys.readouterr().err
    alone = tmp_path / "alone.jsonl"
    alone.write_text('{"prompt": "Why?", "completion": "So.", "label": true}\n')
    assert main(["eval", str(offline), "--pairs", str(alone)]) == 2
    assert "loss DPO reads pairs, and the feedback gives lone answers" in capsys.readouterr().err
    plain = dataclasses.replace(dpo().feedback, heldout=None)
    unmeasured = dataclasses.replace(dpo("--fit.evaluate_every", "none", "--fit.keep", "last"), feedback=plain)
    run_here(
        dataclasses.replace(unmeasured, evaluation=dataclasses.replace(unmeasured.evaluation, evals=())),
        tmp_path / "run",
    )
    assert main(["eval", str(tmp_path / "run")]) == 2
    assert "no pairs were held out; give some with --pairs" in capsys.readouterr().err


def test_only_a_mesh_that_nobody_chose_is_told_of(offline, tmp_path, capsys):
    """A run of more devices than there are here is read with those that are; who says which is not told of others."""
    config = json.loads((offline / "config.json").read_text())
    del config["seal"]
    config["placement"]["mesh"]["fsdp"] = 64
    big = tmp_path / "big"
    big.mkdir()
    for path in offline.iterdir():
        if "config.json" not in path.name:  # its copy would count
            (big / path.name).symlink_to(path)
    (big / "config.json").write_text(json.dumps(config))
    told = []
    for options in ((), ("--mesh.fsdp", "2")):
        assert main(["eval", str(big), "--json", *options]) == 0
        told.append("reading with all devices here along fsdp" in capsys.readouterr().err)
    assert told == [True, False]
