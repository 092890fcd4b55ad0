"""Settings overridden from the command line: text to values, and refusals that name what was meant."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_experiment import LEAVES, Everything, Mode, refused
from made_values import VALUES, few, number

from jaxalign.config.load import flatten, override
from jaxalign.config.overrides import Leaf, read
from jaxalign.config.resolved import dumps
from jaxalign.config.settings import mismatch, parse, show
from jaxalign.errors import ConfigError


def test_every_leaf_overridden_with_its_own_text_is_the_identity() -> None:
    experiment = Everything()
    for path, leaf in LEAVES.items():
        for args in ([f"--{path}={show(leaf.value)}"], [f"--{path}", show(leaf.value)]):
            assert override(experiment, args) == experiment
    everything = [f"--{path}={show(leaf.value)}" for path, leaf in LEAVES.items()]
    assert dumps(override(experiment, everything)) == dumps(experiment)


@few
@given(st.data())
def test_any_value_survives_as_text(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(VALUES)))
    value = data.draw(VALUES[path])
    changed = flatten(override(Everything(), [f"--{path}={show(value)}"]))
    assert changed[path].value == value
    assert type(changed[path].value) is type(value)
    assert {name: leaf.value for name, leaf in changed.items() if name != path} == {
        name: leaf.value for name, leaf in LEAVES.items() if name != path
    }


@few
@given(st.none() | st.booleans() | st.integers() | number | st.text() | st.tuples(st.integers(), st.text()))
def test_python_repr_is_read(value: Any) -> None:
    read_back = parse(repr(value), type(value) if value is not None else None)
    assert read_back == value


@few
@given(
    st.sampled_from(sorted(LEAVES)),
    st.text() | st.sampled_from(["nan", "-inf", "[", "(1,", "{}", "(((", "1e999", "\0"]),
)
def test_text_is_refused_or_gives_what_the_annotation_allows(path: str, typed: str) -> None:
    annotation = LEAVES[path].annotation
    try:
        value = parse(typed, annotation)
    except ValueError as error:
        assert str(error).startswith("expected ")  # noqa: PT017
    else:
        assert mismatch(value, annotation) is None


@pytest.mark.parametrize(
    ("args", "path", "value"),
    [
        (["--rate", "1e-5"], "rate", 1e-5),
        (["--rate", "-3"], "rate", -3.0),
        (["--rate=2"], "rate", 2.0),
        (["--steps", "-4"], "steps", -4),
        (["--steps", "1_000"], "steps", 1000),
        (["--on", "False"], "on", False),
        (["--name=a=b"], "name", "a=b"),
        (["--name", ""], "name", ""),
        (["--name", "'none'"], "name", "none"),
        (["--name", "it's"], "name", "it's"),
        (["--name=--x"], "name", "--x"),
        (["--maybe", "none"], "maybe", None),
        (["--maybe", "3"], "maybe", 3),
        (["--loss.label", "none"], "loss.label", None),
        (["--loss.label", '"none"'], "loss.label", "none"),
        (["--either", "0.5"], "either", 0.5),
        (["--either", "'0.5'"], "either", "0.5"),
        (["--mode", "SLOW"], "mode", Mode.SLOW),
        (["--remat", "2"], "remat", 2),
        (["--folder", "~/x y"], "folder", Path("~/x y")),
        (["--sizes", "1,2,3"], "sizes", (1, 2, 3)),
        (["--sizes", "7"], "sizes", (7,)),
        (["--sizes", "7,"], "sizes", (7,)),
        (["--sizes", "()"], "sizes", ()),
        (["--sizes", "[1, 2]"], "sizes", (1, 2)),
        (["--optim.betas", "0,1"], "optim.betas", (0.0, 1.0)),
        (["--optim.betas", "(0, 1)"], "optim.betas", (0.0, 1.0)),
        (["--optim.clip", "inf"], "optim.clip", math.inf),
        (["--words", "a, b"], "words", ("a", "b")),
        (["--words", "'a,b','c'"], "words", ("a,b", "c")),
        (["--grid", "((1, 2), (3, 4.5))"], "grid", ((1, 2.0), (3, 4.5))),
        (["--limits", "{'kl': 2}"], "limits", {"kl": 2.0}),
        (["--levels", "1,-inf"], "levels", (1.0, -math.inf)),
        (["--modes", "FAST,SLOW"], "modes", (Mode.FAST, Mode.SLOW)),
        (["--paths", "a,b/c"], "paths", (Path("a"), Path("b/c"))),
        (["--items", "4,5"], "items", [4, 5]),
        (["--anything", "(1, 'x')"], "anything", (1, "x")),
        (["--anything", "text"], "anything", "text"),
        (["--evals.2.resamples", "9"], "evals.2.resamples", 9),
        (["--named.short.resamples", "9"], "named.short.resamples", 9),
    ],
)
def test_text_to_value(args: list[str], path: str, value: Any) -> None:
    found = flatten(override(Everything(), args))[path].value
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("path", "typed", "wanted"),
    [
        ("optim.schedule.peak", "abc", "a float"),
        ("rate", "true", "a float"),
        ("rate", "nan", "a finite float"),
        ("rate", "1e999", "a finite float"),
        ("rate", "10" * 400, "a finite float"),
        ("optim.clip", "nan", "a finite float or inf"),
        ("steps", "1.0", "an int"),
        ("steps", "1e3", "an int"),
        ("steps", "true", "an int"),
        ("steps", "", "an int"),
        ("steps", "9" * 5000, "an int"),
        ("on", "1", "true or false"),
        ("maybe", "x", "an int or none"),
        ("mode", "fast", "one of FAST, SLOW"),
        ("remat", "half", "one of none, full, 2"),
        ("sizes", "1,a", "a tuple[int, ...]"),
        ("sizes", "1,,2", "a tuple[int, ...]"),
        ("sizes", "", "a tuple[int, ...]"),
        ("optim.betas", "1", "a tuple[float, float]"),
        ("optim.betas", "1,2,3", "a tuple[float, float]"),
        ("optim.betas", "(0.9, True)", "a tuple[float, float]"),
        ("grid", "1,2", "a tuple[tuple[int, float], ...]"),
        ("limits", "kl=3", "a Mapping[str, float]"),
        ("no_evals", "(1,)", "a tuple[Eval, ...]"),
    ],
)
def test_ill_typed_text_is_refused(path: str, typed: str, wanted: str) -> None:
    (line,) = refused(f"--{path}={typed}")
    assert line.startswith(f"{path}: expected {wanted}, got ")
    assert len(line) < 160


def test_refusal_reads_as_in_the_manual() -> None:
    assert refused("--optim.schedule.peak", "abc") == ['optim.schedule.peak: expected a float, got "abc"']


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optim.schedule.peek", "--optim.schedule.peak"),
        ("schedule.peak", "--optim.schedule.peak"),
        ("peak", "--optim.schedule.peak"),
        ("warm_up", "--optim.schedule.warmup"),
        ("evals.7.resamples", "--evals.0.resamples"),
        ("loss-eta", "--loss.eta"),
        ("absent.betas", "--optim.betas"),
    ],
)
def test_unknown_names_meet_the_nearest(typed: str, meant: str) -> None:
    (line,) = refused(f"--{typed}", "1")
    assert line.startswith(f"{typed}: unknown option; nearest: ")
    assert meant in line


def test_a_component_that_lies_deeper_is_shown_where_it_lies() -> None:
    """What was an option once may be nowhere near: its component is."""
    (line,) = refused("--schedule.cooldown", "1")
    assert line.endswith("schedule is optim.schedule (--optim.schedule.warmup, --optim.schedule.peak)")
    (line,) = refused("--loss.cooldown", "1")
    assert " is " not in line


def test_unknown_name_near_nothing_points_to_help() -> None:
    assert refused("--qqqqqqqq", "1") == ["qqqqqqqq: unknown option; --help lists all"]


@pytest.mark.parametrize("path", ["loss", "evals", "evals.0", "named", "optim.schedule"])
def test_components_are_chosen_in_the_file(path: str) -> None:
    (line,) = refused(f"--{path}", "Hinge")
    assert line.startswith(f"{path}: ")
    assert "is a component, not a value" in line
    assert "edit or fork the config file" in line
    assert f"--{path}." in line


def test_absent_component_is_refused_but_stays_none() -> None:
    assert refused("--absent", "Descent") == ['absent: expected a Descent or none, got "Descent"']
    assert override(Everything(), ["--absent", "none"]) == Everything()


def test_all_problems_at_once() -> None:
    lines = refused(
        "stray", "--steps", "x", "--on", "--loss.eat=1", "--rate=1", "--rate", "2", "--loss", "y", "-k", "--", "--=3"
    )
    assert [line.partition(":")[0] for line in lines[1:6]] == ["steps", "on", "loss.eat", "rate", "loss"]
    assert lines[0].startswith('"stray" belongs to no option')
    assert lines[2] == "on: value missing; true or false must follow"
    assert lines[4] == "rate: given twice"
    assert lines[6].startswith('"-k" belongs to no option')
    assert [line.partition(":")[0] for line in lines[7:]] == ["--", "--=3"]


def test_an_unknown_option_does_not_orphan_its_value() -> None:
    assert len(refused("--nosuch", "3", "--on", "true")) == 1


def test_constructor_refusals_carry_the_path() -> None:
    assert refused("--optim.schedule.warmup", "5000") == [
        "optim.schedule: ValueError: warmup is longer than any run",
    ]


def test_untouched_parts_are_the_same_objects() -> None:
    before = Everything()
    after = override(before, ["--loss.eta", "7"])
    assert after.optim is before.optim
    assert after.evals is before.evals
    assert before == Everything()
    assert override(before, []) is before


def test_nothing_typed_is_executed(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for path in LEAVES:
        for typed in (f"open({str(trap)!r}, 'w')", f"(open({str(trap)!r}, 'w'),)", f"{{open({str(trap)!r}, 'w')}}"):
            try:
                override(Everything(), [f"--{path}={typed}"])
            except ConfigError:
                continue
    assert not trap.exists()


def test_read_returns_values_by_path() -> None:
    assert read(["--a.b=1"], {"a.b": Leaf(0, int)}, {}) == ({"a.b": 1}, [])
