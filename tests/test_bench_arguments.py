"""What a benchmark cannot be asked for is said in a line, before anything is computed."""

import argparse
import importlib
import pkgutil

import pytest

import jaxalign.bench
from jaxalign.__main__ import main
from jaxalign.config.numbers import Real, Whole

BENCHES = sorted(found.name for found in pkgutil.iter_modules(jaxalign.bench.__path__) if not found.ispkg)


def numbers(name: str) -> list[argparse.Action]:
    """The options of a benchmark that are read."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f"jaxalign.bench.{name}").add_arguments(parser)
    return [action for action in parser._actions if action.type is not None]


OPTIONS = [(name, action) for name in BENCHES for action in numbers(name)]


def test_all_benchmarks_are_looked_at() -> None:
    assert len(BENCHES) >= 9
    assert len(OPTIONS) > 40


@pytest.mark.parametrize(("name", "action"), OPTIONS, ids=lambda value: getattr(value, "dest", value))
def test_a_number_has_a_range(name: str, action: argparse.Action, capsys: pytest.CaptureFixture[str]) -> None:
    """Zero of a count, and what is no number."""
    assert isinstance(action.type, (Whole, Real))
    option = action.option_strings[0]
    configs = ["configs/preference/dpo_tiny.py"] if name in ("rows", "scaling") else []
    for text in ("-1", "nan", "many", *(["0"] if isinstance(action.type, Whole) else [])):
        with pytest.raises(SystemExit) as left:
            main(["bench", name, *configs, f"{option}={text}"])
        assert left.value.code == 2
        said = capsys.readouterr().err
        assert f"argument {option}: must " in said or f"argument {option}: a" in said


def test_numbers_are_read_and_ends_of_ranges_allowed() -> None:
    assert [Whole(2)("2"), Whole()("1000000")] == [2, 1_000_000]
    assert [Real(0.0, 1.0)(text) for text in ("0", "1", "0.25")] == [0.0, 1.0, 0.25]
    with pytest.raises(argparse.ArgumentTypeError, match="at most 2"):
        Whole()(str(2**53 + 1))
    with pytest.raises(argparse.ArgumentTypeError, match="is 0 in fp32"):
        Real(0.0, 1.0)("1e-300")


TINY = "configs/preference/dpo_tiny.py"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("attention --trees pairs --tokens 256", "up to 600 tokens"),
        ("attention --trees answers --tokens 487 --visits", "up to 488 tokens"),
        ("fit --groups 24 --accumulate 2", "must be a multiple of 16"),
        ("games --seeds 2", "--loop-seeds 3"),
        (f"rows {TINY} --batch-size 3 --groups 2", "must be a multiple of --groups 2"),
        (f"rows {TINY} configs/quickstart.py", "its pairs are sampled"),
        (f"scaling {TINY} --topologies v5p:2x2x1 --fsdp 3", "--fsdp 3"),
        (f"scaling {TINY} --topologies v5p:2x2x1,v5p:2x3x1", "must be even"),
        (f"scaling {TINY} --topologies v5p:2x2x2 --plot traffic.txt", ".svg or .png"),
        (f"scaling {TINY} --topologies v5p:2x2x2 --plot nowhere/traffic.svg", "there is no folder nowhere"),
    ],
)
def test_numbers_that_do_not_go_together(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *line.split()]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert "Traceback" not in told.err
    assert told.out == ""
