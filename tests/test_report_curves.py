"""What the page on runs says of curves, cost and certificates, by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from made_reports import CERTIFICATES, LOST, made_run

from jaxalign.report.account import read
from jaxalign.report.certificates import NONE, YET, told, verdict
from jaxalign.report.costs import cost_of
from jaxalign.report.curves import BUCKETS, Chart, Line, Mark, _thinned, charts
from jaxalign.storage.record import read_metrics, read_perf


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return made_run(tmp_path_factory.mktemp("report") / "run")


def test_where_metrics_stand_by_hand(run):
    found = charts([read("run", run)])
    assert list(found) == [
        *("What the policies are worth", "Certificates of each iteration", "Steps of the fits", "Speed of the fits")
    ]
    named = {each.name: each for group in found.values() for each in group}
    assert named["win_rate/vs_base"].lines[0].at.tolist() == [0, 1, 2]
    assert named["win_rate/vs_base"].lines[0].band.count(",") == 6
    assert named["loss"].lines[0].at.tolist() == [0.5, 1, 1.5, 2]
    assert named["loss"].lines[0].values.tolist() == [4, 3, 4, 3]
    assert named["rewards/margins"].lines[0].left_out == 2
    assert named["align/inner_gap_corrected"].lines[0].at.tolist() == [0, 1]
    assert not [name for name in named if name.endswith(("_stderr", "_low", "_high")) and "inner" not in name]
    (mark,) = named["loss"].marks  # swap_every 1: iteration 1 has another anchor than iteration 0
    assert (mark.x, mark.at, mark.run) == (160.0, 1, None)
    assert named["loss"].lines[0].path.split(" ")[1:3] == ["160.0,112.0", "237.0,8.0"]


def test_where_anchors_move_is_said_to_those_who_do_not_see_it():
    line = Line(0, np.array([0.0, 1.0]), np.array([2.0, 3.0]), "", "", 0)
    marks = (Mark(0.0, 2, None), Mark(0.0, 4, None), Mark(0.0, 3, 1))
    chart = Chart("loss", (line, dataclasses.replace(line, run=1, left_out=5)), marks, 2.0, 3.0, False, 5.0)
    both = "from 2 at 0 to 3 at 1, least 2, most 3"
    assert chart.described(("one", "two")) == (
        f"loss against iterations: one {both}; two {both}, 5 not finite and left out. "
        "All anchors move at 2, 4. The anchor of two moves at 3"
    )
    alone = dataclasses.replace(chart, lines=(line,), marks=())
    assert alone.described(("one",)) == f"loss against iterations: one {both}"
    often = dataclasses.replace(alone, marks=tuple(Mark(0.0, at, None) for at in range(1, 37)))
    assert often.described(("one",)).endswith(". The anchor moves 36 times, from 1 to 36")


def test_long_curves_keep_their_peaks():
    values = np.sin(np.arange(10_001) / 300)
    values[[1234, 7777]] = 5, -5
    kept = _thinned(np.stack([np.arange(10_001.0), values], 1))
    assert len(kept) <= 2 * BUCKETS + 1
    assert {(1234.0, 5.0), (7777.0, -5.0), (10_000.0, values[-1])} <= set(map(tuple, kept))
    assert (np.diff(kept[:, 0]) > 0).all()


def test_what_was_made_again_is_cost_and_no_good(run):
    cost = cost_of(read_perf(run))
    assert cost is not None
    assert cost.seconds == pytest.approx(cost.kept + LOST)
    assert cost.kept == pytest.approx(3 * 1.5 + 4 * 2.0)
    assert cost.goodput == pytest.approx(12.5 / 19.5)
    assert [(each.name, each.records) for each in cost.phases] == [("fit", 5), ("heldout", 3)]
    assert cost.fits is not None
    assert (cost.fits.steps, cost.fits.tokens_per_s_per_chip, cost.fits.padding) == (4, 10.0, 0.5)
    assert cost.fits.waited == 0.25
    assert cost_of([]) is None


def test_certificates_in_words_by_hand(run):
    lines = read_metrics(run)
    assert verdict(lines) == [
        "On more than 10% of the prompts the schedule leads away from what it should come to in 2 of 2 iterations "
        "(1, 2).",
        "What the best deviation would still gain in the regularised game went from 0.0625 in the first iteration to "
        "0.0625 in the last, in win probability.",
    ]
    assert told({"iteration": 1, **CERTIFICATES}) == [
        "The policy is 0.25 nats from its anchor.",
        "The best deviation would gain 0.0625 ± 0.12 in the game around the anchor: no more than one standard error, "
        "as if the inner game were solved.",
        "On 25.0% of the prompts the sampled answers have a mixed equilibrium; near it a round multiplies the "
        "distance by 1.5 on average, and leads away from it on 50.0% of all prompts.",
        "On all others an exact round leaves 37.5% of the KL from the Nash policy.",
    ]
    assert verdict([]) == [YET]
    assert verdict([{"iteration": 0, "phase": "fit", "step": 0, "loss": 1.0}]) == [NONE]
    adaptive = [
        {"iteration": at, "phase": "certificates", "step": 0, "align/next_anchor": to}
        for at, to in ((0, 0.0), (1, 2.0))
    ]
    assert verdict(adaptive) == [
        "Rounds that were closed because their inner problem was solved: 1 (fits of iterations 2)."
    ]
