"""Checks of experiments: every wrong setting is named, all in one error."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
from made_experiment import Descent, Everything, Hinge, Squared, WinRate, refusal

from jaxalign.config.load import validate
from jaxalign.config.settings import mismatch, name_of
from jaxalign.errors import ConfigError


def told(experiment: Everything) -> list[str]:
    """What is said of an experiment, nothing of a valid one."""
    try:
        validate(experiment)
    except ConfigError as error:
        return str(error).splitlines()
    return []


def test_valid_experiment_passes() -> None:
    assert told(Everything()) == []
    assert told(Everything(rate=1)) == []


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
        assert told(experiment) == []
        return
    (found,) = refusal(validate, experiment)
    assert found.startswith(line)
    assert len(found) < 160


def test_all_faults_in_one_error() -> None:
    wrong = Everything(loss=Squared(eta=-1.0), steps="x", evals=(WinRate(1.5), 3))  # type: ignore[arg-type]
    assert [line.partition(":")[0] for line in refusal(validate, wrong)] == [
        "loss",
        "evals.0.resamples",
        "evals.1",
        "steps",
    ]


def test_components_must_be_frozen_and_cannot_own_the_word_type() -> None:
    loose = dataclasses.make_dataclass("Loose", [("size", int, 3)])
    typed = dataclasses.make_dataclass("Typed", [("type", int, 3)], frozen=True)
    assert refusal(validate, Everything(anything=loose()))[0].endswith("Loose is no frozen dataclass")
    assert "no setting can be called `type`" in refusal(validate, Everything(anything=typed()))[0]


def test_annotations_have_names() -> None:
    assert name_of(int | None) == "int or none"
    assert name_of(Callable[[int], float]) == "Callable[[int], float]"
    assert name_of(type[Squared]) == "type[Squared]"
    assert mismatch(len, Callable[[int], float]) is None
    assert mismatch(Hinge, type[Squared]) is None
    assert mismatch(WinRate, type[Squared]) is not None
