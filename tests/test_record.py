"""Records and progress: a run cut anywhere and continued ends with the bytes of an uninterrupted one."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxalign import progress
from jaxalign.errors import CheckpointError
from jaxalign.storage import record

STEPS = 6


def metrics(iteration: int, step: int) -> dict[str, float]:
    return {"loss": 1 / (1 + step + 10 * iteration), "logps/chosen": -1e-30 * step, "kl": float("nan")}


def play(root: Path, iteration: int, step: int) -> None:
    """The rest of a run of three iterations that continues with `step` of the fit of `iteration`."""
    recorder = record.Recorder(root)
    for i in range(iteration, 3):
        first = step if i == iteration else 0
        recorder.log(i, "rollouts", 0, {"length": 7.0 + i})  # of a committed phase, logged again
        for s in range(first, STEPS):
            recorder.log(i, "fit", s, metrics(i, s))
        recorder.log(i, "evals", 0, {"win_rate": 0.5 + i / 7})
    recorder.close()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_run_cut_anywhere_and_continued_leaves_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("run")
    play(root, 0, 0)
    file = root / "metrics.jsonl"
    whole = file.read_bytes()
    for _ in range(2):
        file.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
        (root / ".metrics.jsonl.copy").unlink()  # as of a run of an earlier version
        there = [(line["iteration"], line["phase"], line["step"]) for line in record.read_metrics(root)]
        # A checkpoint at `step` exists only where all steps before it are logged.
        starts = [(0, 0)] + [(i, s + 1) for i, phase, s in there if phase == "fit"]
        play(root, *data.draw(st.sampled_from(starts)))
        assert file.read_bytes() == whole


def test_floats_are_written_to_the_last_bit_and_names_in_order(tmp_path: Path) -> None:
    recorder = record.Recorder(tmp_path)
    recorder.log(0, "fit", 3, {"z": 0.1 + 0.2, "a": float("-inf"), "m": 5e-324})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert line == ('{"iteration": 0, "phase": "fit", "step": 3, "a": "-inf", "m": 5e-324, "z": 0.30000000000000004}')


def test_a_line_that_differs_takes_all_after_it(tmp_path: Path) -> None:
    recorder = record.Recorder(tmp_path)
    for step in range(4):
        recorder.log(0, "fit", step, {"loss": float(step)})
    recorder = record.Recorder(tmp_path)
    recorder.log(0, "fit", 0, {"loss": 0.0})
    recorder.log(0, "fit", 1, {"loss": 1.5})
    assert [line["loss"] for line in record.read_metrics(tmp_path)] == [0, 1.5]


def test_one_place_is_logged_once(tmp_path: Path) -> None:
    recorder = record.Recorder(tmp_path)
    recorder.log(0, "fit", 0, {"loss": 1.0})
    with pytest.raises(ValueError, match="fit 0, step 0, were logged before"):
        recorder.log(0, "fit", 0, {"accuracy": 1.0})
    assert [line["loss"] for line in record.read_metrics(tmp_path)] == [1]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"iteration": 0, "phase": "fit", "step": 0}\nnonsense\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: line 2 is damaged"):
        record.Recorder(tmp_path)


def recorded(root: Path) -> list[bytes]:
    """metrics.jsonl and its copy, of five lines."""
    recorder = record.Recorder(root)
    for step in range(5):
        recorder.log(0, "fit", step, {"loss": step / 3})
    return [file.read_bytes() for file in both(root)]


def both(root: Path) -> list[Path]:
    return [root / "metrics.jsonl", root / ".metrics.jsonl.copy"]


def test_a_flipped_bit_in_metrics_or_in_their_copy_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every byte of both files: readers see what was recorded, and the next launch writes it anew."""
    whole = recorded(tmp_path)
    wanted = record.read_metrics(tmp_path)
    for file, content in zip(both(tmp_path), whole, strict=True):
        for place in range(len(content)):
            file.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
            assert record.read_metrics(tmp_path) == wanted
            assert ("damaged" in capsys.readouterr().err) == (file.name == "metrics.jsonl")
            record.Recorder(tmp_path)
            assert [each.read_bytes() for each in both(tmp_path)] == whole
            capsys.readouterr()


def test_metrics_that_were_deleted_come_back(tmp_path: Path) -> None:
    whole = recorded(tmp_path)
    for file in both(tmp_path):
        file.unlink()
        assert len(record.read_metrics(tmp_path)) == 5
        record.Recorder(tmp_path)
        assert [each.read_bytes() for each in both(tmp_path)] == whole


def test_a_kill_between_a_line_and_its_copy_is_no_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The copy is written first; either may be torn."""
    whole = recorded(tmp_path)
    file, copy = both(tmp_path)
    lines, copied = (content.splitlines(keepends=True) for content in whole)
    for torn in (b"", lines[3][:9]):
        file.write_bytes(b"".join(lines[:3]) + torn)
        copy.write_bytes(b"".join(copied[:4]))
        assert len(record.read_metrics(tmp_path)) == 4
    file.write_bytes(b"".join(lines[:3]))
    copy.write_bytes(b"".join(copied[:3]) + copied[3][:9])
    assert len(record.read_metrics(tmp_path)) == 3
    recorder = record.Recorder(tmp_path)
    for step in range(3, 5):
        recorder.log(0, "fit", step, {"loss": step / 3})
    assert [each.read_bytes() for each in both(tmp_path)] == whole
    assert capsys.readouterr().err == ""


def test_a_damaged_line_of_performance_is_told_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        record.Recorder(tmp_path).perf(0, "fit", 0, {"perf/seconds": 2.0})
    lines = (tmp_path / "perf.jsonl").read_bytes().splitlines(keepends=True)
    for line in (b"nonsense", b"[" * 100_000, b'{"iteration": [1], "phase": "fit", "step": 0}'):
        (tmp_path / "perf.jsonl").write_bytes(lines[0] + line + b"\n" + lines[2])
        assert len(record.read_perf(tmp_path)) == 2
        assert "perf.jsonl: line 2 is damaged" in capsys.readouterr().err


def test_performance_goes_its_own_way(tmp_path: Path) -> None:
    for rate in (1.5, 2.5):
        record.Recorder(tmp_path).perf(0, "fit", 0, {"steps_per_s": rate})
    lines = [json.loads(line) for line in (tmp_path / "perf.jsonl").read_text().splitlines()]
    assert [line["steps_per_s"] for line in lines] == [1.5, 2.5]
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    """What a kill inside the last write leaves, with nothing to write after it."""
    record.Recorder(tmp_path).perf(0, "fit", 0, {"perf/seconds": 2.0})
    with open(tmp_path / "perf.jsonl", "a") as file:
        file.write('{"iteration": 0, "pha')
    assert [line["perf/seconds"] for line in record.read_perf(tmp_path)] == [2.0]


# --------------------------------------------------------------------------------------------------------------
# Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_at_once_now_and_then_and_at_the_end(clock: list[float]) -> None:
    out = io.StringIO()
    with progress.Progress("fit iteration 1", 64, "steps", start=4, out=out) as report:
        assert out.getvalue() == "fit iteration 1: 4/64 steps\n"
        for done in range(5, 65):
            clock[0] += 0.5
            report(done)
    assert out.getvalue().splitlines()[1:] == [
        "fit iteration 1: 24/64 steps, 2 steps/s, ETA 0:20",
        "fit iteration 1: 44/64 steps, 2 steps/s, ETA 0:10",
        "fit iteration 1: 64/64 steps, 2 steps/s, took 0:30",
    ]


def test_a_loop_without_progress_divides_by_nothing(clock: list[float]) -> None:
    out = io.StringIO()
    report = progress.Progress("oracle", 0, "answers", out=out)
    report(0)
    clock[0] += 60
    report(0)
    report.close()
    assert out.getvalue().splitlines()[0] == "oracle: 0/0 answers"


def test_a_terminal_gets_a_bar_with_rate_and_eta() -> None:
    out = io.StringIO()
    out.isatty = lambda: True  # type: ignore[method-assign]
    with progress.Progress("rollouts", 8, "rows", out=out) as report:
        assert "rollouts:   0%" in out.getvalue()
        report(8)
    assert "8/8" in out.getvalue()
    assert "rows/s" in out.getvalue()
