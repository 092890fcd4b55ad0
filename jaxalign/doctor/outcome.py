"""What a check says: whether all is well, the numbers it measured, and for what is not well the fix in words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxalign.errors import JaxalignError

Status = Literal["ok", "skipped", "warning", "finding"]
Measured = Mapping[str, float | int | str | list[str]]


@dataclass(frozen=True)
class Outcome:
    """One line of the report. Units stand in the names of `measured`; `fix` says what to do, or why it was skipped."""

    check: str
    status: Status
    measured: Measured = field(default_factory=dict)
    fix: str = ""


class NotHere(JaxalignError):
    """A check that does not apply, or cannot be made on this machine; says why."""


class Findings(JaxalignError):
    """The doctor found something that will spoil the run."""

    exit_code = 7


def judged(check: str, measured: Measured, problems: Iterable[str], otherwise: str = "") -> Outcome:
    """A finding with the fixes of its problems where there are any, else ok (or a warning, if `otherwise` says one)."""
    if fix := "; ".join(problems):
        return Outcome(check, "finding", measured, fix)
    return Outcome(check, "warning" if otherwise else "ok", measured, otherwise)
