"""A score model's whole run: features once, a head that is fitted, measured on pairs held out, exported, a judge."""

import json
import pathlib

import numpy as np
import pytest
from made_classifier import open_classifier

from jaxalign.__main__ import main
from jaxalign.errors import ConfigError
from jaxalign.storage.rundir import read_run

TINY = str(pathlib.Path(__file__).parents[1] / "configs" / "preference" / "bt_tiny.py")
TALK = ({"role": "user", "content": "Hi, I am Ada."},)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    home = tmp_path_factory.mktemp("scores") / "run"
    assert not main(["train", TINY, "--workdir", str(home)])
    return home


def lines(run: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_what_people_prefer(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["heldout_accuracy"] == 1.0
    assert summary["heldout_loss"] < 0.3
    found = {name for line in lines(run) for name in line}
    assert {
        "rewards/accuracies",
        "rewards/margins",
        "heldout/loss",
        "calibration/ece",
        "length_bias/longer_preferred",
    } < found


def test_a_policy_of_the_run_is_its_head_alone(run):
    weights = pathlib.Path(read_run(run).policy(1).path)
    stored = sum(path.stat().st_size for path in weights.rglob("*") if path.is_file())
    assert stored < 40_000  # 32 numbers and Orbax's own files; the trunk has 33,000


def test_what_is_exported_is_a_judge(run, tmp_path):
    assert not main(["export", str(run), str(tmp_path / "judge")])
    judge = open_classifier(str(tmp_path / "judge"))
    assert judge.model.config.outputs == ("reward",)
    answers = [(*TALK, {"role": "assistant", "content": text}) for text in ("Hello Ada!", "Ada who?")]
    polite, rude = judge.conversations(answers)[:, 0]
    assert polite > rude + 1


def test_a_stopped_run_reads_no_answer_again(run, tmp_path, monkeypatch):
    """Features are committed in parts: what they were is found again, and the run ends with the same bits."""
    from jaxalign.training.features import FeatureReader

    whole, calls = FeatureReader.__call__, []

    def counted(self, params, answers, block):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(block)
        return whole(self, params, answers, block)

    home = tmp_path / "run"
    options = ["train", TINY, "--workdir", str(home), "--placement.score_batch_size", "8"]
    with monkeypatch.context() as patch:
        patch.setattr(FeatureReader, "__call__", counted)
        with pytest.raises(KeyboardInterrupt):
            main(options)
    again: list[np.ndarray] = []
    monkeypatch.setattr(FeatureReader, "__call__", lambda self, *rest: again.append(rest[2]) or whole(self, *rest))
    assert not main(options)
    assert not any(np.array_equal(block, calls[0]) for block in again)
    theirs, ours = (json.loads((one / "summary.json").read_text())["heldout_loss"] for one in (run, home))
    assert ours == pytest.approx(theirs, rel=1e-5)  # other rows are read together


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("loss=DPO()", "DPO reads log-probs, and random llama, seed 0 has a head of 1 outputs"),
        ("model=RandomLlama()", "BradleyTerry reads outputs of a head, and random llama, seed 0 scores its vocabulary"),
        ("loss=BradleyTerry(margin=1.0)", "reads margins and there are none"),
    ],
)
def test_what_does_not_fit_is_refused_before_compute(tmp_path, capsys, change, says):
    config = tmp_path / "other.py"
    config.write_text(
        f"""import dataclasses
from jaxalign.config.load import load
from jaxalign.losses.bradley_terry import BradleyTerry
from jaxalign.losses.dpo import DPO
from jaxalign.models.random_llama import RandomLlama

experiment = dataclasses.replace(load({TINY!r}), {change})
"""
    )
    assert main(["train", str(config), "--workdir", str(tmp_path / "run")]) in (ConfigError.exit_code, 3, 4)
    assert says in capsys.readouterr().err
