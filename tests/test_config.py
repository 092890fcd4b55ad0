"""Config files, overrides, checks, dumps and help, on an experiment made of every kind of setting."""

import dataclasses
import enum
import json
import math
import re
import string
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxalign import config
from jaxalign.errors import ConfigError
from jaxalign.overrides import Leaf, read
from jaxalign.settings import Unbounded, mismatch, name_of, parse, show


class Mode(enum.Enum):
    FAST = 1
    SLOW = 2


class Loss(Protocol):
    needs: ClassVar[tuple[str, ...]]

    def __call__(self, logps: Any) -> Any: ...


class Eval(Protocol):
    def measure(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class Squared:
    """Squared loss.

    A second paragraph that help leaves out.
    """

    eta: float = 0.1
    """weight of the KL,
    in 1/nats"""
    label: str | None = None
    needs: ClassVar[tuple[str, ...]] = ("last",)

    def __call__(self, logps: Any) -> Any:
        return logps

    def problems(self) -> Iterable[str]:
        if self.eta <= 0:
            yield f"eta must be positive, got {self.eta}"


@dataclasses.dataclass(frozen=True)
class Hinge(Squared):
    eta: float = 1.0
    slope: float = 2.0
    """of the hinge"""


@dataclasses.dataclass(frozen=True)
class WinRate:
    resamples: int = 100
    """bootstrap resamples"""

    def measure(self) -> float:
        return 0.0


@dataclasses.dataclass(frozen=True)
class Nothing:
    def measure(self) -> float:
        return 0.0


@dataclasses.dataclass(frozen=True)
class Schedule:
    warmup: int = 10
    peak: float = 1e-3

    def __post_init__(self) -> None:
        if self.warmup > 1000:
            raise ValueError("warmup is longer than any run")


@dataclasses.dataclass(frozen=True)
class Descent:
    schedule: Schedule = Schedule()
    betas: tuple[float, float] = (0.9, 0.95)
    clip: Unbounded = math.inf


@dataclasses.dataclass(frozen=True)
class Everything:
    """Every kind of setting at once."""

    loss: Loss = Squared()
    optim: Descent = Descent()
    evals: tuple[Eval, ...] = (WinRate(), Nothing(), WinRate(5))
    named: Mapping[str, Eval] = dataclasses.field(default_factory=lambda: {"short": WinRate(1)})
    absent: Descent | None = None
    no_evals: tuple[Eval, ...] = ()
    steps: int = 3
    """how long"""
    rate: float = 0.5
    on: bool = True
    name: str = "plain"
    maybe: int | None = None
    either: float | str = "auto"
    mode: Mode = Mode.FAST
    remat: Literal["none", "full", 2] = "none"
    folder: Path = Path("runs/x")
    sizes: tuple[int, ...] = (1, 2)
    words: tuple[str, ...] = ("a,b", "")
    limits: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"kl": 1.0})
    grid: tuple[tuple[int, float], ...] = ((1, 0.5),)
    levels: Sequence[Unbounded] = (1.0, math.inf)
    modes: tuple[Mode, ...] = (Mode.SLOW,)
    paths: tuple[Path, ...] = (Path("a"),)
    items: list[int] = dataclasses.field(default_factory=lambda: [1])
    anything: Any = None
    free: dict = dataclasses.field(default_factory=dict)

    def problems(self) -> Iterable[str]:
        if self.steps > 10 and isinstance(self.loss, Squared) and self.loss.eta > 10:
            yield "steps and loss.eta are both large"


few = settings(max_examples=25, deadline=None)

LEAVES = config.flatten(Everything())
text = st.text(alphabet=st.characters(exclude_categories=())) | st.sampled_from(
    ["none", "'none'", "true", "1", "1,2", ""]
)
number = st.floats(allow_nan=False, allow_infinity=False)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "loss.eta": number,
    "loss.label": st.none() | text,
    "optim.betas": st.tuples(number, number),
    "optim.clip": st.floats(allow_nan=False),
    "evals.2.resamples": st.integers(),
    "named.short.resamples": st.integers(),
    "steps": st.integers(),
    "on": st.booleans(),
    "name": text,
    "maybe": st.none() | st.integers(),
    "either": number | text,
    "mode": st.sampled_from(Mode),
    "remat": st.sampled_from(["none", "full", 2]),
    "folder": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map(Path),
    "sizes": st.lists(st.integers()).map(tuple),
    "words": st.lists(text).map(tuple),
    "limits": st.dictionaries(text, number),
    "grid": st.lists(st.tuples(st.integers(), number)).map(tuple),
    "levels": st.lists(st.floats(allow_nan=False)).map(tuple),
    "modes": st.lists(st.sampled_from(Mode)).map(tuple),
    "paths": st.lists(text.filter(lambda x: "\0" not in x).map(Path)).map(tuple),
    "items": st.lists(st.integers()),
    "free": st.dictionaries(text, st.integers() | text | st.none()),
}


def refusal(action: Callable[..., Any], *args: Any) -> list[str]:
    """Problems told by the ConfigError that the call must raise."""
    with pytest.raises(ConfigError) as caught:
        action(*args)
    lines = str(caught.value).splitlines()
    if len(lines) == 1:
        return lines
    assert lines[0] == f"{len(lines) - 1} problems"
    assert all(line.startswith("  ") for line in lines[1:])
    return [line.strip() for line in lines[1:]]


def refused(*args: str) -> list[str]:
    return refusal(config.override, Everything(), list(args))


# --------------------------------------------------------------------------------------------------------------
# The tree


def test_every_field_is_a_leaf_or_holds_leaves() -> None:
    def count(value: Any) -> int:
        if dataclasses.is_dataclass(value):
            return sum(count(getattr(value, field.name)) for field in dataclasses.fields(value))
        if isinstance(value, tuple | list) and any(map(dataclasses.is_dataclass, value)):
            return sum(map(count, value))
        if isinstance(value, dict) and any(map(dataclasses.is_dataclass, value.values())):
            return sum(map(count, value.values()))
        return 1

    assert len(LEAVES) == count(Everything())
    assert {"loss.eta", "optim.schedule.warmup", "evals.2.resamples", "named.short.resamples", "no_evals"} <= set(
        LEAVES
    )


def test_leaves_have_value_annotation_and_description() -> None:
    assert LEAVES["loss.eta"] == Leaf(0.1, float, "weight of the KL, in 1/nats")
    assert LEAVES["evals.0.resamples"] == Leaf(100, int, "bootstrap resamples")
    assert LEAVES["optim.clip"].annotation == Unbounded
    hinge = config.flatten(Everything(loss=Hinge()))
    assert hinge["loss.eta"].doc == LEAVES["loss.eta"].doc
    assert hinge["loss.slope"].doc == "of the hinge"
    assert hinge["loss.eta"].value == 1.0


def test_description_is_empty_without_source() -> None:
    made = dataclasses.make_dataclass("Made", [("size", int, 3)], frozen=True)
    assert config.flatten(made()) == {"size": Leaf(3, int, "")}
    assert "--size int = 3" in config.help_text(made(), "nowhere.py")


def test_paths_that_collide_are_refused() -> None:
    wrong = Everything(named={"a": WinRate(), "a.resamples": WinRate()})
    assert "named.a.resamples: two settings have this path" in refusal(config.flatten, wrong)[0]


def test_unresolvable_annotation_names_the_class() -> None:
    made = dataclasses.make_dataclass("Made", [("size", "Unknown", 3)], frozen=True)
    assert re.search(r"Made: an annotation cannot be resolved: .*Unknown", refusal(config.flatten, made())[0])


# --------------------------------------------------------------------------------------------------------------
# Overrides


def test_every_leaf_overridden_with_its_own_text_is_the_identity() -> None:
    experiment = Everything()
    for path, leaf in LEAVES.items():
        for args in ([f"--{path}={show(leaf.value)}"], [f"--{path}", show(leaf.value)]):
            assert config.override(experiment, args) == experiment
    everything = [f"--{path}={show(leaf.value)}" for path, leaf in LEAVES.items()]
    assert config.dumps(config.override(experiment, everything)) == config.dumps(experiment)


@few
@given(st.data())
def test_any_value_survives_as_text(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(VALUES)))
    value = data.draw(VALUES[path])
    changed = config.flatten(config.override(Everything(), [f"--{path}={show(value)}"]))
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
    found = config.flatten(config.override(Everything(), args))[path].value
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
    assert config.override(Everything(), ["--absent", "none"]) == Everything()


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
    after = config.override(before, ["--loss.eta", "7"])
    assert after.optim is before.optim
    assert after.evals is before.evals
    assert before == Everything()
    assert config.override(before, []) is before


def test_nothing_typed_is_executed(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for path in LEAVES:
        for typed in (f"open({str(trap)!r}, 'w')", f"(open({str(trap)!r}, 'w'),)", f"{{open({str(trap)!r}, 'w')}}"):
            try:
                config.override(Everything(), [f"--{path}={typed}"])
            except ConfigError:
                continue
    assert not trap.exists()


def test_read_returns_values_by_path() -> None:
    assert read(["--a.b=1"], {"a.b": Leaf(0, int)}, {}) == {"a.b": 1}


# --------------------------------------------------------------------------------------------------------------
# Checks


def test_valid_experiment_passes() -> None:
    config.validate(Everything())
    config.validate(Everything(rate=1))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"rate": "abc"}, 'rate: expected a float, got "abc"'),
        ({"rate": True}, "rate: expected a float, got true"),
        ({"rate": math.nan}, "rate: expected a finite float, got nan"),
        ({"rate": 10**400}, "rate: expected a float, got 1000"),
        ({"optim": Descent(clip=math.nan)}, "optim.clip: expected a finite float or inf, got nan"),
        ({"optim": Descent(betas=(0.9, math.inf))}, "optim.betas: expected a tuple[float, float], got (0.9, 1e999)"),
        ({"optim": Descent(betas=[0.9, 0.9])}, "optim.betas: expected a tuple[float, float], got [0.9, 0.9]"),  # type: ignore[arg-type]
        ({"steps": 2.0}, "steps: expected an int, got 2.0"),
        ({"steps": False}, "steps: expected an int, got false"),
        ({"mode": "FAST"}, 'mode: expected one of FAST, SLOW, got "FAST"'),
        ({"remat": 2.0}, "remat: expected one of none, full, 2, got 2.0"),
        ({"folder": "runs"}, 'folder: expected a path, got "runs"'),
        ({"words": "ab"}, 'words: expected a tuple[str, ...], got "ab"'),
        ({"levels": "ab"}, 'levels: expected a Sequence[float or inf], got "ab"'),
        ({"limits": {1: 2.0}}, "limits: expected a Mapping[str, float], got {1: 2.0}"),
        ({"optim": Squared()}, "optim: expected a Descent, got Squared(…)"),
        ({"absent": Squared()}, "absent: expected a Descent or none, got Squared(…)"),
        ({"loss": Descent()}, "loss: expected a Loss, got Descent(…), which lacks __call__, needs"),
        ({"loss": len}, "loss: expected a Loss, got <built-in function len>"),
        ({"evals": (WinRate(), Squared())}, "evals.1: expected an Eval, got Squared(…), which lacks measure"),
        ({"evals": [WinRate()]}, "evals: expected a tuple[Eval, ...], got a list of 1"),
        ({"evals": (WinRate(), 3)}, "evals.1: expected an Eval, got 3"),
        ({"steps": WinRate()}, "steps: expected an int, got WinRate(…)"),
        ({"anything": object}, None),
        ({"anything": lambda: 0}, "anything: <function "),
        ({"anything": {1: 2, "1": 3}}, "anything: two keys of "),
        ({"loss": Squared(eta=-1.0)}, "loss: eta must be positive, got -1.0"),
        ({"loss": Squared(eta=11.0), "steps": 11}, "steps and loss.eta are both large"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], line: str | None) -> None:
    experiment = dataclasses.replace(Everything(), **change)
    if line is None:
        config.validate(experiment)
        return
    (found,) = refusal(config.validate, experiment)
    assert found.startswith(line)
    assert len(found) < 160


def test_all_faults_in_one_error() -> None:
    wrong = Everything(loss=Squared(eta=-1.0), steps="x", evals=(WinRate(1.5), 3))  # type: ignore[arg-type]
    assert [line.partition(":")[0] for line in refusal(config.validate, wrong)] == [
        "loss",
        "evals.0.resamples",
        "evals.1",
        "steps",
    ]


def test_components_must_be_frozen_and_cannot_own_the_word_type() -> None:
    loose = dataclasses.make_dataclass("Loose", [("size", int, 3)])
    typed = dataclasses.make_dataclass("Typed", [("type", int, 3)], frozen=True)
    assert refusal(config.validate, Everything(anything=loose()))[0].endswith("Loose is no frozen dataclass")
    assert "no setting can be called `type`" in refusal(config.validate, Everything(anything=typed()))[0]


def test_annotations_have_names() -> None:
    assert name_of(int | None) == "int or none"
    assert name_of(Callable[[int], float]) == "Callable[[int], float]"
    assert name_of(type[Squared]) == "type[Squared]"
    assert mismatch(len, Callable[[int], float]) is None
    assert mismatch(Hinge, type[Squared]) is None
    assert mismatch(WinRate, type[Squared]) is not None


# --------------------------------------------------------------------------------------------------------------
# Dumps


def test_dump_is_json_of_types_and_settings() -> None:
    dumped = config.dump(Everything())
    assert dumped["type"] == f"{__name__}:Everything"
    assert dumped["loss"] == {"type": f"{__name__}:Squared", "eta": 0.1, "label": None}
    assert dumped["evals"][1] == {"type": f"{__name__}:Nothing"}
    assert dumped["optim"]["clip"] == "inf"
    assert (dumped["mode"], dumped["folder"], dumped["modes"]) == ("FAST", "runs/x", ["SLOW"])
    assert json.loads(config.dumps(Everything())) == dumped
    assert config.dumps(Everything()).endswith("}\n")


@few
@given(st.data())
def test_dumps_tell_values_apart_and_nothing_else(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(set(VALUES) - {"limits", "free"})))
    one, other = (config.override(Everything(), [f"--{path}={show(data.draw(VALUES[path]))}"]) for _ in range(2))
    assert (config.dumps(one) == config.dumps(other)) or one != other
    assert bool(config.difference(config.dump(one), config.dump(other))) == (one != other)


def test_mappings_and_sets_dump_in_one_order() -> None:
    one = Everything(limits={"a": 1.0, "b": 2.0}, anything=frozenset(string.ascii_letters))
    other = Everything(limits={"b": 2.0, "a": 1.0}, anything=frozenset(reversed(string.ascii_letters)))
    assert config.dumps(one) == config.dumps(other)


def test_dumps_are_the_same_in_any_process(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    program = f"from jaxalign import config; print(config.dumps(config.load({str(file)!r})), end='')"
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            cwd=Path(config.__file__).parents[1],
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout == config.dumps(config.load(file)).encode()


SECRETS = ["hf_abcdefghijklmnop1234", "sk-abcdefghijklmnop1234", "Bearer abcdef123456", "https://me:pass@host/x"]


@pytest.mark.parametrize("secret", SECRETS)
def test_values_that_look_like_secrets_are_redacted(secret: str) -> None:
    experiment = Everything(name=f"x {secret}", words=(secret,), free={"k": secret}, anything=Path(secret))
    shown = config.dumps(experiment) + config.help_text(experiment, "nowhere.py")
    assert "abcdef" not in shown
    assert "pass@" not in shown
    assert "[redacted]" in shown


@pytest.mark.parametrize("name", ["token", "hf_token", "api_key", "apiKey", "password", "client_secret", "API-KEY"])
def test_values_under_secret_names_are_redacted(name: str) -> None:
    experiment = Everything(free={name: "hush", "inner": {name: ["hush"]}, f"{name}s": {"k": "hush"}})
    assert "hush" not in config.dumps(experiment)
    assert "hush" not in config.help_text(experiment, "nowhere.py")


@pytest.mark.parametrize("name", ["max_tokens", "eos_token", "tokenizer", "api_key_env", "token_file", "secretary"])
def test_names_that_only_resemble_secrets_are_kept(name: str) -> None:
    value: Any = 128 if name == "max_tokens" else "value"
    assert config.dump(Everything(free={name: value}))["free"] == {name: value}


# --------------------------------------------------------------------------------------------------------------
# Differences


def differences(now: Everything, ignore: tuple[str, ...] = ()) -> list[str]:
    run = json.loads(config.dumps(Everything()))
    return config.difference(run, config.dump(now), ignore)


def test_the_same_config_has_no_differences() -> None:
    assert differences(Everything()) == []
    assert differences(Everything(rate=0.5, loss=Squared(0.1))) == []


def test_differences_name_path_and_both_values() -> None:
    now = Everything(loss=Squared(eta=0.2), steps=4, evals=(WinRate(7), Nothing(), WinRate(5)), words=("c",))
    assert differences(now) == [
        "loss.eta: 0.1 in the run, 0.2 now",
        "evals.0.resamples: 100 in the run, 7 now",
        "steps: 3 in the run, 4 now",
        'words: ["a,b", ""] in the run, ["c"] now',
    ]
    assert differences(now, ignore=("loss", "evals.0.resamples", "steps")) == [
        'words: ["a,b", ""] in the run, ["c"] now'
    ]


def test_another_type_is_one_difference() -> None:
    assert differences(Everything(loss=Hinge())) == [f"loss: {__name__}:Squared in the run, {__name__}:Hinge now"]
    assert differences(Everything(absent=Descent())) == [f"absent: null in the run, {__name__}:Descent now"]
    assert differences(Everything(evals=(WinRate(), Nothing()))) == [
        f"evals.2: {__name__}:WinRate in the run, absent now"
    ]


def test_new_and_dropped_settings_are_differences() -> None:
    assert config.difference({"type": "a:B", "x": 1}, {"type": "a:B", "y": True}) == [
        "y: absent in the run, true now",
        "x: 1 in the run, absent now",
    ]
    assert config.difference({"x": 1}, {"x": True}) == ["x: 1 in the run, true now"]
    assert config.difference({"x": 1}, {"x": 1.0}) == []
    assert config.difference({"type": "a:B"}, {"type": "a:C"}) == ["experiment: a:B in the run, a:C now"]


# --------------------------------------------------------------------------------------------------------------
# Help


def test_help_mentions_every_leaf_and_component(tmp_path: Path) -> None:
    file = tmp_path / "lab.py"
    file.write_text(f'"""A lab note.\n\nOne\nparagraph.\n\n    as laid out\n    in lines\n\n{"word " * 60}\n"""\n')
    shown = config.help_text(Everything(name="n" * 300, words=("w" * 30,) * 20), file)
    assert max(map(len, shown.splitlines())) <= 100
    assert "\nA lab note.\n\nOne paragraph.\n\n    as laid out\n    in lines\n\nword word" in shown
    for path, leaf in LEAVES.items():
        assert f"  --{path} {name_of(leaf.annotation)} = " in shown
        assert leaf.doc in " ".join(shown.split())
    assert f"loss ({__name__}:Squared)\n  Squared loss.\n  --loss.eta float = 0.1\n      weight of the KL" in shown
    assert f"evals.1 ({__name__}:Nothing)" in shown
    assert "second paragraph" not in shown


# --------------------------------------------------------------------------------------------------------------
# Files

OWN = '''"""An experiment of its own."""
from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Part:
    """A part."""

    size: int = 3
    """how large"""


@dataclasses.dataclass(frozen=True)
class Whole:
    part: Part = Part()
    name: str = "own"


experiment = Whole()
'''

LOOSE = "import dataclasses\n@dataclasses.dataclass\nclass Loose:\n    size: int = 3\nexperiment = Loose()"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def _write(name: str, source: str | bytes) -> Path:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_bytes(source.encode() if isinstance(source, str) else source)
        return file

    return _write


def test_a_file_defines_its_own_classes(write: Callable[..., Path]) -> None:
    experiment = config.load(write("own.py", OWN))
    config.validate(experiment)
    assert config.flatten(experiment)["part.size"] == Leaf(3, int, "how large")
    assert config.dump(experiment)["part"]["type"] == "own:Part"
    assert config.override(experiment, ["--part.size", "4"]).part.size == 4
    assert "An experiment of its own." in config.help_text(experiment, write("own.py", OWN))


def test_forks_import_their_neighbours(write: Callable[..., Path], tmp_path: Path) -> None:
    write("own.py", OWN)
    write(
        "fork.py",
        "import dataclasses\nfrom own import experiment as base\nexperiment = dataclasses.replace(base, name='f')",
    )
    fork = config.load(write("second.py", "from fork import experiment"))
    config.validate(fork)
    assert fork.name == "f"
    assert config.dump(fork)["type"] == "own:Whole"
    assert config.difference(config.dump(config.load(tmp_path / "own.py")), config.dump(fork)) == [
        'name: "own" in the run, "f" now'
    ]
    assert config.flatten(fork)["part.size"].doc == "how large"
    assert not {"own", "fork", "second"} & set(sys.modules)
    assert not list(tmp_path.rglob("__pycache__"))


def test_configs_of_one_name_stay_apart(write: Callable[..., Path]) -> None:
    loaded = []
    for folder, size in (("one", 1), ("two", 2), ("one", 3)):
        write(f"{folder}/own.py", OWN.replace("size: int = 3", f"size: int = {size}"))
        loaded.append(config.load(write(f"{folder}/fork.py", "from own import experiment")))
    assert [item.part.size for item in loaded] == [1, 2, 3]
    assert [config.flatten(item)["part.size"].annotation for item in loaded] == [int, int, int]


def test_neighbours_never_hide_the_standard_library(write: Callable[..., Path]) -> None:
    write("colorsys.py", "raise RuntimeError('wrong module')")
    assert config.load(write("own.py", f"import colorsys\n{OWN.replace('from __future__ import annotations', '')}"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = (1,\ny = 2", r"bad\.py:\d+: SyntaxError: "),
        ("\n\n1 / 0", r"bad\.py:3: ZeroDivisionError: division by zero$"),
        ("import nosuchmodule", r"bad\.py:1: ModuleNotFoundError: No module named 'nosuchmodule'$"),
        ("import json\n\njson.loads('{')", r"bad\.py:3: JSONDecodeError: "),
        ("raise SystemExit(3)", r"bad\.py:1: SystemExit: 3$"),
        ("from jaxalign.errors import ConfigError\nraise ConfigError('no model')", r"bad\.py:2: no model$"),
        ("from bad import experiment", r"bad\.py:1: ImportError: cannot import name 'experiment'"),
        ("\0", r"bad\.py"),
        (b"x = '\xff'", r"bad\.py.*utf-8"),
        ("", r"bad\.py: defines no `experiment`$"),
        (OWN.replace("experiment =", "exp ="), r"bad\.py: defines no `experiment`; rename `exp`\?$"),
        (f"{OWN}\nexperiment = Whole", r"must be an instance of a frozen dataclass, not the class Whole$"),
        ("experiment = {'a': 1}", r"must be an instance of a frozen dataclass, not {\"a\": 1}$"),
        (LOOSE, r"`experiment` is a bad:Loose, which is no frozen dataclass$"),
    ],
)
def test_broken_files_are_named_with_their_line(write: Callable[..., Path], source: str | bytes, message: str) -> None:
    before = set(sys.modules), list(sys.meta_path)
    (line, *_) = refusal(config.load, write("bad.py", source))
    assert re.search(message, line)
    assert not {name for name in set(sys.modules) - before[0] if name.startswith("bad")} or "experiment" in line
    assert sys.meta_path == before[1]


def test_an_error_in_a_neighbour_names_the_neighbour(write: Callable[..., Path]) -> None:
    write("base.py", "\n1 / 0")
    assert re.search(r"base\.py:2: ZeroDivisionError", refusal(config.load, write("fork.py", "import base"))[0])
    write("base.py", "\n1 +")
    assert re.search(r"base\.py:2: SyntaxError", refusal(config.load, write("fork.py", "import base"))[0])


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    assert refusal(config.load, tmp_path / "no.py") == [f"{tmp_path / 'no.py'}: no such config file"]
    assert refusal(config.load, tmp_path) == [f"{tmp_path}: is a folder, not a config file"]
