"""An experiment made of every kind of setting, a config file that defines its own, and what is said of wrong ones."""

import dataclasses
import enum
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import pytest

from jaxalign.config.load import flatten, override
from jaxalign.config.settings import Unbounded
from jaxalign.errors import ConfigError

HOME = __name__
"""The module that dumps name as the home of the classes below."""


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


LEAVES = flatten(Everything())


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
    return refusal(override, Everything(), list(args))
