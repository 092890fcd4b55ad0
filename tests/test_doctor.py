"""The doctor: a sound experiment passes, and findings reach the exit code."""

import dataclasses
import json
import re

from made_openings import CONFIGS, SMALL

from jaxalign.__main__ import main
from jaxalign.doctor.examine import Check, every_check
from jaxalign.doctor.report import row_lines
from jaxalign.doctor.row import Token


def test_discovers_every_check():
    every = every_check()
    assert len(every) >= 12
    for check in every.values():
        assert isinstance(check, Check)
        assert hash(check) == hash(dataclasses.replace(check))


def test_a_sound_experiment_has_no_findings_as_json_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", str(CONFIGS / "tiny_lm.py"), *SMALL, "--json", "--prompts", "16"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) >= 15
    assert all(set(outcome) == {"check", "status", "measured", "fix"} for outcome in found)
    assert {outcome["status"] for outcome in found} <= {"ok", "warning", "skipped"}
    assert all(outcome["fix"] for outcome in found if outcome["status"] != "ok")
    assert not list(tmp_path.iterdir())


def test_a_game_skips_what_does_not_apply(capsys):
    assert main(["doctor", str(CONFIGS / "games" / "three_action.py")]) == 0
    shown = capsys.readouterr().out
    assert "the policy is a table: it reads no text" in shown
    assert re.search(r"^ok +schedule contracts", shown, re.M)
    assert "FINDING" not in shown


def test_findings_have_an_exit_code_of_their_own(capsys):
    long = ("--model.context", "40")
    assert main(["doctor", str(CONFIGS / "tiny_lm.py"), *SMALL, *long]) == 7
    captured = capsys.readouterr()
    assert re.search(r"^FINDING +prompt lengths", captured.out, re.M)
    assert "prompt lengths" in captured.err


def test_bad_options_are_answered_as_by_train(capsys):
    assert main(["doctor", str(CONFIGS / "tiny_lm.py"), "--loss.etta", "0.1"]) == 2
    assert "loss.eta" in capsys.readouterr().err
    assert main(["doctor", str(CONFIGS / "tiny_lm.py"), "--prompts", "0"]) == 2


def test_rows_of_more_than_two_answers_are_shown():
    parts = ("prompt", "chosen", "rejected", "answer 3", "answer 4")
    tokens = [Token(7, "x", "assistant", branch, part, 3, -1.0) for branch, part in enumerate(parts)]
    shown = [line.split("  ")[0].strip() for line in row_lines(tokens, colour=False)]
    assert shown == ["branch", *parts]
