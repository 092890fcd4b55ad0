"""What a person sees of a long loop: a bar on a terminal, plain lines now and then elsewhere."""

import io
import sys
import time
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Progress of a loop over `total` units: call it with the number done so far.

    `start` units were done before (by a run that this one resumes) and do not count in the rate. Shows something
    at once; a terminal gets a bar, anything else (`out` is no tty) a line at most every ten seconds and at the end.
    """

    def __init__(
        self, what: str, total: int, unit: str = "steps", start: int = 0, out: TextIO | io.TextIOBase | None = None
    ):
        self._what, self._total, self._unit, self._start = what, total, unit, start
        self._out: Any = sys.stderr if out is None else out
        self._done = self._told = start
        self._began = self._said = time.monotonic()
        self._bar: tqdm | None = None
        if self._out.isatty():
            self._bar = tqdm(
                desc=what, total=total, initial=start, unit=f" {unit}", file=self._out, dynamic_ncols=True, leave=True
            )
        else:
            self._say(f"{start}/{total} {unit}")

    def __call__(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(done - self._done)
        self._done = done
        if self._bar is None and time.monotonic() - self._said >= _SECONDS_BETWEEN_LINES:
            self._say(self._status())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Shows the last state."""
        if self._bar is not None:
            self._bar.close()
        elif self._done != self._told:
            self._say(self._status())

    def _status(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = (self._done - self._start) / seconds
        status = f"{self._done}/{self._total} {self._unit}, {rate:.3g} {self._unit}/s"
        if self._done >= self._total:
            return f"{status}, took {_clock(seconds)}"
        return f"{status}, ETA {_clock((self._total - self._done) / rate)}" if rate > 0 else status

    def _say(self, status: str) -> None:
        self._said, self._told = time.monotonic(), self._done
        print(f"{self._what}: {status}", file=self._out, flush=True)


class Unseen:
    """Progress that nobody is shown: that of all processes of a run but the first."""

    def __call__(self, done: int) -> None:
        """Process 0 shows it."""

    def __enter__(self) -> "Unseen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is shown."""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
