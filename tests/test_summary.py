"""What a run prints at its end is said by its summary.json, and by nothing else."""

from pathlib import Path

import pytest

from jaxalign.__main__ import main
from jaxalign.report.summary import WIDTH, told
from jaxalign.storage.record import read_summary

THREE = str(Path(__file__).parents[1] / "configs" / "games" / "three_action.py")
HERE = "runs/one"
JUDGED = {
    "evals": {"win_rate/vs_base": 0.75, "win_rate/vs_base_ci95_low": 0.5, "win_rate/vs_base_ci95_high": 0.9},
    "samples": [{"prompt": "Why?", "base": "because\n so", "last": "x" * (WIDTH + 1)}],
    "win_rates": {"policies": ["base", "iterate-2"], "row_beats_column": [[0.5, 0.25], [0.75, 0.5]]},
    "fits": {
        "fits/lowered": 2.0,
        "fits/lowered_beyond_error": 1.0,
        "fits/checked": 3.0,
        "fits/heldout_change_mean": -0.25,
    },
    "versions": {"jax": ["0.10.2", "0.12.0"]},
    "heldout_loss": 0.5,
}


def test_all_that_a_summary_says_is_told_in_its_order():
    told_here = told(JUDGED, HERE, 2, answers=True)
    said = (
        "> Why?\n  base: because so\n  last: " + "x" * (WIDTH - 1) + "…\n",
        "base        50.0       25.0\niterate-2   75.0       50.0",
        "2 of 3 fits lowered their loss on pairs that they had not seen, 1 of them by more than the standard error "
        "(mean change -0.25).",
        "different versions (jax 0.10.2, then 0.12.0)",
        "Last policy (iterate-2):\n  win_rate/vs_base                         0.75  [0.5, 0.9]",
        f"  jaxalign eval {HERE}          win",
        f"  jaxalign eval {HERE} --pairs FILE",
        f"  jaxalign sample {HERE} ",
        f"  jaxalign export {HERE} DIR",
    )
    places = [told_here.index(words) for words in said]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("absent", "words"),
    [
        ("samples", "What changed"),
        ("win_rates", "win rates again"),
        ("fits", "fits lowered"),
        ("versions", "This run:"),
        ("heldout_loss", "--pairs FILE"),
    ],
)
def test_what_it_does_not_say_is_not_told(absent, words):
    assert words in told(JUDGED, HERE, 2, answers=True)
    assert words not in told({name: value for name, value in JUDGED.items() if name != absent}, HERE, 2, answers=True)


def test_nobody_talks_to_a_model_of_scores():
    assert "jaxalign sample" not in told(JUDGED, HERE, 2, answers=False)


def test_the_command_prints_what_the_summary_of_its_run_says(tmp_path, capsys):
    assert not main(["train", THREE, "--workdir", str(tmp_path / "run"), "--iterations", "1"])
    assert capsys.readouterr().out == told(read_summary(tmp_path / "run"), tmp_path / "run", 1, answers=True) + "\n"
