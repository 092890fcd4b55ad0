"""An xprof trace of a few optimizer steps: what the devices and the host did in each, by name.

Steps are counted among those that this launch takes, from 0, whatever iteration they belong to: step 0 compiles, and a
run that continues at step 500 need not know that to trace the fourth step from there. In the trace each step is called
`fit` and carries its number of metrics.jsonl (`step_num`); operations carry the scopes of the program (policy, blocks,
attention, …). A trace ends with the fit in which it began.

Process 0 alone traces: its devices do what all others do, and one process writes what is written once.
"""

import contextlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
from etils import epath

from jaxalign.errors import ConfigError
from jaxalign.storage import durable


@dataclass(frozen=True)
class Window:
    """`count` steps of a launch, from number `start` on."""

    start: int
    count: int


def window(text: str) -> Window:
    """The window of `START:COUNT`, such as 3:2 for the fourth and the fifth step. ConfigError for anything else."""
    found = re.fullmatch(r"(\d+):(\d+)", text, re.ASCII)
    if found is None or int(found[2]) < 1:
        raise ConfigError(
            f"--profile {text}: expected START:COUNT, the first step to trace, counted from 0 in this launch, and how "
            "many steps, at least 1; such as 3:2"
        )
    return Window(int(found[1]), int(found[2]))


class Unprofiled:
    """Steps that nobody traces."""

    @contextlib.contextmanager
    def fit(self, settle: Callable[[], None]) -> Iterator[Callable[[int], contextlib.AbstractContextManager[None]]]:
        """Each step passes as it comes."""
        yield lambda step: contextlib.nullcontext()

    def close(self) -> None:
        """Nothing was asked for."""


UNPROFILED = Unprofiled()


class Profiler:
    """Traces the steps of `window` into `directory`; told of every step that the launch takes."""

    def __init__(self, window: Window, directory: epath.Path):
        self._window, self._directory = window, directory
        self._taken = 0
        self._draft: Path | None = None  # where the trace under way is written

    @contextlib.contextmanager
    def fit(self, settle: Callable[[], None]) -> Iterator[Callable[[int], contextlib.AbstractContextManager[None]]]:
        """Gives what a step of this fit is taken in. `settle` waits for the steps dispatched so far, so that a trace
        holds its own steps wholly and no others."""

        @contextlib.contextmanager
        def step(number: int) -> Iterator[None]:
            if self._taken == self._window.start:
                settle()
                self._begin()
            with jax.profiler.StepTraceAnnotation("fit", step_num=number):
                yield
            self._taken += 1
            if self._draft is not None and self._taken == self._window.start + self._window.count:
                settle()
                self._end(self._draft)

        try:
            yield step
        finally:
            if self._draft is not None:
                self._end(self._draft)

    def close(self) -> None:
        """Says so if the launch took too few steps to trace any."""
        if self._taken <= self._window.start:
            _say(f"nothing traced: this launch took {self._taken} steps, and {self._window.start} were to come first")

    def _begin(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # every call of a Python function: slow, and larger than all else
        local = durable.is_local(self._directory)
        self._draft = Path(self._directory) if local else Path(tempfile.mkdtemp(prefix="jaxalign-profile-"))
        jax.profiler.start_trace(self._draft, profiler_options=options)

    def _end(self, draft: Path) -> None:
        self._draft = None
        jax.profiler.stop_trace()
        if not durable.is_local(self._directory):  # XLA cannot write to a bucket
            _move(draft, self._directory)
        traced, count = self._taken - self._window.start, self._window.count
        short = "" if traced == count else "; the fit ended"
        _say(f"{traced} of {count} steps traced in {self._directory}{short}")


def _move(draft: Path, to: epath.Path) -> None:
    for path in (path for path in draft.rglob("*") if path.is_file()):
        place = to / path.relative_to(draft)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    shutil.rmtree(draft)


def _say(what: str) -> None:
    print(f"profile: {what}", file=sys.stderr, flush=True)
