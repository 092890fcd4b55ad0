"""All checks there are, one after another, on an opened experiment."""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import jax

from jaxalign.doctor import checks
from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import NotHere, Outcome
from jaxalign.errors import JaxalignError, first_line
from jaxalign.progress import Progress


@runtime_checkable
class Check(Protocol):
    """Looks at an opened experiment. A frozen dataclass: its fields are the thresholds.

    Every module of `jaxalign.doctor.checks` defines one, `CHECK`. It may raise `NotHere` for what cannot be looked at
    on this machine or with this model; another JaxalignError counts as a finding.
    """

    def __call__(self, opened: Opened) -> Iterable[Outcome]: ...


def every_check() -> dict[str, Check]:
    """The checks by the names of their modules."""
    names = sorted(found.name for found in pkgutil.iter_modules(checks.__path__))
    return {name: importlib.import_module(f"{checks.__name__}.{name}").CHECK for name in names}


def examine(opened: Opened) -> list[Outcome]:
    """What all checks say; an error that a check ends with is a finding of its own, not the end."""
    found: list[Outcome] = []
    every = every_check()
    with Progress("doctor", len(every), "checks") as progress:
        for done, (name, check) in enumerate(every.items()):
            found.extend(outcomes(name, check, opened))
            progress(done + 1)
    return found


def outcomes(name: str, check: Check, opened: Opened) -> Iterator[Outcome]:
    """What a check finds. An error of the run is a finding, of a check that cannot be made here a skip."""
    title = name.replace("_", " ")
    try:
        yield from check(opened)
    except NotHere as error:
        yield Outcome(title, "skipped", {}, str(error))
    except JaxalignError as error:
        yield Outcome(title, "finding", {}, str(error))
    except jax.errors.JaxRuntimeError as error:  # the device ran out of memory, most of the time
        yield Outcome(title, "finding", {}, f"the device fails: {first_line(error)}")
