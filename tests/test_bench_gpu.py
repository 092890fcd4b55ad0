"""`jaxalign bench gpu`: budget, order and files, of units that take no time; processes with limits; all of it once."""

import argparse
import json
import pathlib
import sys
import time
from typing import Any

import pytest

from jaxalign.__main__ import main
from jaxalign.bench import gpu, logp, trl, vllm
from jaxalign.bench.peers import processes


class Clock:
    """Time that passes when a unit says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def asked(tmp_path: pathlib.Path) -> argparse.Namespace:
    python = {"trl_python": sys.executable, "vllm_python": sys.executable}
    return argparse.Namespace(out=str(tmp_path / "out"), budget_s=720, size="tiny", **python)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gpu, "time", clock)
    monkeypatch.setattr(gpu, "made", lambda size, directory, seconds: "")
    return clock


def figures(unit: gpu.Unit) -> list[dict[str, Any]]:
    name = {"implementation": unit.side or "all"}
    of = {"trl": {"pairs": 4, "seconds_per_step": 0.5}, "vllm": {"tokens": 100, "seconds": 2.0}}
    ms = dict.fromkeys(logp.LEAST, 2)
    return [{**name, **of.get(unit.part, ms)}]


# The order


def test_every_side_is_a_unit_and_the_main_rivals_come_first() -> None:
    units = gpu.units()
    for part, module in (("trl", trl), ("logp", logp), ("vllm", vllm)):
        assert sorted(unit.side or "" for unit in units if unit.part == part) == sorted(module.SIDES)
    names = [unit.name for unit in units]
    assert len(set(names)) == len(names)
    first = {part: [unit.side for unit in units if unit.part == part][:2] for part in ("trl", "logp", "vllm")}
    assert first == {
        "trl": ["jaxalign-cached", "TRL-cached"],
        "logp": ["jaxalign auto", "Liger"],
        "vllm": ["jaxalign-lockstep", "vLLM"],
    }
    assert {unit.part for unit in units[:10]} == set(gpu.SIZES["1b"])


@pytest.mark.parametrize("size", gpu.SIZES)
def test_units_are_asked_for_as_the_benchmarks_understand_it(size: str) -> None:
    for part, module in (("trl", trl), ("logp", logp), ("vllm", vllm)):
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        sides = [side.replace(" ", "-") for side in module.SIDES]
        words = [*gpu.SIZES[size][part].split(), "--limit-s", "5", "--sides", *sides]
        asked = parser.parse_args([*words, *([] if part == "logp" else ["--model", "m"])])
        assert asked.sides == sides


# The budget


def test_a_unit_has_what_is_left_at_most_and_the_rest_is_listed(asked, clock, monkeypatch) -> None:
    given = []

    def takes_all(unit: gpu.Unit, args: Any, model: Any, seconds: float) -> list[dict[str, Any]]:
        given.append(seconds)
        clock.now += seconds
        return figures(unit)

    monkeypatch.setattr(gpu, "rows_of", takes_all)
    rows = gpu.run(asked)
    assert clock.now <= asked.budget_s
    assert all(seconds <= unit.seconds for seconds, unit in zip(given, gpu.units(), strict=False))
    found = json.loads((pathlib.Path(asked.out) / "results.json").read_text())
    assert len(given) == len(rows)
    assert found["left_out"] == [unit.name for unit in gpu.units()[len(given) :]]
    assert found["left_out"]
    assert asked.budget_s - gpu.LEAST_S < found["spent_s"] <= asked.budget_s
    table = (pathlib.Path(asked.out) / "table.md").read_text()
    assert table.count("Left out") == len(found["left_out"])


def test_a_run_that_is_cut_keeps_what_it_had(asked, clock, monkeypatch) -> None:
    done = []

    def cut(unit: gpu.Unit, *_: Any) -> list[dict[str, Any]]:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(unit)
        return figures(unit)

    monkeypatch.setattr(gpu, "rows_of", cut)
    with pytest.raises(KeyboardInterrupt):
        gpu.run(asked)
    found = json.loads((pathlib.Path(asked.out) / "results.json").read_text())
    kept = [row["implementation"] for rows in found["parts"].values() for row in rows]
    assert kept == [unit.side for unit in done]
    assert all(name in (pathlib.Path(asked.out) / "table.md").read_text() for name in kept)


def test_ratios_are_of_sides_that_were_measured_apart(asked, clock, monkeypatch) -> None:
    monkeypatch.setattr(gpu, "rows_of", lambda unit, *_: figures(unit))
    rows = {row["implementation"]: row for row in gpu.run(asked)}
    assert rows["TRL-cached"]["over_ours"] == 1.0
    assert rows["vLLM"]["rate_over_ours"] == 1.0
    assert rows["jaxalign auto"]["forward_ms_over_Liger"] == 1.0


def test_without_a_model_only_what_needs_none_is_measured(asked, clock, monkeypatch) -> None:
    monkeypatch.setattr(gpu, "made", lambda *_: "no disk")
    monkeypatch.setattr(gpu, "rows_of", lambda unit, *_: figures(unit))
    for row in gpu.run(asked):
        assert row.get("skipped") == ("no model: no disk" if row["part"] in ("trl", "vllm") else None)


# Figures


def test_steps_are_compared_with_ours_of_the_same_kind() -> None:
    seconds = {"jaxalign-cached": 0.5, "TRL-cached": 1.0, "jaxalign-live": 0.8, "TRL+Liger-live": 0.6}
    rows = [{"implementation": name, "pairs": 4, "seconds_per_step": each} for name, each in seconds.items()]
    found = trl.compared([*rows, {"implementation": "TRL-live", "pairs": 4, "skipped": "no"}])
    assert [row.get("over_ours") for row in found] == [1.0, 2.0, 1.0, pytest.approx(0.75), None]
    assert [row.get("pairs_per_s") for row in found[:2]] == [8.0, 4.0]


def test_sampling_is_compared_with_lockstep() -> None:
    rows = [{"implementation": name, "tokens": 100, "seconds": s} for name, s in ((vllm.OURS, 4.0), ("vLLM", 1.0))]
    assert [(row["tokens_per_s"], row["rate_over_ours"]) for row in vllm.compared(rows)] == [(25.0, 1.0), (100.0, 4.0)]
    alone = vllm.compared([{"implementation": "vLLM", "tokens": 100, "seconds": 1.0}])
    assert "rate_over_ours" not in alone[0]


# Processes


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_what_a_process_says_last_is_its_answer() -> None:
    assert processes.told(python("print('loading'); print('{\"a\": 1}')"), 60.0) == {"a": 1}
    assert processes.told(python("print('[1,'); print('2]')"), 60.0, whole=True) == [1, 2]
    assert processes.told(python("import os, json; print(json.dumps(os.environ['X']))"), 60.0, {"X": "y"}) == "y"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 / 0", "ended with 1: ZeroDivisionError"),
        ("pass", "without an answer"),
        ("print('hello')", "without an answer"),
    ],
)
def test_a_process_that_fails_says_why(code: str, said: str) -> None:
    found = processes.told(python(code), 60.0)
    assert said in found["skipped"]
    assert found["failed"]


def test_what_a_benchmark_has_measured_counts_though_a_side_has_failed() -> None:
    shown = 'import sys; print(\'[{"ms": 1}]\'); sys.exit("not measured: TRL")'
    assert processes.told(python(shown), 60.0, whole=True) == [{"ms": 1}]
    assert processes.told(python(shown), 60.0)["failed"], "a side that prints and fails has not answered"
    assert (
        processes.told(python("import sys; print('[{'); sys.exit(3)"), 60.0, whole=True)["skipped"]
        == "ended with 3: [{"
    )


def test_a_process_that_takes_too_long_is_killed_with_what_it_started(tmp_path: pathlib.Path) -> None:
    child = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {'import os, time; ' + child!r}])"
    while not (tmp_path / "pid").exists():  # a machine that is busy starts two Pythons slowly
        assert processes.told(python(code), 3.0)["skipped"] == "has not ended after 3 s"
    status = pathlib.Path(f"/proc/{(tmp_path / 'pid').read_text()}/status")
    while status.exists() and "State:\tZ" not in status.read_text():  # killed, and not yet gone
        time.sleep(0.01)


def test_what_a_python_has_not_got_is_named() -> None:
    assert processes.missing(sys.executable, ("json", "numpy")) == ""
    assert processes.missing(sys.executable, ("json", "no_such_thing")).startswith("no_such_thing not installed")
    assert "is no Python" in processes.missing("/nowhere/python", ("json",))


@pytest.mark.slow
def test_all_of_it_on_a_cpu(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours are measured with the loss of equal policies; what is not installed is named."""
    out = tmp_path / "out"
    assert main(["bench", "gpu", "--size", "tiny", "--out", str(out), "--budget-s", "3600", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["part"] for row in rows} == set(gpu.SIZES["tiny"])
    for row in rows:
        if "skipped" in row:
            assert "not installed" in row["skipped"]
        elif row["part"] == "trl":
            assert row["first_loss"] == pytest.approx(0.693147, abs=1e-5)
    ours = [row for row in rows if row["implementation"].startswith("jaxalign")]
    assert len(ours) == 2 + 3 + 2
    assert not any("skipped" in row for row in ours)
    assert json.loads((out / "results.json").read_text())["left_out"] == []
