"""What shows a run elsewhere, beside its metrics.jsonl: a tracker, opened once a launch and told of each place once."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@dataclasses.dataclass(frozen=True)
class Line:
    """What a run records of one place, (iteration, phase, step).

    `nth` counts the places of the phase over all iterations, this one included: an axis for plots. `order` counts the
    places recorded before this one: it grows from line to line, over all launches of the run.
    """

    iteration: int | str
    phase: str
    step: int
    metrics: Mapping[str, float]
    nth: int
    order: int


@runtime_checkable
class Tracking(Protocol):
    """An open tracker: told of each place of the run once, by the launch that first comes to it."""

    def log(self, line: Line) -> None: ...
    def close(self) -> None: ...


@runtime_checkable
class Tracker(Protocol):
    """A service that shows a run beside metrics.jsonl. Process 0 opens it once a launch, before anything is computed,
    with the run directory and the resolved config; a JaxalignError refuses the launch."""

    def open(self, run_dir: os.PathLike[str], config: Mapping[str, Any]) -> Tracking: ...
