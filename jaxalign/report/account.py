"""What the files of a run say, as far as they are there and whole. Nothing of it needs a device or a model.

A part that is missing or damaged takes nothing else with it: it is empty here, and `problems` say why.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxalign.errors import DataError, JaxalignError, first_line
from jaxalign.evaluate import Votes
from jaxalign.experiment import anchor_of
from jaxalign.reopen import Run, reopen
from jaxalign.report.samples import Sample, samples_of, votes_in
from jaxalign.storage import durable, twice
from jaxalign.storage.pinned import Pinned
from jaxalign.storage.record import read_metrics, read_perf, read_summary

T = TypeVar("T")

PLACE = ("iteration", "phase", "step")
"""Keys of a line that say where it was measured; all others are metrics."""


@dataclass(frozen=True)
class Account:
    """A run by its files. `finished` iterations of `iterations` are complete; the anchor of each of `swaps` is another
    than that of the iteration before; a step takes `period` iterations."""

    name: str
    path: Path
    config: Mapping[str, Any]
    pinned: Pinned | None
    finished: int
    iterations: int
    period: int
    swaps: tuple[int, ...]
    metrics: tuple[dict[str, Any], ...]
    perf: tuple[dict[str, Any], ...]
    summary: Mapping[str, Any] | None
    samples: tuple[Sample, ...]
    problems: tuple[str, ...]

    @property
    def status(self) -> str:
        """How far it has come, for a person."""
        if not self.config:
            return "Its config is not there, or damaged; how far it has come is not known."
        if self.summary is not None:
            return f"Finished: {self.iterations} of {self.iterations} iterations."
        done = f"{self.finished} of {self.iterations} iterations are complete"
        if not self.metrics and not self.finished:
            return f"Not begun: {done}."
        return f"Not finished: {done}. What there is so far is shown."


def read(name: str, path: Path, config: str | None = None) -> Account:
    """The run at `path`, called `name`; `config` as for `reopen`."""
    problems: list[str] = []

    def tried(make: Callable[[], T], otherwise: T) -> T:
        try:
            return make()
        except JaxalignError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{error.filename or path}: {error.strerror or first_line(error)}")
        return otherwise

    nothing = tuple[dict[str, Any], ...]()
    run: Run | None = tried(lambda: reopen(path, config), None)
    metrics = tried(lambda: numbers(read_metrics(path), path / "metrics.jsonl"), nothing)
    perf = tried(lambda: numbers(read_perf(path), path / "perf.jsonl"), nothing)
    there = twice.there(durable.absolute(path) / "summary.json")
    summary: Mapping[str, Any] | None = (
        tried(lambda: whole(read_summary(path), path / "summary.json"), None) if there else None
    )
    if run is None:
        return Account(name, path, {}, None, 0, 0, 1, (), metrics, perf, summary, (), tuple(problems))
    finished = tried(run.directory.finished, 0)
    pinned: Pinned | None = tried(lambda: run.pinned, None)
    swaps = tried(lambda: tuple(swaps_of(run, finished)), tuple[int, ...]())
    votes: Votes | None = tried(lambda: votes_in(run.directory), None)
    samples = tried(lambda: samples_of(run.directory, votes), tuple[Sample, ...]())
    period = tried(lambda: run.step_rule.period, 1)
    iterations = run.directory.config.get("iterations")
    if not isinstance(iterations, int):
        problems.append(f"{path / 'config.json'}: names no number of iterations; another version made this run")
        iterations = finished
    return Account(
        name,
        path,
        run.directory.config,
        pinned,
        finished,
        iterations,
        period,
        swaps,
        metrics,
        perf,
        summary,
        samples,
        tuple(dict.fromkeys(problems)),
    )


def numbers(lines: Sequence[Mapping[str, Any]], file: Path) -> tuple[dict[str, Any], ...]:
    """Lines of a record with their metrics as numbers: JSON knows no NaN or infinity. DataError for one that is none,
    and for a place that no run has."""
    try:
        found = [{name: each if name in PLACE else float(each) for name, each in line.items()} for line in lines]
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: damaged ({error})") from error
    for line in found:
        iteration, phase, step = (line[name] for name in PLACE)
        if (
            not (iteration == "initial" or isinstance(iteration, int))
            or not isinstance(step, int)
            or type(phase) is not str
        ):
            raise DataError(f"{file}: damaged (no run measures at {iteration!r}, {phase!r}, {step!r})")
    return tuple(found)


def whole(summary: Mapping[str, Any], file: Path) -> Mapping[str, Any]:
    """The summary, if what it says of metrics and win rates is numbers. DataError where it is not."""
    try:
        for name in ("evals", "fits"):
            np.array([*summary.get(name, {}).values()], np.float64)
        float(summary.get("peak_memory_gib", 0.0))
        if rates := summary.get("win_rates"):
            count = len(rates["policies"])
            np.array(rates["row_beats_column"], np.float64).reshape(count, count)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: damaged ({error}); the command that made the run makes it again") from error
    return summary


def swaps_of(run: Run, finished: int) -> Iterator[int]:
    """Iterations that are complete, or the one under way, whose anchor is another than that of the one before."""
    begun = range(min(finished + 1, run.experiment.iterations))
    anchors = [anchor_of(run.experiment, run.directory, iteration) for iteration in begun]
    for iteration, (before, now) in enumerate(itertools.pairwise(anchors), start=1):
        if before != now:
            yield iteration
